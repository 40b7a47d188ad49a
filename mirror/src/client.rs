//! What the gateway calls. Cheap to clone; every call may be made from any task.
//!
//! A write is a [`Draft`]: it is admitted (bytes of memory are found for it), gets its seq, and is done when it is
//! committed and, for all but body chunks, applied: a reader who comes after sees it.

use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use lockstep_storage::id::{ChunkId, Epoch, Origin, Seq};
use lockstep_storage::image::{Image, View};
use lockstep_storage::record::Draft;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use crate::event::{Command, Event, Report};
use crate::link::Held;
use crate::plan::AckLevel;
use crate::status::Status;
use crate::tail::Tails;

/// Who had a write when its client was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// Only this node: under `sync` out of sync, under `async`, or without a mirror.
    Local,
    /// The mirror too, at this level.
    Mirrored(AckLevel),
}

/// A write that is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Epoch of its record.
    pub epoch: Epoch,
    /// Seq of its record.
    pub seq: Seq,
    /// Who has it.
    pub ack: Answered,
    /// Modification time that it got, milliseconds since 1970.
    pub time_ms: u64,
}

/// Why a write is not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not admitted: no effect, may be tried again after some seconds.
    #[error("{reason}")]
    Unavailable {
        /// One sentence: which state, and why.
        reason: String,
        /// When to try again, in seconds.
        retry_after_s: u32,
    },
    /// Not admitted: this node must not write this origin (replica, fenced). No effect.
    #[error("{reason}")]
    NotWritable {
        /// One sentence: which state, and why.
        reason: String,
    },
    /// Not admitted: the device is too full. Deletes are still taken.
    #[error("no space: {reason}")]
    NoSpace {
        /// One sentence with figures.
        reason: String,
    },
    /// Admitted, and then something came between: it may yet become visible.
    #[error("outcome unknown: {reason}")]
    Unknown {
        /// Epoch of its record.
        epoch: Epoch,
        /// Seq of its record.
        seq: Seq,
        /// One sentence.
        reason: String,
    },
    /// This node does not have this origin, or the node is stopping.
    #[error("{0}")]
    Gone(String),
}

/// What a node is for an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It takes the clients' writes.
    Source,
    /// It holds the mirror: reads only.
    Destination,
    /// It was the source until its peer was promoted: reads only, until it has become the destination.
    Fenced,
}

impl Role {
    /// In one word, the same in status, metrics and log lines.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
            Self::Fenced => "fenced",
        }
    }
}

/// An origin at this node, as the gateway needs it for every request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginState {
    /// The origin.
    pub origin: Origin,
    /// What this node is for it.
    pub role: Role,
    /// The last consistency point that the image has reached: what a reader of a replica is told.
    pub consistency_point: (Epoch, Seq),
    /// May it be read here? Not at a source that has restarted until everything that it found in its log, and that a client
    /// may have been answered for, is in its image.
    pub readable: bool,
    /// Counts the times that records came into the log from the other end while this node was the source. No lock stood for
    /// them: what was decided on a look at the image under an earlier number is void.
    pub history: u64,
}

/// What a node has become for an origin: what an operator's hook is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleChange {
    /// The origin.
    pub origin: Origin,
    /// What this node is for it now.
    pub role: Role,
    /// What it was for it when it started.
    pub began: Role,
    /// The epoch that it writes or accepts now.
    pub epoch: Epoch,
    /// The last record here at that moment.
    pub seq: Seq,
    /// Counts the changes of all origins since the node started: the order in which they came.
    pub number: u64,
}

/// A write that has its place and is on its way.
#[derive(Debug)]
pub struct Submitted {
    /// Epoch of its record.
    pub epoch: Epoch,
    /// Seq of its record.
    pub seq: Seq,
    done: oneshot::Receiver<Result<Receipt, Refusal>>,
}

impl Submitted {
    /// Waits until it is done: committed, and for all but body chunks applied.
    ///
    /// # Errors
    /// When its outcome is unknown: it may yet become visible.
    pub async fn done(self) -> Result<Receipt, Refusal> {
        let unknown = Refusal::Unknown { epoch: self.epoch, seq: self.seq, reason: "the node is stopping".into() };
        self.done.await.unwrap_or(Err(unknown))
    }
}

/// A write that was handed to the core, with a place or not yet.
#[derive(Debug)]
pub struct Written {
    done: Option<oneshot::Receiver<Result<Receipt, Refusal>>>,
    settled: oneshot::Receiver<()>,
}

impl Written {
    /// Waits until it is done: committed and applied. Who stops waiting may call it again.
    ///
    /// # Errors
    /// When it is refused, without effect; when its outcome is unknown.
    pub async fn done(&mut self) -> Result<Receipt, Refusal> {
        let gone = || Refusal::Gone("the node is stopping: what became of this write is not known".into());
        let Some(done) = &mut self.done else { return Err(gone()) };
        let result = done.await;
        self.done = None;
        result.unwrap_or_else(|_| Err(gone()))
    }

    /// Waits until it is applied, or refused, or never will be applied at this node. Until then nobody may read the
    /// image in order to build on it: locks are held so long.
    pub async fn settled(self) {
        // Nothing is sent: the sender goes when it is settled, or with the node.
        let _settled = self.settled.await;
    }
}

/// How the runtime gets a submission: the draft, the memory that it holds, and where its answers go.
pub(crate) struct Submission {
    pub(crate) origin: Origin,
    pub(crate) draft: Draft,
    pub(crate) require: Option<AckLevel>,
    pub(crate) history: Option<u64>,
    /// For those who must know the place before the write is done.
    pub(crate) placed: Option<oneshot::Sender<Result<(Epoch, Seq), Refusal>>>,
    pub(crate) done: oneshot::Sender<Result<Receipt, Refusal>>,
    /// Dropped when the outcome is certain.
    pub(crate) settled: oneshot::Sender<()>,
    /// Memory; given back when the submission is done.
    pub(crate) budget: OwnedSemaphorePermit,
}

/// What reaches the core's thread.
pub(crate) enum Input {
    Submit(Submission),
    Command(Command, oneshot::Sender<Result<Report, String>>),
    Event(Event),
    /// From the link, with the memory that it holds until it is handled.
    Link(Event, Held),
    /// The core's thread ends.
    Stop,
}

pub(crate) struct Shared {
    pub(crate) node: Origin,
    pub(crate) inbox: std::sync::mpsc::Sender<Input>,
    /// Bytes of drafts that may be in memory, in units of [`BUDGET_UNIT`].
    pub(crate) budget: Arc<Semaphore>,
    pub(crate) images: Vec<(Origin, Image)>,
    pub(crate) origins: RwLock<Arc<Vec<OriginState>>>,
    pub(crate) status: RwLock<Arc<Status>>,
    pub(crate) tails: Tails,
    pub(crate) roles: watch::Sender<Vec<RoleChange>>,
}

/// Bytes in one permit of the budget.
pub(crate) const BUDGET_UNIT: usize = 1024;

/// The gateway's way to the mirrored log.
#[derive(Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
}

impl Client {
    /// This node's name, which is its own origin too.
    #[must_use]
    pub fn node(&self) -> &Origin {
        &self.shared.node
    }

    /// Every origin at this node, its own first.
    #[must_use]
    pub fn origins(&self) -> Arc<Vec<OriginState>> {
        Arc::clone(&self.shared.origins.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What an operator is shown.
    #[must_use]
    pub fn status(&self) -> Arc<Status> {
        Arc::clone(&self.shared.status.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What a deposed source had, as files in the node's data directory.
    #[must_use]
    pub fn tails(&self) -> &Tails {
        &self.shared.tails
    }

    /// The last role change of every origin since the node started; its start is the first. Who looks late sees the newest
    /// only.
    #[must_use]
    pub fn roles(&self) -> watch::Receiver<Vec<RoleChange>> {
        self.shared.roles.subscribe()
    }

    /// A consistent look at an origin's image, now.
    ///
    /// # Errors
    /// When this node does not have the origin.
    pub fn view(&self, origin: &Origin) -> Result<View, Refusal> {
        let image = self.shared.images.iter().find(|(name, _)| name == origin);
        image.map(|(_, image)| image.view()).ok_or_else(|| Refusal::Gone(format!("this node has no origin {origin}")))
    }

    /// As [`Client::view`]; where a chunk is damaged its bytes are had from the peer, and put in place (F10). Reading one may
    /// then wait, some ten seconds at most, so it must not be done by an async task.
    ///
    /// # Errors
    /// As there.
    pub fn mending_view(&self, origin: &Origin) -> Result<View, Refusal> {
        let (client, of) = (self.clone(), origin.clone());
        Ok(self.view(origin)?.with_mend(Arc::new(move |chunk| client.mend(&of, chunk))))
    }

    /// Has a damaged chunk repaired by the peer's bytes, and reads it. Blocks; none where it cannot be had soon.
    #[must_use]
    pub fn mend(&self, origin: &Origin, chunk: ChunkId) -> Option<Bytes> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Repair { origin: origin.clone(), chunk };
        self.shared.inbox.send(Input::Command(command, reply)).ok()?;
        match answer.blocking_recv() {
            Ok(Ok(_)) => self.view(origin).ok()?.chunk(chunk.body, chunk.index).ok(),
            Ok(Err(reason)) => {
                tracing::warn!(%origin, "{reason}");
                None
            }
            Err(_) => None,
        }
    }

    /// The image itself, for figures.
    #[must_use]
    pub fn image(&self, origin: &Origin) -> Option<&Image> {
        self.shared.images.iter().find(|(name, _)| name == origin).map(|(_, image)| image)
    }

    /// Waits for memory, hands the draft to the core, and comes back when the record has its seq.
    ///
    /// # Errors
    /// When it is refused: no effect.
    pub async fn submit(&self, origin: &Origin, draft: Draft, require: Option<AckLevel>) -> Result<Submitted, Refusal> {
        let (placed, place) = oneshot::channel();
        let Written { done, .. } = self.hand_over(origin, draft, require, None, Some(placed)).await?;
        let (epoch, seq) = place.await.map_err(|_| gone())??;
        let done = done.ok_or_else(gone)?;
        Ok(Submitted { epoch, seq, done })
    }

    /// Waits for memory and hands the draft to the core, decided on a look at the image that was taken when the origin's
    /// state had this [`OriginState::history`]. Costs a writer who need not know the place one waking less than
    /// [`Client::submit`].
    ///
    /// # Errors
    /// When the node is stopping: no effect.
    pub async fn write(
        &self,
        origin: &Origin,
        draft: Draft,
        require: Option<AckLevel>,
        history: u64,
    ) -> Result<Written, Refusal> {
        self.hand_over(origin, draft, require, Some(history), None).await
    }

    async fn hand_over(
        &self,
        origin: &Origin,
        draft: Draft,
        require: Option<AckLevel>,
        history: Option<u64>,
        placed: Option<oneshot::Sender<Result<(Epoch, Seq), Refusal>>>,
    ) -> Result<Written, Refusal> {
        let units = u32::try_from(draft.record_len().div_ceil(BUDGET_UNIT)).unwrap_or(u32::MAX);
        let budget = Arc::clone(&self.shared.budget).acquire_many_owned(units).await.map_err(|_| gone())?;
        let (done_tx, done) = oneshot::channel();
        let (settled_tx, settled) = oneshot::channel();
        let submission = Submission {
            origin: origin.clone(),
            draft,
            require,
            history,
            placed,
            done: done_tx,
            settled: settled_tx,
            budget,
        };
        self.shared.inbox.send(Input::Submit(submission)).map_err(|_| gone())?;
        Ok(Written { done: Some(done), settled })
    }

    /// Gives the core a command and waits for its answer.
    ///
    /// # Errors
    /// The core's one sentence why not.
    pub async fn command(&self, command: Command) -> Result<Report, String> {
        let (reply, answer) = oneshot::channel();
        let gone = || "the node is stopping".to_owned();
        self.shared.inbox.send(Input::Command(command, reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

fn gone() -> Refusal {
    Refusal::Gone("the node is stopping".into())
}
