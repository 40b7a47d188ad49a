//! `tail`: what a deposed source had that its peer never got, as an operator sees it: listed, exported, discarded by its
//! exact name. Nothing here writes to a log: who wants one of these objects again puts it as any client does.
//!
//! The files are read on threads of their own, every record verified; what is damaged is said beside what is sound.
//!
//! # Layout
//! - [`export`]: every op with its body, as a stream of JSON lines.

pub mod export;

use std::io;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use http::StatusCode;
use lockstep_mirror::tail::reader::{Damage, Head};
use lockstep_mirror::tail::{TailFile, TailName, Tails};
use lockstep_storage::op::Mutation;
use serde::{Deserialize, Serialize};

use super::{Admin, AdminError, AdminResult, body_of, json, verbs};

/// Most names of objects in a list.
const NAMES_MAX: usize = 100;

/// What is to be done with tails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TailAction {
    /// Say which there are.
    List,
    /// Give one out.
    Export,
    /// Remove one.
    Discard,
}

/// What `POST /v1/tail` takes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TailBody {
    /// What to do.
    pub action: TailAction,
    /// Whose; in a list, none for everybody's.
    #[serde(default)]
    pub origin: Option<String>,
    /// Which one, as the list names it; needed for an export and to discard.
    #[serde(default)]
    pub epoch: Option<String>,
    /// In an export: with the bytes of bodies?
    #[serde(default)]
    pub bodies: bool,
}

/// A place in a tail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceView {
    /// Epoch of the record.
    pub epoch: String,
    /// Its seq.
    pub seq: u64,
    /// When it was written, milliseconds since 1970.
    pub time_ms: u64,
}

impl PlaceView {
    fn new(head: &Head) -> Self {
        let header = head.header;
        Self { epoch: header.epoch.to_string(), seq: header.seq.0, time_ms: header.time_ms }
    }
}

/// A tail that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TailView {
    /// Whose records.
    pub origin: String,
    /// The epoch in which the histories parted; with a number behind it where there is more than one such tail.
    pub epoch: String,
    /// Length of the file in bytes, and of what was set aside beside it from before its first record.
    pub bytes: u64,
    /// When it was set aside, milliseconds since 1970.
    pub set_aside_ms: u64,
    /// First record.
    pub first: Option<PlaceView>,
    /// Last record.
    pub last: Option<PlaceView>,
    /// Records whose heads are sound.
    pub records: u64,
    /// Objects that were put, copies and completed uploads too; one that was put twice counts twice.
    pub objects: u64,
    /// Objects that were deleted.
    pub deletes: u64,
    /// Bucket and key of the first 100 of both.
    pub names: Vec<(String, String)>,
    /// Records whose payload is damaged.
    pub damaged_payloads: u64,
    /// Bodies beside it that have damaged chunks.
    pub damaged_bodies: u64,
    /// Records that are not the child of the one before.
    pub breaks: u64,
    /// Where reading ended before the end of the file, and why.
    pub damage: Option<DamageView>,
}

/// Where a tail cannot be read any further.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamageView {
    /// Offset in the file.
    pub offset: u64,
    /// Bytes from there to its end.
    pub bytes: u64,
    /// What is wrong.
    pub reason: String,
}

impl From<&Damage> for DamageView {
    fn from(damage: &Damage) -> Self {
        Self { offset: damage.offset, bytes: damage.bytes, reason: damage.reason.clone() }
    }
}

impl TailView {
    fn new(file: &TailFile) -> Self {
        Self {
            origin: file.name.origin.to_string(),
            epoch: file.name.epoch().to_owned(),
            bytes: file.bytes,
            set_aside_ms: file.set_aside_ms,
            first: None,
            last: None,
            records: 0,
            objects: 0,
            deletes: 0,
            names: Vec::new(),
            damaged_payloads: 0,
            damaged_bodies: 0,
            breaks: 0,
            damage: None,
        }
    }

    /// Counts a record; its op, where it decodes.
    fn note(&mut self, head: &Head, op: Option<&Mutation>, payload_is_sound: bool) {
        let place = PlaceView::new(head);
        self.first.get_or_insert_with(|| place.clone());
        self.last = Some(place);
        self.records += 1;
        self.breaks += u64::from(!head.follows);
        self.damaged_payloads += u64::from(!payload_is_sound);
        let (bucket, key) = match op {
            Some(Mutation::PutObject(put)) => (&put.bucket, &put.key),
            Some(Mutation::CompleteMultipartUpload(done)) => (&done.bucket, &done.key),
            Some(Mutation::DeleteObject(delete)) => (&delete.bucket, &delete.key),
            _ => return,
        };
        let count = if matches!(op, Some(Mutation::DeleteObject(_))) { &mut self.deletes } else { &mut self.objects };
        *count += 1;
        if self.names.len() < NAMES_MAX {
            self.names.push((bucket.clone(), key.clone()));
        }
    }
}

/// What `POST /v1/tail` answers to a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TailList {
    /// The node that has them.
    pub node: String,
    /// By origin and epoch.
    pub tails: Vec<TailView>,
}

/// What it answers when one is discarded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TailDiscarded {
    /// Whose it was.
    pub origin: String,
    /// Which one it was.
    pub epoch: String,
}

pub(super) async fn tail(State(admin): State<Arc<Admin>>, body: Bytes) -> AdminResult {
    let body: TailBody = body_of(&body)?;
    let origin = body.origin.as_deref().map(verbs::origin).transpose()?;
    let tails = admin.client.tails().clone();
    if body.action == TailAction::List {
        let listed = blocking(move || {
            let mut files = tails.list()?;
            files.retain(|file| origin.as_ref().is_none_or(|origin| file.name.origin == *origin));
            files.iter().filter_map(|file| survey(&tails, file).transpose()).collect::<io::Result<Vec<_>>>()
        });
        let list = TailList { node: admin.client.node().to_string(), tails: listed.await? };
        return Ok(json(StatusCode::OK, &list));
    }
    let (Some(origin), Some(epoch)) = (origin, body.epoch) else {
        let reason = "name the tail by its origin and its epoch, as the list does";
        return Err(AdminError(StatusCode::BAD_REQUEST, reason.into()));
    };
    let absent = format!("there is no tail of {origin} with the epoch '{epoch}' here");
    let absent = || AdminError(StatusCode::NOT_FOUND, absent.clone());
    let name = TailName::new(origin, &epoch).ok_or_else(absent)?;
    let looked_for = name.clone();
    let files = admin.client.tails().clone();
    let found = blocking(move || Ok(files.list()?.into_iter().find(|file| file.name == looked_for))).await?;
    let file = found.ok_or_else(absent)?;
    if body.action == TailAction::Export {
        return export::start(&admin, file, body.bodies);
    }
    let discarded = TailDiscarded { origin: name.origin.to_string(), epoch: name.epoch().to_owned() };
    blocking(move || tails.discard(&name)).await?;
    tracing::info!(origin = discarded.origin, epoch = discarded.epoch, "an operator has discarded a tail");
    Ok(json(StatusCode::OK, &discarded))
}

/// Reads a tail to its end; none where it was discarded meanwhile.
fn survey(tails: &Tails, file: &TailFile) -> io::Result<Option<TailView>> {
    let mut reader = match tails.open(&file.name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut view = TailView::new(file);
    while let Some(head) = reader.next_head()? {
        let sound = reader.payload(&head)?.is_ok();
        view.note(&head, head.record().mutation().ok().as_ref(), sound);
    }
    view.damage = reader.damage().map(DamageView::from);
    view.damaged_bodies = tails.damaged_bodies(&file.name)?;
    Ok(Some(view))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, AdminError> {
    let failed = |reason: String| AdminError(StatusCode::INTERNAL_SERVER_ERROR, reason);
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| failed(error.to_string()))?;
    done.map_err(|error| failed(format!("the tails cannot be read: {error}")))
}
