//! Start of a node: loads or makes the superblock, brings each origin's engine to the end of its log, and opens the core.
//! The production runtime and the simulator start nodes by this one path.

use lockstep_storage::id::{Epoch, Origin, Seq};
use lockstep_storage::image::{Image, ImageError};
use lockstep_storage::nvram::{Nvram, NvramError};
use lockstep_storage::partition::{Extent, SEGMENTS_DEFAULT};
use lockstep_storage::recovery::{Damage, Recovered, RecoveryError, highest_generation, recover};
use lockstep_storage::superblock::{ORIGINS_MAX, OriginEntry, PARTITIONS_AT, StoredRole, Superblock};

use crate::event::{Effect, Now};
use crate::node::Node;
use crate::plan::{NodePlan, OriginPlan};

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The device failed or holds something else.
    #[error(transparent)]
    Nvram(#[from] NvramError),
    /// An engine failed.
    #[error("origin {0}: {1}")]
    Image(Origin, ImageError),
    /// An origin needs its peer, or an operator.
    #[error("origin {0}: {1}")]
    Recovery(Origin, RecoveryError),
    /// What is configured does not fit what is stored.
    #[error("{0}")]
    Plan(String),
}

impl StartError {
    /// Has an engine found no space on its disk? With some it may be tried again.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(
            self,
            Self::Image(_, ImageError::NoSpace) | Self::Recovery(_, RecoveryError::Image(ImageError::NoSpace))
        )
    }
}

/// Where a start finds the engines of its origins.
pub trait Engines {
    /// The highest generation that there is of an origin, where there is any.
    ///
    /// # Errors
    /// When that cannot be told.
    fn newest(&mut self, origin: &Origin) -> Result<Option<u64>, ImageError>;

    /// Opens the engine of a generation, made where it is not there yet.
    ///
    /// # Errors
    /// The engine's.
    fn open(&mut self, origin: &Origin, generation: u64) -> Result<Image, ImageError>;

    /// Stands in the place of a generation whose files are damaged. They stay until it is retired.
    fn absent(&mut self, origin: &Origin, generation: u64) -> Image;

    /// A baseline took the place of every generation before this one: they go.
    ///
    /// # Errors
    /// When they cannot be removed.
    fn remove_before(&mut self, origin: &Origin, generation: u64) -> Result<(), ImageError>;
}

/// A node that may take events.
pub struct Started {
    /// The core.
    pub node: Node,
    /// Every origin's image.
    pub images: Vec<(Origin, Image)>,
    /// The core's first effects.
    pub effects: Vec<Effect>,
}

/// Bytes of NVRAM that a plan needs.
#[must_use]
pub fn region_len(plan: &NodePlan) -> u64 {
    PARTITIONS_AT + plan.origins.iter().map(|origin| origin.nvram_len).sum::<u64>()
}

/// Opens the node in `nvram`. `fresh_incarnation` names the region if it is new.
///
/// # Errors
/// When the device, an engine or the plan says no; nothing that a peer could still settle is given up.
pub fn start(
    nvram: &mut dyn Nvram,
    plan: &NodePlan,
    fresh_incarnation: u64,
    engines: &mut dyn Engines,
    now: Now,
) -> Result<Started, StartError> {
    let loaded = Superblock::load(nvram)?;
    let is_new = loaded.is_none();
    let (mut superblock, counter) = loaded.unwrap_or_else(|| (empty(plan, fresh_incarnation), 0));
    if superblock.node != plan.node {
        let text = format!("the NVRAM is that of {}, this node is {}", superblock.node, plan.node);
        return Err(StartError::Plan(text));
    }
    for origin in &plan.origins {
        add_origin(&mut superblock, plan, origin, nvram.len())?;
    }
    let mut images = Vec::new();
    let mut found = Vec::new();
    for entry in &mut superblock.origins {
        let origin = entry.origin.clone();
        let failed = |error| StartError::Image(origin.clone(), error);
        if is_new {
            entry.engine_generation = engines.newest(&origin).map_err(failed)?.unwrap_or(entry.engine_generation);
        }
        let (image, origin_found) = open_origin(nvram, entry, engines, is_new)?;
        let planned = plan.origins.iter().find(|planned| planned.origin == origin);
        settle_damage(entry, &origin_found, planned.is_some_and(|planned| planned.stream.is_some()))?;
        if origin_found.lost.is_none() && origin_found.damaged.is_none() {
            engines.remove_before(&origin, entry.engine_generation).map_err(failed)?;
        }
        images.push((origin, image));
        found.push(origin_found);
    }
    let counter = counter + 1;
    let (offset, bytes) = superblock.encode(counter)?;
    nvram.write(offset, &[bytes])?;
    nvram.persist()?;
    let mut effects = Vec::new();
    let node = Node::open(plan, superblock, counter, &found, now, &mut effects);
    Ok(Started { node, images, effects })
}

fn empty(plan: &NodePlan, incarnation: u64) -> Superblock {
    Superblock { node: plan.node.clone(), incarnation, origins: Vec::new() }
}

/// Gives a configured origin its partition, where it has none yet.
fn add_origin(
    superblock: &mut Superblock,
    plan: &NodePlan,
    origin: &OriginPlan,
    region_len: u64,
) -> Result<(), StartError> {
    if superblock.origin(&origin.origin).is_some() {
        return Ok(());
    }
    if superblock.origins.len() >= ORIGINS_MAX {
        return Err(StartError::Plan(format!("a node holds at most {ORIGINS_MAX} origins")));
    }
    let at = superblock.origins.iter().map(|o| o.partition.end()).max().unwrap_or(PARTITIONS_AT);
    let partition = Extent::new(at, origin.nvram_len, SEGMENTS_DEFAULT, plan.limits.record_len_max);
    let partition = partition.map_err(|e| StartError::Plan(format!("nvram of {}: {e}", origin.origin)))?;
    if partition.end() > region_len {
        let text = format!("the NVRAM region of {region_len} bytes has no room for the partition of {}", origin.origin);
        return Err(StartError::Plan(text));
    }
    let own = origin.origin == plan.node;
    superblock.origins.push(OriginEntry {
        origin: origin.origin.clone(),
        partition,
        role: if own { StoredRole::Source } else { StoredRole::Destination },
        epochs: Vec::new(),
        in_sync: false,
        peer_strict: false,
        peer_link_timeout_ms: 0,
        consistency_point: Seq::ZERO,
        engine_generation: 1,
        paused: false,
        generation_floor: 0,
        promoted: false,
        peer_incarnation: 0,
        lacks: Seq::ZERO,
        persisted: Seq::ZERO,
        lost: false,
        rebuild: false,
        damaged: false,
        fenced_by: Epoch::default(),
    });
    Ok(())
}

/// What a start finds of an origin.
#[derive(Debug, Default)]
pub struct Found {
    /// How far it is.
    pub recovered: Recovered,
    /// Why it cannot be used, where its log or its engine is gone: for the operator to decide.
    pub lost: Option<String>,
    /// Why there is nothing in the image of a destination that a baseline from its source would not bring.
    pub damaged: Option<String>,
    /// Sizes of the runs of records that are not trimmed.
    pub log_runs: Vec<(Seq, u64)>,
}

/// Opens an origin's engine and recovers it. Where its files are damaged another one stands in its place, in which there is
/// nothing (F10): a destination gets it all again, elsewhere the operator decides.
fn open_origin(
    nvram: &mut dyn Nvram,
    entry: &mut OriginEntry,
    engines: &mut dyn Engines,
    is_new: bool,
) -> Result<(Image, Found), StartError> {
    let (origin, engine_generation) = (entry.origin.clone(), entry.engine_generation);
    let opened = if entry.damaged {
        Err(ImageError::Corrupt("it was found so while the node ran".to_owned()))
    } else {
        engines.open(&origin, engine_generation)
    };
    let recovered = match opened {
        Ok(image) => recover_origin(nvram, entry, &image, is_new).map(|found| (image, found)),
        Err(error) => Err(StartError::Image(origin.clone(), error)),
    };
    let reason = match recovered {
        Err(
            StartError::Image(_, ImageError::Corrupt(reason))
            | StartError::Recovery(_, RecoveryError::Image(ImageError::Corrupt(reason))),
        ) => format!("its storage engine is damaged: {reason}"),
        recovered => return recovered,
    };
    tracing::error!(%origin, "{reason}");
    let generation = highest_generation(nvram, origin.node_id(), entry.partition, entry.generation_floor)?;
    let mut found = Found { recovered: Recovered { generation, ..Recovered::default() }, ..Found::default() };
    // A source, also one that was deposed, may have what nobody else has.
    if entry.role == StoredRole::Destination {
        entry.in_sync = false;
        found.damaged = Some(reason);
    } else {
        found.lost = Some(reason);
    }
    Ok((engines.absent(&origin, engine_generation), found))
}

fn recover_origin(
    nvram: &mut dyn Nvram,
    entry: &mut OriginEntry,
    image: &Image,
    is_new: bool,
) -> Result<Found, StartError> {
    let (origin, id) = (entry.origin.clone(), entry.origin.node_id());
    let failed = |e| StartError::Image(origin.clone(), e);
    let records = image.progress().map_err(failed)?.appended.seq;
    let half_filled = image.baseline().map_err(failed)?.is_some();
    // Where the data are gone too, nothing is left that could turn up again: it begins anew.
    entry.lost = (entry.lost || is_new) && (records > Seq::ZERO || half_filled);
    let generation = highest_generation(nvram, id, entry.partition, entry.generation_floor)?;
    let unusable = |reason| Found {
        recovered: Recovered { generation, ..Recovered::default() },
        lost: Some(reason),
        ..Found::default()
    };
    if entry.lost {
        let reason =
            format!("its NVRAM is gone: the data directory holds {records} records of {origin}, their log is new");
        return Ok(unusable(reason));
    }
    if half_filled {
        return Ok(unusable("its data directory holds a part of a baseline and no whole image".to_owned()));
    }
    let recovered = match recover(nvram, id, entry.partition, entry.generation_floor, image) {
        Err(RecoveryError::Diverged { seq }) => {
            let reason = format!("its NVRAM and its data directory hold different histories at record {seq}");
            return Ok(unusable(reason));
        }
        found => found.map_err(|e| StartError::Recovery(origin.clone(), e))?,
    };
    let mut recovered = recovered;
    let end = recovered.progress.appended.seq;
    let empty = end == Seq::ZERO;
    // A destination without a consistency point gets its records again, as one whose log is damaged does.
    let writes = matches!(entry.role, StoredRole::Source | StoredRole::HandingOver);
    let gone = empty && (entry.consistency_point > Seq::ZERO || (writes && recovered.damaged.is_some()));
    let lost = gone.then(|| "its data directory is gone, the NVRAM goes on from it".to_owned());
    // A destination that is not in sync may have been cut, and promises nothing.
    let promised = entry.role != StoredRole::Destination || entry.in_sync;
    if recovered.damaged.is_none() && entry.persisted > end && promised {
        recovered.damaged = Some(Damage { from: end.next(), through: entry.persisted });
    }
    let log_runs = image.view().log_runs().map_err(failed)?;
    // An order to begin anew that was given before, and not carried out.
    let waits = empty && lost.is_none() && entry.rebuild;
    let damaged = waits.then(|| "it is to be filled by a baseline".to_owned());
    Ok(Found { recovered, lost, damaged, log_runs })
}

/// What is found damaged is not read again: what that means is stored with it (F10).
fn settle_damage(entry: &mut OriginEntry, found: &Found, has_mirror: bool) -> Result<(), StartError> {
    if found.lost.is_some() || found.damaged.is_some() {
        // It may turn up again: nothing that a later start needs is changed.
        return Ok(());
    }
    entry.generation_floor = found.recovered.generation;
    entry.persisted = found.recovered.progress.appended.seq;
    let Some(Damage { from, through }) = found.recovered.damaged else { return Ok(()) };
    match entry.role {
        StoredRole::Destination | StoredRole::Fenced => entry.in_sync = false,
        StoredRole::Source | StoredRole::HandingOver if has_mirror => entry.lacks = entry.lacks.max(through),
        StoredRole::Source | StoredRole::HandingOver => {
            let text = format!(
                "records {from} to {through} of {} in the NVRAM are damaged, and it has no mirror",
                entry.origin
            );
            return Err(StartError::Plan(text));
        }
    }
    Ok(())
}
