//! Tails: what a deposed source had that its peer never got. A cut sets it aside, an operator lists, exports and discards
//! it; nothing here ever puts it back into a log.
//!
//! A tail is a file `tail.<origin>.<epoch>` in the data directory, named after the epoch in which the two histories parted:
//! records one after the other, each its head (header and op) and its payload, byte for byte as in NVRAM
//! ([`lockstep_storage::record`]), and nothing else. They are one history: every record is the child of the one before. What
//! does not follow an earlier tail of the same name goes to a file of its own, `tail.<origin>.<epoch>.2` and so on.
//!
//! What an object of the tail needs from before the first record lies beside it, in a directory `tail-bodies.<origin>.<epoch>`
//! with a file for every body. It belongs to the tail: it is read, counted and discarded with it.
//!
//! # Layout
//! - [`writer`]: appends what a cut sets aside; a cut that is tried again leaves no record and no chunk twice.
//! - [`beside`]: the chunks from before the tail.
//! - [`reader`]: reads and verifies, one record in memory at a time; damage is a value.
//! - [`bodies`]: puts the bytes of an object together from the tail's chunks, those beside it and the container's.

mod beside;
pub mod bodies;
pub mod reader;
pub mod writer;

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lockstep_storage::id::{Epoch, Origin};

use self::reader::Reader;
use self::writer::Writer;

/// What the names of all tails begin with.
const PREFIX: &str = "tail.";
/// What the names of the directories beside them begin with.
const BESIDE_PREFIX: &str = "tail-bodies.";
/// Longest part of a name after the origin, in bytes: an epoch and a number.
const EPOCH_LEN_MAX: usize = 48;
/// Most tails that a list names: the rest is left out.
const LISTED_MAX: usize = 10_000;

/// Which tail: an origin, and the epoch as it is written in the file's name, with a number behind it where there is one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TailName {
    /// Whose records.
    pub origin: Origin,
    epoch: String,
}

impl TailName {
    /// A name from what an operator or a directory says; none where it can be no tail's.
    #[must_use]
    pub fn new(origin: Origin, epoch: &str) -> Option<Self> {
        let allowed = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b) || b == b'-' || b == b'.';
        let fits = (1..=EPOCH_LEN_MAX).contains(&epoch.len()) && epoch.bytes().all(allowed);
        // An epoch begins with a digit: no name is a step in a path.
        (fits && epoch.as_bytes()[0].is_ascii_digit()).then(|| Self { origin, epoch: epoch.to_owned() })
    }

    /// The first name of an epoch's tail is its own; a later history of the same epoch has a number from 2 on.
    fn numbered(origin: &Origin, epoch: Epoch, number: u32) -> Self {
        let epoch = if number == 1 { epoch.to_string() } else { format!("{epoch}.{number}") };
        Self { origin: origin.clone(), epoch }
    }

    fn of_file(name: &str) -> Option<Self> {
        let (origin, epoch) = name.strip_prefix(PREFIX)?.split_once('.')?;
        Self::new(Origin::new(origin).ok()?, epoch)
    }

    /// The epoch in which the histories parted, as in the file's name.
    #[must_use]
    pub fn epoch(&self) -> &str {
        &self.epoch
    }

    /// Its path in a data directory.
    #[must_use]
    pub fn path(&self, dir: &Path) -> PathBuf {
        dir.join(self.to_string())
    }

    /// The directory with the chunks beside it, in a data directory. It begins as no tail does.
    fn beside(&self, dir: &Path) -> PathBuf {
        dir.join(format!("{BESIDE_PREFIX}{}.{}", self.origin, self.epoch))
    }
}

impl fmt::Display for TailName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}.{}", self.origin, self.epoch)
    }
}

/// A tail as the directory shows it, unread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TailFile {
    /// Which.
    pub name: TailName,
    /// Length of the file and of the chunks beside it, in bytes.
    pub bytes: u64,
    /// When something was last written to it, milliseconds since 1970.
    pub set_aside_ms: u64,
}

/// The tails of a node. Cheap to clone; all clones are the same.
#[derive(Debug, Clone)]
pub struct Tails {
    dir: PathBuf,
    /// Held by everything that changes a file.
    changing: Arc<Mutex<()>>,
}

impl Tails {
    /// Those in a data directory.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, changing: Arc::default() }
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that appends for one worker.
    #[must_use]
    pub fn writer(&self) -> Writer {
        Writer::new(self.clone())
    }

    /// Every tail by origin and epoch, at most 10,000, without a look inside.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self) -> io::Result<Vec<TailFile>> {
        let mut tails = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let Some(name) = entry.file_name().to_str().and_then(TailName::of_file) else { continue };
            // One that was discarded meanwhile is none.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_file() && tails.len() < LISTED_MAX {
                let set_aside_ms = u64::try_from(metadata.mtime()).unwrap_or_default().saturating_mul(1000);
                let bytes = metadata.len() + beside::bytes_of(&name.beside(&self.dir))?;
                tails.push(TailFile { name, bytes, set_aside_ms });
            }
        }
        tails.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(tails)
    }

    /// Reads a tail from its first record on.
    ///
    /// # Errors
    /// When it is not there or cannot be opened.
    pub fn open(&self, name: &TailName) -> io::Result<Reader<File>> {
        Reader::open(&name.path(&self.dir))
    }

    /// How many bodies beside a tail have damaged chunks, or cannot be read to their ends. Reads all of them.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn damaged_bodies(&self, name: &TailName) -> io::Result<u64> {
        beside::damaged_in(&name.beside(&self.dir))
    }

    /// Removes a tail and what lies beside it, durably. What it held is gone: it was never a part of any other history.
    ///
    /// # Errors
    /// When it is not there or cannot be removed.
    pub fn discard(&self, name: &TailName) -> io::Result<()> {
        let _changing = self.changing();
        let path = name.path(&self.dir);
        std::fs::metadata(&path)?;
        // The tail goes last: as long as it is listed, this can be tried again.
        beside::discard(&name.beside(&self.dir))?;
        std::fs::remove_file(path)?;
        File::open(&self.dir)?.sync_all()
    }
}

#[cfg(test)]
mod samples;
