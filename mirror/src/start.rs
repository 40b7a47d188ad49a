//! Start of a node: loads or makes the superblock, brings each origin's engine to the end of its log, and opens the core.
//! The production runtime and the simulator start nodes by this one path.

use lockstep_storage::id::{Epoch, Origin, Seq};
use lockstep_storage::image::{Image, ImageError};
use lockstep_storage::nvram::{Nvram, NvramError};
use lockstep_storage::partition::{Extent, SEGMENTS_DEFAULT};
use lockstep_storage::recovery::{Recovered, RecoveryError, recover};
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
    open_engine: &mut dyn FnMut(&Origin, u64) -> Result<Image, ImageError>,
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
    let mut recovered = Vec::new();
    for entry in &mut superblock.origins {
        let image = open_engine(&entry.origin, entry.engine_generation);
        let image = image.map_err(|e| StartError::Image(entry.origin.clone(), e))?;
        let found = recover_origin(nvram, entry, &image, is_new)?;
        entry.generation_floor = found.generation;
        images.push((entry.origin.clone(), image));
        recovered.push(found);
    }
    let counter = counter + 1;
    let (offset, bytes) = superblock.encode(counter)?;
    nvram.write(offset, &[bytes])?;
    nvram.persist()?;
    let mut effects = Vec::new();
    let node = Node::open(plan, superblock, counter, &recovered, now, &mut effects);
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
        fenced_by: Epoch::default(),
    });
    Ok(())
}

fn recover_origin(
    nvram: &mut dyn Nvram,
    entry: &OriginEntry,
    image: &Image,
    is_new: bool,
) -> Result<Recovered, StartError> {
    let id = entry.origin.node_id();
    let found = recover(nvram, id, entry.partition, entry.generation_floor, image);
    let found = found.map_err(|e| StartError::Recovery(entry.origin.clone(), e))?;
    if is_new && found.progress.appended.seq > Seq::ZERO {
        let text = format!(
            "the NVRAM is new, but the data directory holds {} records of {}: the log between is gone",
            found.progress.appended.seq, entry.origin
        );
        return Err(StartError::Plan(text));
    }
    Ok(found)
}
