//! What happens to the core and what it asks for. Both are closed: whoever adds a variant finds every place to decide.

mod work;

use bytes::Bytes;
use lockstep_storage::id::{ChunkId, Epoch, Origin, Position, Seq};
use lockstep_storage::image::Progress;
use lockstep_storage::record::{Draft, Record};

pub use self::work::{BaselineStep, BaselineTask, RepairStep, RepairTask};
use crate::client::{OriginState, Receipt, Refusal};
use crate::message::Message;
use crate::note::Note;
use crate::plan::AckLevel;

/// Names a submission or command until it is answered. Made by the runtime, never used twice in a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Names a connection of an origin's stream; a later one has a higher number at this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Connection(pub u64);

/// The moment of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// Milliseconds of a clock that never goes back: timers.
    pub mono_ms: u64,
    /// Milliseconds since 1970: modification times, and what people read.
    pub wall_ms: u64,
}

/// What an operator asks of the core; and readers, who find a chunk damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A consistency point now; answered when both ends have it.
    Sync {
        /// Which; none for this node's own.
        origin: Option<Origin>,
    },
    /// Take the origin.
    Promote {
        /// Which.
        origin: Origin,
        /// Only say what would happen.
        dry_run: bool,
        /// Even where writes are known to be missing or may be.
        accept_loss: bool,
    },
    /// Give the origin to its destination, which has everything, and become the destination.
    Failback {
        /// Which.
        origin: Origin,
        /// Only say what would happen.
        dry_run: bool,
    },
    /// Replace what is here of an origin by a baseline from its source, as soon as that connects.
    Rebuild {
        /// Which.
        origin: Origin,
        /// Even where records of it are here, or its peer has shown itself as the source of another history.
        accept_loss: bool,
    },
    /// Stop a stream on purpose.
    Pause {
        /// Which.
        origin: Origin,
    },
    /// Start it again, or, alone, take writes without knowing what became of the peer.
    Resume {
        /// Which.
        origin: Origin,
        /// Without the peer.
        alone: bool,
    },
    /// Have a damaged chunk's bytes sent by the peer (F10): answered when they are in place, or when they cannot be had soon.
    Repair {
        /// Whose.
        origin: Origin,
        /// Which.
        chunk: ChunkId,
    },
    /// Stop admission, settle what is admitted, make a last consistency point; then the node may stop.
    Shutdown,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// A client's write, admitted.
    Submit {
        /// To answer it by.
        ticket: Ticket,
        /// Whose.
        origin: Origin,
        /// What.
        draft: Draft,
        /// The ack level that this request asks for, where it asks.
        require: Option<AckLevel>,
        /// The origin's [`OriginState::history`] when the image was looked at to decide this; none where nothing was.
        history: Option<u64>,
    },
    /// An operator's command.
    Command {
        /// To answer it by.
        ticket: Ticket,
        /// What.
        command: Command,
    },
    /// Every write before the persist of this number is durable.
    Persisted {
        /// The number of [`Effect::Persist`].
        id: u64,
    },
    /// The device failed to write or persist. The node stops (F13).
    PersistFailed {
        /// What it said.
        reason: String,
    },
    /// The image is applied through here.
    Applied {
        /// Whose.
        origin: Origin,
        /// The image's position.
        at: Position,
    },
    /// A record cannot be applied, and a second try would find the same: the image stays before it (F42).
    Stuck {
        /// Whose.
        origin: Origin,
        /// The record.
        at: Seq,
        /// What it said.
        reason: String,
    },
    /// The engine is flushed: all of this is durable in it.
    Flushed {
        /// Whose.
        origin: Origin,
        /// How far.
        progress: Progress,
    },
    /// The engine's disk has less space than this node's role for the origin asks for; what needs more is tried again by
    /// itself. `false`: it has enough again.
    Full {
        /// Whose.
        origin: Origin,
        /// Is it?
        full: bool,
    },
    /// The engine failed for good. The node stops.
    EngineFailed {
        /// Whose.
        origin: Origin,
        /// What it said.
        reason: String,
        /// Its files are damaged: the next start must not use them. That is stored before the node stops.
        damaged: bool,
    },
    /// Records read back from the container.
    Fetched {
        /// Whose.
        origin: Origin,
        /// For which connection they were wanted.
        connection: Connection,
        /// The records, in order.
        records: Vec<Record>,
    },
    /// The first of the records that were wanted is damaged in the container.
    FetchFailed {
        /// Whose.
        origin: Origin,
        /// For which connection they were wanted.
        connection: Connection,
        /// Which one.
        seq: Seq,
        /// What is wrong with it.
        reason: String,
    },
    /// What came after a common point is set aside in a file, and cut from the container.
    Cut {
        /// Whose.
        origin: Origin,
        /// The last record that is left.
        at: Position,
    },
    /// A baseline has come further.
    Baseline {
        /// Whose.
        origin: Origin,
        /// What is done.
        step: BaselineStep,
    },
    /// A damaged chunk, here or at the peer, has come further.
    Repair {
        /// Whose.
        origin: Origin,
        /// What is done.
        step: RepairStep,
    },
    /// A connection stands: the one that this node opened, or one that its peer did.
    Connected {
        /// Whose stream.
        origin: Origin,
        /// Its number at this node.
        connection: Connection,
    },
    /// A connection is gone, or could not be made.
    Disconnected {
        /// Whose stream.
        origin: Origin,
        /// Its number at this node.
        connection: Connection,
        /// One sentence.
        reason: String,
    },
    /// A message came.
    Received {
        /// Whose stream.
        origin: Origin,
        /// By which connection.
        connection: Connection,
        /// The message.
        message: Message,
    },
    /// Much has been taken in, and more waits: build the batch, but do not judge time.
    Batch,
    /// The inbox is drained: build the batch, judge time. Comes at least every [`IDLE_INTERVAL_MS`].
    Idle,
}

/// Longest time between two [`Event::Idle`], in milliseconds.
pub const IDLE_INTERVAL_MS: u64 = 50;

/// What the core asks for. Effects are carried out in order where they concern one device, engine or connection.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Write to NVRAM.
    Write {
        /// Where, in bytes.
        offset: u64,
        /// What, one behind the other.
        pieces: Vec<Bytes>,
    },
    /// Persist every earlier write, then say [`Event::Persisted`].
    Persist {
        /// Number to answer with; rises.
        id: u64,
    },
    /// Put persisted records in the container.
    Append {
        /// Whose.
        origin: Origin,
        /// Which.
        records: Vec<Record>,
    },
    /// Apply what is in the container up to here, then say [`Event::Applied`], possibly in steps.
    Apply {
        /// Whose.
        origin: Origin,
        /// Up to which seq.
        through: Seq,
    },
    /// Flush the engine, then say [`Event::Flushed`].
    Flush {
        /// Whose.
        origin: Origin,
    },
    /// Remove records from the log family up to here.
    Trim {
        /// Whose.
        origin: Origin,
        /// Up to which seq.
        through: Seq,
    },
    /// Delete unreferenced bodies that a record up to here dropped.
    Collect {
        /// Whose.
        origin: Origin,
        /// Up to which seq.
        through: Seq,
    },
    /// Flush, set every record after `last` aside in a file, durably, with what its objects need from before it, and cut it
    /// from the container; flush; then say [`Event::Cut`].
    Cut {
        /// Whose.
        origin: Origin,
        /// The last record that stays.
        last: Position,
        /// Epoch of the records set aside, for the file's name.
        epoch: Epoch,
        /// Highest generation that was used in the partition: recovery reads none of it any more.
        generation: u64,
    },
    /// Read records back, then say [`Event::Fetched`].
    Fetch {
        /// Whose.
        origin: Origin,
        /// For which connection.
        connection: Connection,
        /// From which seq on.
        from: Seq,
        /// About how many bytes, at least one record.
        bytes_max: usize,
    },
    /// A baseline's next piece of work, for the worker; most are answered by an [`Event::Baseline`].
    Baseline {
        /// Whose.
        origin: Origin,
        /// What.
        task: BaselineTask,
    },
    /// A damaged chunk's next piece of work, for the worker; answered by an [`Event::Repair`].
    Repair {
        /// Whose.
        origin: Origin,
        /// What.
        task: RepairTask,
    },
    /// Open the origin's stream to its destination, after this delay, then say [`Event::Connected`] or
    /// [`Event::Disconnected`]. Its first message follows when it stands.
    Connect {
        /// Whose.
        origin: Origin,
        /// The number that it gets.
        connection: Connection,
        /// Milliseconds to wait first; the runtime adds jitter.
        delay_ms: u64,
    },
    /// Send.
    Send {
        /// Whose stream.
        origin: Origin,
        /// By which connection.
        connection: Connection,
        /// What.
        message: Message,
    },
    /// End a connection.
    Close {
        /// Whose stream.
        origin: Origin,
        /// Which.
        connection: Connection,
    },
    /// A submission has its place.
    Placed {
        /// Which.
        ticket: Ticket,
        /// Epoch of its record.
        epoch: Epoch,
        /// Seq of its record.
        seq: Seq,
    },
    /// A submission is done or refused.
    Done {
        /// Which.
        ticket: Ticket,
        /// How.
        result: Result<Receipt, Refusal>,
    },
    /// A submission that was answered as unknown is applied now, or this node will never apply it: whoever comes after may
    /// read the image and build on it.
    Settled {
        /// Which.
        ticket: Ticket,
    },
    /// A command is done (with a text and figures for the operator) or refused (with one sentence).
    Reply {
        /// Which.
        ticket: Ticket,
        /// How.
        result: Result<Report, String>,
    },
    /// What this node is for an origin has changed: the gateway must know before the next request.
    Publish(OriginState),
    /// Something changed: one line in the log of events.
    Note {
        /// Whose; this node's own where it is the whole node's.
        origin: Origin,
        /// What.
        note: Box<Note>,
    },
    /// Stop the process: recovery speaks, not a retry.
    Stop {
        /// Why.
        reason: String,
    },
}

/// An answer to a command.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// One or a few sentences.
    pub text: String,
    /// Where the origin stands then.
    pub at: Option<Position>,
    /// For promote: `proved`, `in_sync_at_last_contact`, `may_lack_writes`.
    pub verdict: Option<&'static str>,
}
