//! How much of the disk is left, how much of it a node keeps for itself, and the file that holds a part of that.
//!
//! Always true: what the NVRAM holds finds room in the engine. Writes, and a source's records, are refused while there is
//! still more space than that; and where others have filled the disk, the file gives some back: a part when an engine finds
//! no space, the rest at a start. It is filled up again when there is enough.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FallocateFlags, fallocate};

/// Name of the file in the data directory.
const NAME: &str = "reserve";
/// Parts in which the file gives space back while a node runs; the last one is kept for its next start.
const PARTS: u64 = 4;

/// Bytes of disk that a node keeps for itself (F22, F23).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reserve {
    /// With less, a source takes no write that needs space, and no destination begins a baseline.
    pub writes_bytes: u64,
    /// With less, a destination takes no records. Less than the other one: of two disks that fill together the source's says
    /// no first, and the deletions that make room still reach the mirror.
    pub records_bytes: u64,
    /// So many of them are held by a file, where nobody else takes them: enough to start, and to write out what the NVRAM
    /// holds.
    pub held_bytes: u64,
}

/// The disk of the data directory.
pub(super) struct Disk {
    dir: PathBuf,
    reserve: Reserve,
    held: Mutex<Held>,
}

/// The file, and how long it is; none where the file system cannot set space aside.
struct Held {
    file: Option<File>,
    len: u64,
}

impl Disk {
    /// The disk of this directory, which is there. What an earlier process held is held on.
    pub(super) fn open(dir: &Path, reserve: Reserve) -> Self {
        let held = Held::open(&dir.join(NAME)).unwrap_or_else(|error| {
            tracing::warn!("no space is held in {}: {error}", dir.display());
            Held { file: None, len: 0 }
        });
        Self { dir: dir.to_owned(), reserve, held: Mutex::new(held) }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that are free or held; none where that cannot be told.
    fn left_bytes(&self, held: &Held) -> Option<u64> {
        let space = rustix::fs::statvfs(&self.dir).ok()?;
        Some(space.f_bavail.saturating_mul(space.f_frsize).saturating_add(held.len))
    }

    /// Bytes that a baseline may take.
    pub(super) fn free_bytes(&self) -> Option<u64> {
        let left = self.left_bytes(&self.held())?;
        Some(left.saturating_sub(self.reserve.writes_bytes))
    }

    fn has_less_than(&self, bytes: u64) -> bool {
        self.left_bytes(&self.held()).is_some_and(|left| left < bytes)
    }

    /// Holds what is to be held, while there is enough for that.
    fn hold(&self) {
        let mut held = self.held();
        if held.len >= self.reserve.held_bytes || self.left_bytes(&held).is_none_or(|l| l < self.reserve.writes_bytes) {
            return;
        }
        if let Err(error) = held.grow(self.reserve.held_bytes) {
            tracing::warn!("no space is held in {}: {error}", self.dir.display());
            held.file = None;
        }
    }

    /// Gives back a part of what is held; says whether there was any.
    fn give(&self) -> bool {
        let part = self.reserve.held_bytes / PARTS;
        let mut held = self.held();
        if held.len <= part {
            return false;
        }
        let left = held.len.saturating_sub(part).max(part);
        held.shrink(left)
    }

    /// Gives back all that is held, for a start that finds no space; says whether there was any.
    pub(super) fn give_all(&self) -> bool {
        let mut held = self.held();
        held.len > 0 && held.shrink(0)
    }
}

impl Held {
    fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let len = file.metadata()?.len();
        Ok(Self { file: Some(file), len })
    }

    fn grow(&mut self, len: u64) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        match fallocate(file, FallocateFlags::empty(), self.len, len - self.len) {
            Ok(()) => {
                self.len = len;
                Ok(())
            }
            // Somebody was faster: what this has left behind is given back, and the next look tries again.
            Err(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT) => file.set_len(self.len),
            Err(error) => Err(error.into()),
        }
    }

    /// Says whether it is shorter now.
    fn shrink(&mut self, len: u64) -> bool {
        let Some(file) = &self.file else { return false };
        // Synced: some file systems free nothing before.
        match file.set_len(len).and_then(|()| file.sync_all()) {
            Ok(()) => {
                self.len = len;
                true
            }
            Err(error) => {
                tracing::warn!("what is held on the disk cannot be given back: {error}");
                false
            }
        }
    }
}

/// What one origin asks of the disk.
pub(super) struct Space {
    disk: Arc<Disk>,
    /// This node takes the origin's writes.
    is_source: AtomicBool,
    /// The apply worker waits for space.
    starved: AtomicBool,
}

impl Space {
    pub(super) fn new(disk: Arc<Disk>, is_source: bool) -> Self {
        Self { disk, is_source: AtomicBool::new(is_source), starved: AtomicBool::new(false) }
    }

    /// What this node is for the origin has changed.
    pub(super) fn set_source(&self, is_source: bool) {
        self.is_source.store(is_source, Ordering::Release);
    }

    /// There is too little for what this node is.
    pub(super) fn is_short(&self) -> bool {
        let Reserve { writes_bytes, records_bytes, .. } = self.disk.reserve;
        let needed = if self.is_source.load(Ordering::Acquire) { writes_bytes } else { records_bytes };
        self.starved.load(Ordering::Acquire) || self.disk.has_less_than(needed)
    }

    /// The apply worker found no space, or has found some. What is held helps it on.
    pub(super) fn set_starved(&self, starved: bool) {
        self.starved.store(starved, Ordering::Release);
        if starved {
            self.give();
        }
    }

    /// Somebody found no space: a part of what is held is given back.
    pub(super) fn give(&self) {
        if self.disk.give() {
            tracing::warn!("no space on the disk: a part of what is held in {} is given back", self.disk.dir.display());
        }
    }

    /// Holds what is to be held, while there is enough for that.
    pub(super) fn hold(&self) {
        self.disk.hold();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(dir: &Path, writes_bytes: u64) -> Disk {
        Disk::open(dir, Reserve { writes_bytes, records_bytes: 0, held_bytes: 8 << 20 })
    }

    fn on_disk(dir: &Path) -> u64 {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(dir.join(NAME)).expect("the file").blocks() * 512
    }

    #[test]
    fn what_is_held_counts_as_left_and_goes_in_parts() {
        let dir = tempfile::tempdir().expect("a directory");
        let held = disk(dir.path(), 0);
        held.hold();
        assert!(on_disk(dir.path()) >= 8 << 20, "no space is set aside");
        let left = held.left_bytes(&held.held()).expect("a figure");
        let free = rustix::fs::statvfs(dir.path()).map(|s| s.f_bavail * s.f_frsize).expect("a figure");
        assert!(left >= free.saturating_sub(1 << 30) + (8 << 20), "what is held is not counted: {left} of {free}");
        for left in [6, 4, 2] {
            assert!(held.give());
            assert_eq!(held.held().len, left << 20);
        }
        assert!(!held.give(), "the last part is for the next start");
        drop(held);
        let again = disk(dir.path(), 0);
        assert!(again.give_all());
        assert_eq!(on_disk(dir.path()), 0);
        assert!(!again.give_all(), "there is no more");
    }

    #[test]
    fn nothing_is_held_where_there_is_not_enough() {
        let dir = tempfile::tempdir().expect("a directory");
        let short = disk(dir.path(), u64::MAX);
        short.hold();
        assert_eq!(short.held().len, 0);
        assert_eq!(short.free_bytes(), Some(0));
    }
}
