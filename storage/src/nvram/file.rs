//! The region as a preallocated file, or a block device: direct I/O and one `fdatasync` a batch for persist class `device`;
//! plain writes for `memory`, where the file lies on a battery-backed or tmpfs mount and must only survive the process.
//!
//! The file is written with zeros once when it is made: an unwritten extent would cost a journal commit at its first use.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use bytes::Bytes;
use rustix::fs::OFlags;

use super::{BLOCK_LEN, Nvram, NvramError};
use crate::aligned::Aligned;

/// What a persisted byte survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PersistClass {
    /// Power loss: the device has flushed it.
    #[default]
    Device,
    /// The end of the process: the mount is memory that outlives it.
    Memory,
}

impl PersistClass {
    /// The name in configuration and status.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Memory => "memory",
        }
    }
}

/// Bytes that are staged for one write call.
const STAGING_LEN: usize = 4 << 20;

/// The region.
pub struct FileNvram {
    file: File,
    len: u64,
    class: PersistClass,
    staging: Aligned,
}

impl FileNvram {
    /// Opens the region at `path`, or makes one of `len` bytes there. `progress` is told how many bytes are zeroed.
    /// An existing region keeps its length, and must be as long as asked at least.
    ///
    /// # Errors
    /// When the file cannot be opened, made, or is too short.
    pub fn open(path: &Path, len: u64, class: PersistClass, progress: &mut dyn FnMut(u64)) -> Result<Self, NvramError> {
        let len = len.next_multiple_of(BLOCK_LEN);
        let fail = |action: &'static str| move |source| NvramError::Io { action, offset: 0, source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let direct = OFlags::DIRECT.bits().cast_signed();
        let file = match class {
            PersistClass::Device => options.clone().custom_flags(direct).open(path).or_else(|_| options.open(path)),
            PersistClass::Memory => options.open(path),
        };
        let file = file.map_err(fail("open"))?;
        let kind = file.metadata().map_err(fail("open"))?.file_type();
        let have = if kind.is_file() { file.metadata().map_err(fail("open"))?.len() } else { len };
        let mut region = Self { file, len, class, staging: Aligned::new(STAGING_LEN) };
        if have < len {
            if have != 0 && region.is_used()? {
                let text = format!("the NVRAM region has {have} bytes, the configuration asks for {len}");
                return Err(NvramError::Layout(text));
            }
            region.zero(progress)?;
            // The file's name must survive too.
            let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(dir).and_then(|dir| dir.sync_all()).map_err(fail("persist"))?;
        }
        Ok(region)
    }

    /// A file that was cut off while it was zeroed has no superblock and may be made anew.
    fn is_used(&mut self) -> Result<bool, NvramError> {
        let mut head = [0; 8];
        let staged = self.staging.bytes(BLOCK_LEN as usize);
        let read = self.file.read_at(staged, 0);
        let read = read.map_err(|source| NvramError::Io { action: "read", offset: 0, source })?;
        head.copy_from_slice(&staged[..8]);
        Ok(read >= 8 && head != [0; 8])
    }

    fn zero(&mut self, progress: &mut dyn FnMut(u64)) -> Result<(), NvramError> {
        let mut at = 0;
        self.staging.bytes(STAGING_LEN).fill(0);
        while at < self.len {
            let step = (self.len - at).min(STAGING_LEN as u64) as usize;
            let staged = self.staging.bytes(step);
            self.file.write_all_at(staged, at).map_err(|source| NvramError::Io {
                action: "zero",
                offset: at,
                source,
            })?;
            at += step as u64;
            progress(at);
        }
        self.file.sync_all().map_err(|source| NvramError::Io { action: "persist", offset: 0, source })
    }

    /// What a persist is worth here.
    #[must_use]
    pub fn class(&self) -> PersistClass {
        self.class
    }

    fn check(&self, offset: u64, len: u64) -> Result<(), NvramError> {
        let fits = offset.checked_add(len).is_some_and(|end| end <= self.len);
        if fits && offset.is_multiple_of(BLOCK_LEN) {
            return Ok(());
        }
        Err(NvramError::Range { offset, len, region: self.len })
    }

    fn write_staged(&mut self, offset: u64, filled: usize) -> Result<(), NvramError> {
        let padded = filled.next_multiple_of(BLOCK_LEN as usize);
        let staged = self.staging.bytes(padded);
        staged[filled..].fill(0);
        self.file.write_all_at(staged, offset).map_err(|source| NvramError::Io { action: "write", offset, source })
    }
}

impl Nvram for FileNvram {
    fn len(&self) -> u64 {
        self.len
    }

    fn write(&mut self, offset: u64, pieces: &[Bytes]) -> Result<(), NvramError> {
        let len: usize = pieces.iter().map(Bytes::len).sum();
        self.check(offset, (len as u64).next_multiple_of(BLOCK_LEN))?;
        let (mut at, mut filled) = (offset, 0);
        for piece in pieces {
            let mut rest = &piece[..];
            while !rest.is_empty() {
                let step = rest.len().min(STAGING_LEN - filled);
                self.staging.bytes(STAGING_LEN)[filled..filled + step].copy_from_slice(&rest[..step]);
                (filled, rest) = (filled + step, &rest[step..]);
                if filled == STAGING_LEN {
                    self.write_staged(at, filled)?;
                    (at, filled) = (at + STAGING_LEN as u64, 0);
                }
            }
        }
        if filled > 0 { self.write_staged(at, filled) } else { Ok(()) }
    }

    fn persist(&mut self) -> Result<(), NvramError> {
        match self.class {
            PersistClass::Memory => Ok(()),
            PersistClass::Device => {
                self.file.sync_data().map_err(|source| NvramError::Io { action: "persist", offset: 0, source })
            }
        }
    }

    fn read(&mut self, offset: u64, len: usize) -> Result<Bytes, NvramError> {
        self.check(offset, len as u64)?;
        let mut out = Vec::with_capacity(len);
        while out.len() < len {
            let (at, step) = (offset + out.len() as u64, (len - out.len()).min(STAGING_LEN));
            let staged = self.staging.bytes(step);
            self.file.read_exact_at(staged, at).map_err(|source| NvramError::Io {
                action: "read",
                offset: at,
                source,
            })?;
            out.extend_from_slice(staged);
        }
        Ok(out.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_after_reopening() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("nvram");
        for class in [PersistClass::Device, PersistClass::Memory] {
            let mut region = FileNvram::open(&path, 9 << 20, class, &mut |_| ()).expect("open");
            let big = Bytes::from(vec![7; STAGING_LEN + 5]);
            region.write(8192, &[Bytes::from_static(b"ab"), big]).expect("write");
            region.persist().expect("persist");
            drop(region);
            let mut region = FileNvram::open(&path, 9 << 20, class, &mut |_| ()).expect("reopen");
            let read = region.read(8192, STAGING_LEN + 8192).expect("read");
            assert_eq!(&read[..3], b"ab\x07");
            assert_eq!(read[STAGING_LEN + 6..STAGING_LEN + 9], [7, 0, 0]);
        }
    }

    #[test]
    fn ranges_outside_are_refused_and_a_short_region_too() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("nvram");
        let mut region = FileNvram::open(&path, 8192, PersistClass::Memory, &mut |_| ()).expect("open");
        assert!(matches!(region.write(8192, &[Bytes::from_static(b"x")]), Err(NvramError::Range { .. })));
        assert!(matches!(region.write(1, &[Bytes::from_static(b"x")]), Err(NvramError::Range { .. })));
        assert!(matches!(region.read(4096, 8192), Err(NvramError::Range { .. })));
        region.write(0, &[Bytes::from_static(b"LOCKSTEP")]).expect("write");
        let longer = FileNvram::open(&path, 16384, PersistClass::Memory, &mut |_| ());
        assert!(matches!(longer.err(), Some(NvramError::Layout(_))));
    }
}
