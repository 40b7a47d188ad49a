//! A disk for a node that a test can fill to its last byte: a file system of its own, on a file where loop devices can be
//! had, else in memory. It takes root; where it cannot be had, that is said.
//!
//! It goes when this is dropped, also in a panic; what a killed process left, the next one removes.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// What the names of their directories begin with; the number of a process follows.
const NAME_PREFIX: &str = "lockstep-disk-";
/// In the directory: where it is mounted, and the file that it lies on.
const MOUNTED: &str = "mounted";
const IMAGE: &str = "image";
/// The file that takes the space.
const BALLAST: &str = "ballast";
/// Space is taken in pieces of these lengths, the longer ones first.
const PIECES: [u64; 3] = [1 << 20, 64 << 10, 4 << 10];

/// The disk.
#[derive(Debug)]
pub struct Disk {
    dir: PathBuf,
}

impl Disk {
    /// An empty one of so many bytes.
    ///
    /// # Errors
    /// With why this machine cannot, in one sentence.
    pub fn new(len: u64) -> Result<Self, String> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        sweep();
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("{NAME_PREFIX}{}-{number}", std::process::id()));
        let disk = Self { dir };
        let mounted = disk.path();
        std::fs::create_dir_all(&mounted).map_err(|e| format!("{}: {e}", mounted.display()))?;
        disk.on_a_file(len).or_else(|_| disk.in_memory(len))?;
        Ok(disk)
    }

    /// As [`Disk::new`]; none, and a word about it, where it cannot be had.
    #[must_use]
    pub fn or_skip(len: u64) -> Option<Self> {
        match Self::new(len) {
            Ok(disk) => Some(disk),
            Err(reason) => {
                // Past the test runner's capture: a skipped test must not look like one that ran.
                let _unheard = writeln!(std::io::stderr(), "skipped a test with a full disk: {reason}");
                None
            }
        }
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.dir.join(MOUNTED)
    }

    fn on_a_file(&self, len: u64) -> Result<(), String> {
        let image = self.dir.join(IMAGE);
        File::create(&image).and_then(|file| file.set_len(len)).map_err(|e| format!("{}: {e}", image.display()))?;
        let path = image.display().to_string();
        run("mkfs.ext4", &["-q", "-F", "-m", "0", &path])?;
        run("mount", &["-o", "loop", &path, &self.path().display().to_string()])
    }

    fn in_memory(&self, len: u64) -> Result<(), String> {
        let size = format!("size={len}");
        let made = run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", &self.path().display().to_string()]);
        made.map_err(|refusal| format!("a disk cannot be mounted here, which root may: {refusal}"))
    }

    /// Bytes that are free.
    ///
    /// # Panics
    /// When the file system does not say.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        let space = statvfs(self.path()).expect("a file system");
        space.f_bavail * space.f_frsize
    }

    /// Takes space until no more than so many bytes are free; 0 for not one more.
    ///
    /// # Panics
    /// When something else than space is missing.
    pub fn fill(&self, leave: u64) {
        let path = self.path().join(BALLAST);
        let file = OpenOptions::new().create(true).append(true).open(path).expect("a file");
        let mut at = file.metadata().expect("a length").len();
        for piece in PIECES {
            while self.free_bytes() >= leave.saturating_add(piece) {
                match fallocate(&file, FallocateFlags::empty(), at, piece) {
                    Ok(()) => at += piece,
                    Err(rustix::io::Errno::NOSPC) => break,
                    Err(error) => panic!("space cannot be taken: {error}"),
                }
            }
        }
    }

    /// Gives the space back.
    ///
    /// # Panics
    /// When that fails.
    pub fn free(&self) {
        std::fs::remove_file(self.path().join(BALLAST)).expect("the file that took it");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        remove(&self.dir);
    }
}

fn run(program: &str, words: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(words).stdin(Stdio::null()).output();
    let output = output.map_err(|e| format!("{program}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

fn remove(dir: &Path) {
    let mounted = dir.join(MOUNTED);
    let _not_mounted = run("umount", &["--lazy", &mounted.display().to_string()]);
    // Only what is left of the mount's own: never what lies on it.
    let _gone = std::fs::remove_dir(&mounted);
    let _gone = std::fs::remove_file(dir.join(IMAGE));
    let _gone = std::fs::remove_dir(dir);
}

/// Removes what processes that are gone have left.
fn sweep() {
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.strip_prefix(NAME_PREFIX).and_then(|rest| rest.split('-').next());
        if process.is_some_and(|number| !Path::new("/proc").join(number).exists()) {
            remove(&entry.path());
        }
    }
}
