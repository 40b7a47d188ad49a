//! The files that chunks of bodies lie in, beside RocksDB: written once, past the page cache, never moved, and given back
//! to the file system by punching holes. RocksDB knows of each chunk only its [`Place`].
//!
//! Always true: what was there before [`BodyFiles::sync`] began is durable when it returns, whoever wrote it; and a place
//! that anything has ever referred to is never used again, so freeing one twice does no harm. A place that RocksDB made
//! durable by itself, before a sync, may be found without its bytes after a power loss: recovery puts them back from the
//! NVRAM, which has them until the next flush.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rustix::fs::{FallocateFlags, OFlags, fallocate};

use crate::aligned::Aligned;
use crate::image::ImageError;
use crate::nvram::BLOCK_LEN;
use crate::record::RECORD_LEN_MAX;

/// A file that has grown past this takes no more chunks.
const FILE_LEN: u64 = 512 << 20;
/// A file grows by this much at a time: what is preallocated costs no allocation while it is written.
const GROW_LEN: u64 = 32 << 20;
/// Bytes that are gathered for one write.
const STAGING_LEN: usize = 4 << 20;
/// Files that are kept open for reading.
const OPEN_MAX: usize = 256;

/// Where a chunk lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Number of the file.
    pub(super) file: u64,
    /// First byte, at a block bound.
    pub(super) offset: u64,
    /// Length in bytes.
    pub(super) len: u32,
}

impl Place {
    /// Length of an encoded place.
    pub(super) const ENCODED_LEN: usize = 20;

    pub(super) fn encode(self) -> [u8; Self::ENCODED_LEN] {
        let mut out = [0; Self::ENCODED_LEN];
        out[..8].copy_from_slice(&self.file.to_be_bytes());
        out[8..16].copy_from_slice(&self.offset.to_be_bytes());
        out[16..].copy_from_slice(&self.len.to_be_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let fixed: &[u8; Self::ENCODED_LEN] = bytes.try_into().ok()?;
        let word = |at: usize| u64::from_be_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|i| fixed[at + i]));
        let len = u32::from_be_bytes([fixed[16], fixed[17], fixed[18], fixed[19]]);
        Some(Self { file: word(0), offset: word(8), len })
    }

    /// Bytes that it takes in its file.
    pub(super) fn space(self) -> u64 {
        u64::from(self.len).next_multiple_of(BLOCK_LEN)
    }
}

/// The file that is being written.
struct Active {
    number: u64,
    file: File,
    /// First byte that is not used.
    end: u64,
    /// Bytes that the file system has set aside.
    allocated: u64,
}

struct Writer {
    active: Option<Active>,
    /// Full files that are not synced yet.
    full: Vec<File>,
    next_number: u64,
    staging: Aligned,
    /// Files of an earlier process: it may have ended before it synced them.
    left: Vec<u64>,
    /// Something may not be durable that was there when the last sync began.
    unsynced: bool,
}

/// All body files of an engine.
pub(super) struct BodyFiles {
    dir: PathBuf,
    direct_io: bool,
    writer: Mutex<Writer>,
    /// Held by the sync under way: a second one waits for the first.
    syncing: Mutex<()>,
    open: Mutex<BTreeMap<u64, Arc<File>>>,
}

fn failed(action: &str, path: &Path, error: &io::Error) -> ImageError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ImageError::NoSpace,
        _ => ImageError::Engine(format!("{action} {}: {error}", path.display())),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BodyFiles {
    /// The files in a directory: `known` ones with the bytes used in each; others hold nothing that anybody refers to
    /// and are removed, as is what lies behind the used bytes.
    pub(super) fn open(dir: &Path, direct_io: bool, known: &BTreeMap<u64, u64>) -> Result<Self, ImageError> {
        let mut highest = known.keys().next_back().copied().unwrap_or(0);
        let mut left = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(|e| failed("read", dir, &e))? {
            let path = entry.map_err(|e| failed("read", dir, &e))?.path();
            let Some(number) = number_of(&path) else { continue };
            highest = highest.max(number);
            let done = match known.get(&number) {
                None => std::fs::remove_file(&path),
                Some(used) => {
                    left.push(number);
                    shorten(&path, *used)
                }
            };
            done.map_err(|e| failed("tidy up", &path, &e))?;
        }
        let (next_number, staging) = (highest + 1, Aligned::new(STAGING_LEN));
        let unsynced = !left.is_empty();
        let writer = Mutex::new(Writer { active: None, full: Vec::new(), next_number, staging, left, unsynced });
        Ok(Self { dir: dir.to_owned(), direct_io, writer, syncing: Mutex::default(), open: Mutex::default() })
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:06}.body"))
    }

    /// Writes values; says where each lies.
    pub(super) fn append(&self, values: &[Bytes]) -> Result<Vec<Place>, ImageError> {
        let mut writer = lock(&self.writer);
        writer.unsynced |= !values.is_empty();
        let mut places = Vec::with_capacity(values.len());
        let mut rest = values;
        while !rest.is_empty() {
            let run = self.room(&mut writer, rest)?;
            let (now, later) = rest.split_at(run);
            let Writer { active: Some(active), staging, .. } = &mut *writer else {
                return Err(ImageError::Engine("no body file is open".into()));
            };
            self.write(active, staging, now, &mut places)?;
            rest = later;
        }
        Ok(places)
    }

    /// Sees to it that the active file takes the next values; says how many.
    fn room(&self, writer: &mut Writer, values: &[Bytes]) -> Result<usize, ImageError> {
        if writer.active.as_ref().is_some_and(|active| active.end >= FILE_LEN) {
            self.close(writer)?;
        }
        if writer.active.is_none() {
            let number = writer.next_number;
            let path = self.path(number);
            let file = self.create(&path).map_err(|e| failed("make", &path, &e))?;
            writer.next_number += 1;
            writer.active = Some(Active { number, file, end: 0, allocated: 0 });
        }
        let Some(active) = &mut writer.active else { return Ok(0) };
        let mut wanted = 0;
        let mut run = 0;
        for value in values {
            let space = (value.len() as u64).next_multiple_of(BLOCK_LEN);
            if run > 0 && active.end + wanted + space > FILE_LEN {
                break;
            }
            wanted += space;
            run += 1;
        }
        if active.end + wanted > active.allocated {
            let needed = active.end + wanted;
            let extend = |active: &mut Active, to: u64| {
                match fallocate(&active.file, FallocateFlags::empty(), active.allocated, to - active.allocated) {
                    Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => active.allocated = to,
                    Err(e) => return Err(failed("extend", &self.path(active.number), &e.into())),
                }
                Ok(())
            };
            match extend(active, needed.next_multiple_of(GROW_LEN)) {
                // On a disk that is nearly full only what is needed.
                Err(ImageError::NoSpace) => extend(active, needed)?,
                extended => extended?,
            }
        }
        Ok(run)
    }

    /// A new file whose name is durable too.
    fn create(&self, path: &Path) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let direct = OFlags::DIRECT.bits().cast_signed();
        let file = if self.direct_io { options.custom_flags(direct).open(path)? } else { options.open(path)? };
        File::open(&self.dir)?.sync_all()?;
        Ok(file)
    }

    /// Is everything that was appended durable, or about to be?
    #[cfg(test)]
    pub(super) fn is_synced(&self) -> bool {
        !lock(&self.writer).unsynced
    }

    /// Makes durable what was appended before.
    pub(super) fn sync(&self) -> Result<(), ImageError> {
        let _one_at_a_time = lock(&self.syncing);
        let (left, full, active) = {
            let mut writer = lock(&self.writer);
            if !std::mem::take(&mut writer.unsynced) {
                return Ok(());
            }
            let active = writer.active.as_ref().map(|active| active.file.try_clone()).transpose();
            let active = active.map_err(|e| failed("sync", &self.dir, &e))?;
            (std::mem::take(&mut writer.left), std::mem::take(&mut writer.full), active)
        };
        for number in left {
            match OpenOptions::new().write(true).open(self.path(number)).and_then(|file| file.sync_all()) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(self.unsynced(&e)),
                _ => {}
            }
        }
        for file in full.iter().chain(&active) {
            // Whatever it says: what a failed sync left behind is not known, so it is not tried again (F13).
            file.sync_data().map_err(|e| self.unsynced(&e))?;
        }
        Ok(())
    }

    fn unsynced(&self, error: &io::Error) -> ImageError {
        lock(&self.writer).unsynced = true;
        ImageError::Engine(format!("sync a body file in {}: {error}", self.dir.display()))
    }

    fn write(
        &self,
        active: &mut Active,
        staging: &mut Aligned,
        values: &[Bytes],
        places: &mut Vec<Place>,
    ) -> Result<(), ImageError> {
        let failed = |number: u64, e: &io::Error| failed("write", &self.path(number), e);
        let (mut at, mut filled) = (active.end, 0);
        for value in values {
            let len = u32::try_from(value.len()).map_err(|_| ImageError::Engine("a chunk is too long".into()))?;
            places.push(Place { file: active.number, offset: at + filled as u64, len });
            let mut rest = &value[..];
            while !rest.is_empty() {
                let step = rest.len().min(STAGING_LEN - filled);
                staging.bytes(STAGING_LEN)[filled..filled + step].copy_from_slice(&rest[..step]);
                (filled, rest) = (filled + step, &rest[step..]);
                if filled == STAGING_LEN {
                    active.file.write_all_at(staging.bytes(filled), at).map_err(|e| failed(active.number, &e))?;
                    (at, filled) = (at + STAGING_LEN as u64, 0);
                }
            }
            let padded = filled.next_multiple_of(BLOCK_LEN as usize);
            staging.bytes(padded)[filled..].fill(0);
            filled = padded;
        }
        if filled > 0 {
            active.file.write_all_at(staging.bytes(filled), at).map_err(|e| failed(active.number, &e))?;
        }
        active.end = at + filled as u64;
        Ok(())
    }

    /// The file that is being written, and how many bytes of it are used.
    pub(super) fn end(&self) -> Option<(u64, u64)> {
        lock(&self.writer).active.as_ref().map(|active| (active.number, active.end))
    }

    /// What was appended since the end was there is used again: nothing refers to it. What lies in an earlier file stays
    /// until that is gone.
    pub(super) fn rewind(&self, end: Option<(u64, u64)>) {
        if let Some(active) = &mut lock(&self.writer).active {
            match end {
                Some((number, end)) if number == active.number => active.end = end,
                _ => active.end = 0,
            }
        }
    }

    fn close(&self, writer: &mut Writer) -> Result<(), ImageError> {
        let Some(active) = writer.active.take() else { return Ok(()) };
        let shortened = active.file.set_len(active.end).map_err(|e| failed("close", &self.path(active.number), &e));
        writer.full.push(active.file);
        shortened
    }

    fn reader(&self, number: u64) -> Result<Arc<File>, ImageError> {
        let mut open = lock(&self.open);
        if let Some(file) = open.get(&number) {
            return Ok(Arc::clone(file));
        }
        let path = self.path(number);
        let file = match File::open(&path) {
            Ok(file) => Arc::new(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(ImageError::Unreadable(format!("{} is missing", path.display())));
            }
            Err(e) if is_damage(&e) => return Err(ImageError::Unreadable(format!("open {}: {e}", path.display()))),
            Err(e) => return Err(failed("open", &path, &e)),
        };
        if open.len() >= OPEN_MAX {
            open.pop_first();
        }
        open.insert(number, Arc::clone(&file));
        Ok(file)
    }

    /// The bytes at a place. What they are worth is for their checksum to say.
    pub(super) fn read(&self, place: Place) -> Result<Bytes, ImageError> {
        if place.len as usize > RECORD_LEN_MAX {
            return Err(ImageError::Unreadable(format!("a place of {} bytes", place.len)));
        }
        let file = self.reader(place.file)?;
        let mut buffer = vec![0; place.len as usize];
        match file.read_exact_at(&mut buffer, place.offset) {
            Ok(()) => Ok(buffer.into()),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                Err(ImageError::Unreadable(format!("{} is cut short", self.path(place.file).display())))
            }
            Err(e) if is_damage(&e) => {
                Err(ImageError::Unreadable(format!("read {}: {e}", self.path(place.file).display())))
            }
            Err(e) => Err(failed("read", &self.path(place.file), &e)),
        }
    }

    /// Gives a place back to the file system. One whose file is gone is free already.
    pub(super) fn punch(&self, place: Place) -> Result<(), ImageError> {
        let path = self.path(place.file);
        let punched = OpenOptions::new().write(true).open(&path).and_then(|file| {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            match fallocate(&file, flags, place.offset, place.space()) {
                Err(e) if e != rustix::io::Errno::OPNOTSUPP => Err(e.into()),
                _ => Ok(()),
            }
        });
        match punched {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("free", &path, &e)),
            _ => Ok(()),
        }
    }

    /// Removes a file of which nothing is left.
    pub(super) fn remove(&self, number: u64) -> Result<(), ImageError> {
        lock(&self.open).remove(&number);
        let path = self.path(number);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path, &e)),
            _ => Ok(()),
        }
    }
}

impl Drop for BodyFiles {
    fn drop(&mut self) {
        // What is set aside and not used is given back now, or when the engine is opened again.
        let _later = self.close(&mut lock(&self.writer));
    }
}

/// Does a medium say so of what lies on it? Other errors are of the process or the file system as a whole.
fn is_damage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    const SAYS_SO: [Errno; 4] = [Errno::IO, Errno::ILSEQ, Errno::BADMSG, Errno::UCLEAN];
    error.raw_os_error().is_some_and(|code| SAYS_SO.iter().any(|known| known.raw_os_error() == code))
}

fn number_of(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?.strip_suffix(".body")?;
    name.bytes().all(|b| b.is_ascii_digit()).then(|| name.parse().ok())?
}

/// Cuts off what was set aside, or written and never referred to.
fn shorten(path: &Path, used: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    if file.metadata()?.len() > used { file.set_len(used) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_rewound_is_used_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let files = BodyFiles::open(dir.path(), false, &BTreeMap::new()).expect("opens");
        let value = |byte: u8| [Bytes::from(vec![byte; 9_000])];
        let nothing = files.end();
        let refused = files.append(&value(1)).expect("appends");
        files.rewind(nothing);
        let kept = files.append(&value(2)).expect("appends");
        assert_eq!(refused, kept, "the first place of the file");
        let end = files.end();
        let refused = files.append(&value(3)).expect("appends");
        files.rewind(end);
        let next = files.append(&value(4)).expect("appends");
        assert_eq!(refused, next);
        assert_eq!(files.read(kept[0]).expect("reads"), vec![2; 9_000], "what came before is left alone");
        assert_eq!(files.read(next[0]).expect("reads"), vec![4; 9_000]);
    }
}
