//! The seam to the storage engine: for one origin, the container (records and bodies received and not yet done with) and
//! the image (what S3 clients read).
//!
//! An engine keeps three families of sorted keys and makes batches over them atomic, in memory at once and on disk at the
//! next flush; what a flush left is always a prefix of the batches. What the keys mean stands here once, above every
//! engine: [`apply`] changes the image, [`view`] reads it, [`keys`] says where things lie.

pub mod absent;
pub mod apply;
pub mod baseline;
pub mod keys;
pub mod memory;
pub mod rocks;
pub mod view;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;

use crate::id::{BodyId, ChunkId, Position, Seq};
use crate::record::{Record, RecordError};
pub use apply::Mended;
use baseline::{Bookmark, Piece};
pub use view::{BodiesDigest, ImageDigest, ListPage, ListQuery, Mend, Stored, UploadPage, View};

/// What the engine could not do.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The engine or its files failed.
    #[error("storage engine: {0}")]
    Engine(String),
    /// The device is full. The caller refuses writes and tries again; nothing is lost.
    #[error("storage engine: no space left")]
    NoSpace,
    /// What the engine or its files say of an entry, a record or themselves does not verify: the engine is damaged (F10).
    #[error("corrupt: {0}")]
    Corrupt(String),
    /// The bytes of a chunk are damaged, missing or cannot be read. The engine is none the worse for it, and the peer may have
    /// them (F10).
    #[error("corrupt: {chunk}: {what}")]
    Chunk {
        /// Which.
        chunk: ChunkId,
        /// What is wrong with it.
        what: String,
    },
    /// Bytes beside the engine's own files cannot be read. Above the engine it is said of which chunk.
    #[error("corrupt: {0}")]
    Unreadable(String),
    /// A record that cannot be in the container.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Records must follow each other.
    #[error("record {got} does not follow {after}")]
    Gap {
        /// Last record in the container.
        after: Seq,
        /// The one that came.
        got: Seq,
    },
    /// The container no longer has the record that was asked for.
    #[error("records up to {through} have been trimmed")]
    Trimmed {
        /// The last one that was trimmed.
        through: Seq,
    },
    /// What is in the image cannot be cut.
    #[error("cannot cut after {last}: the image holds everything up to {applied}")]
    Applied {
        /// Where to cut.
        last: Seq,
        /// The last applied record.
        applied: Seq,
    },
    /// The container does not have the record at this position.
    #[error("the container has no record {0} with this checksum")]
    NotHere(Position),
}

impl ImageError {
    /// Is it about bytes that are stored and cannot be used? Trying again finds the same ones, and a restart too.
    #[must_use]
    pub fn is_of_stored_bytes(&self) -> bool {
        matches!(self, Self::Corrupt(_) | Self::Record(_))
    }
}

/// The families of an origin's engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Records by seq: header and op, and the payload of every record but [`crate::op::Data`].
    Log,
    /// Chunks by body id and index.
    Body,
    /// The image.
    Image,
}

/// One change in a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Sets a key.
    Put(Family, Vec<u8>, Bytes),
    /// Removes a key.
    Delete(Family, Vec<u8>),
    /// Removes every key from the first up to and without the second.
    DeleteRange(Family, Vec<u8>, Vec<u8>),
}

impl Change {
    /// The family that it concerns.
    #[must_use]
    pub fn family(&self) -> Family {
        match self {
            Self::Put(family, ..) | Self::Delete(family, _) | Self::DeleteRange(family, ..) => *family,
        }
    }

    /// About how many bytes it takes in a batch.
    fn len(&self) -> usize {
        16 + match self {
            Self::Put(_, key, value) => key.len() + value.len(),
            Self::Delete(_, key) => key.len(),
            Self::DeleteRange(_, from, until) => from.len() + until.len(),
        }
    }
}

/// How far an engine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// The last record in the container or gone through it.
    pub appended: Position,
    /// The last record whose effect is in the image.
    pub applied: Position,
    /// Every record up to here has been trimmed from the container; the next may be read from it.
    pub trimmed: Seq,
}

/// Sorted reads at one moment: a snapshot. It keeps what it sees, bodies too, until it is dropped.
pub trait Tables: Send + Sync {
    /// The value of a key.
    ///
    /// # Errors
    /// When the engine cannot read it or it does not verify.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, ImageError>;

    /// Calls `each` with keys and values from `from` on, in order, until it says `false` or keys end with `until`
    /// (not included).
    ///
    /// # Errors
    /// When the engine cannot read.
    fn scan(
        &self,
        family: Family,
        from: &[u8],
        until: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), ImageError>;

    /// An iterator-like cursor is what listing needs: the first key at or after `from` and before `until`.
    ///
    /// # Errors
    /// When the engine cannot read.
    fn cursor<'a>(&'a self, family: Family, until: &[u8]) -> Result<Box<dyn Cursor + 'a>, ImageError>;
}

/// A key and its value.
pub type KeyValue<'a> = (&'a [u8], &'a [u8]);

/// A position in a family that can jump: skip-scan over delimiters costs one seek a common prefix.
pub trait Cursor {
    /// Goes to the first key at or after `key`.
    fn seek(&mut self, key: &[u8]);
    /// Goes to the next key.
    fn next(&mut self);
    /// The key and value here; none at the end.
    ///
    /// # Errors
    /// When the engine could not read.
    fn entry(&self) -> Result<Option<KeyValue<'_>>, ImageError>;
}

/// The engine of one origin and engine generation.
///
/// 1. `commit` is atomic and visible to every later snapshot at once.
/// 2. What is on disk after a crash at any moment is the result of a prefix of the commits: all up to some point, nothing
///    after. After `flush` has returned, that prefix holds everything committed before `flush` was called. Only the bytes
///    of chunks ([`Family::Body`]) committed since the last flush may be lost, where their keys are not: they then read as
///    corrupt or as other bytes, which their checksum tells.
/// 3. Any number of threads may use it at once; [`Image`] sees to it that commits which depend on each other do not cross.
pub trait Engine: Send + Sync + 'static {
    /// Changes, all or none.
    ///
    /// # Errors
    /// When the engine fails; then nothing was changed.
    fn commit(&self, changes: Vec<Change>) -> Result<(), ImageError>;

    /// A snapshot.
    fn snapshot(&self) -> Arc<dyn Tables>;

    /// Makes everything committed before the call durable.
    ///
    /// # Errors
    /// [`ImageError::NoSpace`] can be tried again; any other error is final.
    fn flush(&self) -> Result<(), ImageError>;

    /// Flushes, and keeps everything as it is now, durably, until [`Engine::thaw`]: what a baseline is read from. It takes the
    /// place of what was frozen before. Nobody commits meanwhile. What is dropped from now on costs its space until then.
    ///
    /// # Errors
    /// As [`Engine::flush`]; then nothing is frozen.
    fn freeze(&self) -> Result<(), ImageError>;

    /// What is frozen, here or by an earlier process.
    fn frozen(&self) -> Option<Arc<dyn Tables>>;

    /// Gives up what is frozen.
    ///
    /// # Errors
    /// When the engine cannot.
    fn thaw(&self) -> Result<(), ImageError>;

    /// Another engine is the origin's now: the files of this one go when its last user does.
    fn retire(&self);

    /// Bytes on disk by family, and a few of the engine's own figures, for metrics: name and value.
    fn figures(&self) -> Vec<(&'static str, u64)>;
}

/// One origin's container and image in an engine. Cheap to clone; all clones are the same image.
#[derive(Clone)]
pub struct Image {
    engine: Arc<RwLock<Arc<dyn Engine>>>,
    /// Held by everything that reads the image in order to change it. Appending does not: it only adds to the container.
    changing: Arc<Mutex<()>>,
}

impl Image {
    /// The image in `engine`.
    #[must_use]
    pub fn new(engine: Arc<dyn Engine>) -> Self {
        Self { engine: Arc::new(RwLock::new(engine)), changing: Arc::default() }
    }

    fn engine(&self) -> Arc<dyn Engine> {
        Arc::clone(&self.engine.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// All clones are the image in another engine from now on: one that a baseline has filled. Views that were taken before
    /// stay what they are. Nobody appends meanwhile. Returns the one before.
    #[must_use]
    pub fn swap(&self, engine: Arc<dyn Engine>) -> Arc<dyn Engine> {
        let _changing = self.changing();
        std::mem::replace(&mut self.engine.write().unwrap_or_else(PoisonError::into_inner), engine)
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far it is.
    ///
    /// # Errors
    /// When the engine cannot read.
    pub fn progress(&self) -> Result<Progress, ImageError> {
        self.view().progress()
    }

    /// Puts records in the container: ops in the log, chunks in the body family. They must follow what is there. One
    /// thread appends; another one may apply at the same time.
    ///
    /// # Errors
    /// [`ImageError::Gap`] when they do not follow, [`ImageError::Corrupt`] when one is not the child of the one before;
    /// engine errors.
    pub fn append(&self, records: &[Record]) -> Result<Position, ImageError> {
        apply::append(self.engine().as_ref(), records)
    }

    /// Puts the bytes of chunks back that the container knows and a power loss took ([`Engine`], 2). Records that are not
    /// its own, and chunks that it does not know any more, are left alone. Returns how many were put back.
    ///
    /// # Errors
    /// Engine errors.
    pub fn restore(&self, records: &[Record]) -> Result<usize, ImageError> {
        apply::restore(self.engine().as_ref(), records)
    }

    /// Puts the bytes of a chunk in the place of damaged ones, in one batch that gives the old place up: bytes that a peer sent,
    /// which are taken only where they fit the checksum that is known here. Where none is known, `vouched` counts for a chunk that
    /// the image counts: the CRC-32C that a peer with the same history knows. What is sound, or nobody counts any more, is left
    /// alone.
    ///
    /// # Errors
    /// Engine errors.
    pub fn repair(&self, chunk: ChunkId, bytes: &Bytes, vouched: Option<u32>) -> Result<Mended, ImageError> {
        let _changing = self.changing();
        apply::repair(self.engine().as_ref(), chunk, bytes, vouched)
    }

    /// Applies records from the container, at most up to `through` and about `limit` of them, in one atomic batch that
    /// also moves the applied mark. Does nothing for what was applied before, stops at the last appended one.
    ///
    /// # Errors
    /// When the next record is missing or cannot be read or carried out: the image stays before it (F42). What comes before
    /// such a one is applied by the calls before.
    pub fn apply(&self, through: Seq, limit: usize) -> Result<Position, ImageError> {
        let _changing = self.changing();
        apply::apply(self.engine().as_ref(), through, limit)
    }

    /// Makes everything so far durable and says how far that is.
    ///
    /// # Errors
    /// As [`Engine::flush`].
    pub fn flush(&self) -> Result<Progress, ImageError> {
        let progress = self.progress()?;
        self.engine().flush()?;
        Ok(progress)
    }

    /// Records from `from` on, at most about `bytes_max` bytes but at least one, as long as the container has them.
    ///
    /// # Errors
    /// When one is corrupt or the engine cannot read.
    pub fn read_log(&self, from: Seq, bytes_max: usize) -> Result<Vec<Record>, ImageError> {
        self.view().read_log(from, bytes_max)
    }

    /// Removes records up to `through` from the log family. Never past what is applied. Bodies stay.
    ///
    /// # Errors
    /// Engine errors.
    pub fn trim(&self, through: Seq) -> Result<(), ImageError> {
        let _changing = self.changing();
        apply::trim(self.engine().as_ref(), through)
    }

    /// Removes every record after `last` from the container, with the chunks that they brought. Refused where one of
    /// them is applied. `generation` is the highest that was used in the partition: its segments may hold what is cut, so
    /// that recovery never reads them again. The caller has flushed: what they hold of the rest is durable here.
    ///
    /// # Errors
    /// [`ImageError::Applied`] when something after `last` is applied, [`ImageError::NotHere`] when the container has no
    /// such record, or engine errors.
    pub fn cut(&self, last: Position, generation: u64) -> Result<(), ImageError> {
        let _changing = self.changing();
        apply::cut(self.engine().as_ref(), last, generation)
    }

    /// The generation that the last cut was told; 0 where nothing was ever cut.
    ///
    /// # Errors
    /// When the engine cannot read.
    pub fn generation_floor(&self) -> Result<u64, ImageError> {
        apply::generation_floor(self.engine().snapshot().as_ref())
    }

    /// Deletes bodies that nothing refers to and that were dropped by a record up to `through`: at most about `limit`
    /// chunks. Returns how many bodies wait still.
    ///
    /// # Errors
    /// Engine errors.
    pub fn collect(&self, through: Seq, limit: usize) -> Result<usize, ImageError> {
        let _changing = self.changing();
        apply::collect(self.engine().as_ref(), through, limit)
    }

    /// A consistent look at everything, now.
    #[must_use]
    pub fn view(&self) -> View {
        View::new(self.engine().snapshot())
    }

    /// As [`Engine::freeze`], while nothing of the image changes. Nobody appends meanwhile. Says at which record the image
    /// is frozen.
    ///
    /// # Errors
    /// As there.
    pub fn freeze(&self) -> Result<Position, ImageError> {
        let _changing = self.changing();
        let engine = self.engine();
        engine.freeze()?;
        Ok(view::progress(engine.snapshot().as_ref())?.applied)
    }

    /// The image as it was frozen, here or by an earlier process.
    #[must_use]
    pub fn frozen(&self) -> Option<View> {
        self.engine().frozen().map(View::new)
    }

    /// As [`Engine::thaw`].
    ///
    /// # Errors
    /// As there.
    pub fn thaw(&self) -> Result<(), ImageError> {
        self.engine().thaw()
    }

    /// Begins to take a baseline of the image at `at` into this engine, which is empty.
    ///
    /// # Errors
    /// [`ImageError::Engine`] where it is not; engine errors.
    pub fn begin_baseline(&self, at: Position) -> Result<(), ImageError> {
        let _changing = self.changing();
        baseline::begin(self.engine().as_ref(), at)
    }

    /// Takes pieces of a baseline.
    ///
    /// # Errors
    /// [`ImageError::Engine`] where none at `at` was begun; engine errors.
    pub fn take_pieces(&self, at: Position, pieces: Vec<Piece>) -> Result<(), ImageError> {
        let _changing = self.changing();
        baseline::take(self.engine().as_ref(), at, pieces)
    }

    /// Makes what was taken durable, then notes that the next piece is the one at `next`: there a baseline that a crash
    /// interrupts goes on.
    ///
    /// # Errors
    /// As [`Image::take_pieces`].
    pub fn place_bookmark(&self, at: Position, next: &Bookmark) -> Result<(), ImageError> {
        let _changing = self.changing();
        baseline::place(self.engine().as_ref(), at, next)
    }

    /// The last piece was taken: from here on this is the image at `at`, durably, and its container is empty.
    ///
    /// # Errors
    /// As [`Image::take_pieces`].
    pub fn end_baseline(&self, at: Position) -> Result<(), ImageError> {
        let _changing = self.changing();
        baseline::end(self.engine().as_ref(), at)
    }

    /// The baseline that is being taken into this engine: of which moment, and where its next pieces begin.
    ///
    /// # Errors
    /// When the engine cannot read.
    pub fn baseline(&self) -> Result<Option<(Position, Bookmark)>, ImageError> {
        baseline::under_way(self.engine().snapshot().as_ref())
    }

    /// About how many bytes a baseline of the image is.
    #[must_use]
    pub fn size(&self) -> u64 {
        let counts = ["image_bytes", "image_memtable_bytes", "body_file_bytes"];
        self.figures().iter().filter(|(name, _)| counts.contains(name)).map(|(_, bytes)| bytes).sum()
    }

    /// As [`Engine::figures`].
    #[must_use]
    pub fn figures(&self) -> Vec<(&'static str, u64)> {
        self.engine().figures()
    }
}

/// Names a body in messages.
#[must_use]
pub fn body_name(body: BodyId) -> String {
    format!("{}/{}", body.epoch, body.seq)
}
