//! The engine on RocksDB: one database a directory, with the column families of one origin, and files of bodies beside it.
//!
//! RocksDB's own log is off: the NVRAM is its log. With atomic flush what a crash leaves is then a prefix of the commits,
//! over all families. The chunks of bodies lie in files of their own ([`body_files`]), so that neither a flush nor a
//! compaction moves them; the family of bodies holds their places, and [`space`] frees what was dropped. Block cache and
//! the budget of the write buffers are shared by all origins of a node ([`RocksShared`]).
//!
//! A damaged directory is an error value. RocksDB's checksums are verified for keys and the image; chunks and records
//! carry our own, which are verified above this seam, so RocksDB need not do it again.

mod body_files;
mod frozen;
mod options;
mod snapshot;
mod space;
mod values;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rocksdb::{ColumnFamily, DB, DBRawIterator, ErrorKind, FlushOptions, ReadOptions, WriteBatch, WriteOptions};

use self::body_files::{BodyFiles, Place};
pub use self::options::{RocksOptions, RocksShared};
use self::snapshot::OwnedSnapshot;
use self::space::{Era, Space, dropped_key, file_key};
use super::{Change, Cursor, Engine, Family, ImageError, KeyValue, Tables};
use crate::id::Origin;

const FAMILIES: [Family; 3] = [Family::Log, Family::Body, Family::Image];

/// An origin's engine. Closing it, when it and every snapshot is dropped, flushes what was committed.
pub struct RocksEngine {
    store: Arc<Store>,
}

/// The open database, the names of its families, and the files beside it.
struct Store {
    db: DB,
    names: [String; 3],
    /// The family that the bookkeeping of the body files lies in.
    space_name: String,
    files: Arc<BodyFiles>,
    /// Held by every commit that changes bodies, and by what frees them. It is held over I/O, so no reader takes it.
    committing: Mutex<()>,
    /// Held for moments only: every reader takes it.
    space: Mutex<Space>,
    /// What is kept for a baseline. While it is there no body is freed.
    frozen: Mutex<Option<Arc<Store>>>,
    /// A flush has found no space, and the database has not recovered from that as far as is known.
    starved: AtomicBool,
    options: RocksOptions,
    direct_io: bool,
    /// The last field: it goes when the database is closed.
    remains: Remains,
}

/// The files of an engine that is closed.
#[derive(Default)]
struct Remains {
    /// They are of no use any more.
    retired: Mutex<Option<PathBuf>>,
}

impl Drop for Remains {
    fn drop(&mut self) {
        let retired = self.retired.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(dir) = retired
            && let Err(e) = std::fs::remove_dir_all(&dir)
        {
            // The next start finds them.
            tracing::warn!("remove {}: {e}", dir.display());
        }
    }
}

fn family_names(origin: &Origin) -> [String; 3] {
    FAMILIES.map(|family| match family {
        Family::Log => format!("log.{origin}"),
        Family::Body => format!("body.{origin}"),
        Family::Image => format!("image.{origin}"),
    })
}

/// The family that the bookkeeping of the body files lies in.
fn space_name(origin: &Origin) -> String {
    format!("space.{origin}")
}

/// What RocksDB says, in our words. It tells a full device by text only.
fn error(error: &rocksdb::Error) -> ImageError {
    let text = error.to_string();
    match error.kind() {
        ErrorKind::IOError if text.contains("No space left") => ImageError::NoSpace,
        ErrorKind::Corruption => ImageError::Corrupt(text),
        _ => ImageError::Engine(text),
    }
}

/// What RocksDB says of a directory that it cannot open. A file that is gone or that the medium cannot read damages it as much
/// as one that does not verify, and RocksDB tells these by text only.
fn open_error(failed: &rocksdb::Error) -> ImageError {
    let text = failed.to_string();
    let damaged = ["No such file", "Input/output error"].iter().any(|says| text.contains(says));
    match failed.kind() {
        ErrorKind::IOError if damaged => ImageError::Corrupt(text),
        _ => error(failed),
    }
}

impl Store {
    fn named(&self, name: &str) -> Result<&ColumnFamily, ImageError> {
        self.db.cf_handle(name).ok_or_else(|| ImageError::Engine(format!("column family {name} is not open")))
    }

    fn family(&self, family: Family) -> Result<&ColumnFamily, ImageError> {
        self.named(&self.names[family as usize])
    }

    fn space(&self) -> MutexGuard<'_, Space> {
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn committing(&self) -> MutexGuard<'_, ()> {
        self.committing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, batch: WriteBatch) -> Result<(), ImageError> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db.write_opt(batch, &options).map_err(|e| error(&e))
    }

    /// Flushes all families.
    fn flush(&self) -> Result<(), ImageError> {
        if self.starved.load(Ordering::Acquire) {
            self.probe()?;
            self.starved.store(false, Ordering::Release);
        }
        let [log, body, image] = FAMILIES.map(|family| self.family(family));
        let families = [log?, body?, image?, self.named(&self.space_name)?];
        let families: Vec<_> = families.iter().collect();
        let flushed = self.db.flush_cfs_opt(&families, &FlushOptions::default()).map_err(|e| error(&e));
        if matches!(flushed, Err(ImageError::NoSpace)) {
            self.starved.store(true, Ordering::Release);
        }
        flushed
    }

    /// Has the database recovered from a flush without space? It looks by itself every five seconds whether there is as much as
    /// its largest write buffer takes, and then flushes. Each flush that is asked for meanwhile fails, and keeps it from that
    /// for a second; so it is asked by a write, which it refuses until then, and which changes nothing.
    fn probe(&self) -> Result<(), ImageError> {
        let mut batch = WriteBatch::default();
        batch.delete_cf(self.named(&self.space_name)?, file_key(0));
        self.write(batch)
    }

    /// Frees what commits up to `durable` dropped and no snapshot sees any more. A crash on the way leaves it to be done
    /// again, and so does a device that says no.
    fn reclaim(&self, durable: u64) -> Result<(), ImageError> {
        let _committing = self.committing();
        if self.frozen().is_some() {
            return Ok(());
        }
        let free = self.space().take_free(durable);
        if free.is_empty() {
            return Ok(());
        }
        let freed = self.free(&free);
        if freed.is_err() {
            self.space().give_back(free);
        }
        freed
    }

    fn free(&self, places: &[Place]) -> Result<(), ImageError> {
        let family = self.named(&self.space_name)?;
        let mut batch = WriteBatch::default();
        for place in places {
            self.files.punch(*place)?;
            batch.delete_cf(family, dropped_key(*place));
        }
        let active = self.files.end().map(|(number, _)| number);
        let empty = self.space().emptied_by(places, active);
        for number in &empty {
            self.files.remove(*number)?;
            batch.delete_cf(family, file_key(*number));
        }
        self.write(batch)?;
        self.space().freed(places, &empty);
        Ok(())
    }
}

/// What the family `space` says, when a database is opened.
fn load_space(db: &DB, name: &str) -> Result<Space, ImageError> {
    let family = db.cf_handle(name).ok_or_else(|| ImageError::Engine(format!("column family {name} is not open")))?;
    let mut space = Space::default();
    let mut iterator = db.raw_iterator_cf(family);
    iterator.seek_to_first();
    while let Some((key, value)) = iterator.item() {
        space.load(key, value)?;
        iterator.next();
    }
    iterator.status().map_err(|e| error(&e))?;
    Ok(space)
}

/// Opens the database of a directory; with `read_only`, one that nobody writes.
fn open_database(options: &RocksOptions, dir: &Path, direct_io: bool, read_only: bool) -> Result<DB, rocksdb::Error> {
    let names = family_names(&options.origin);
    let families = FAMILIES.iter().zip(&names).map(|(family, name)| options.family(name, *family));
    let families = families.chain([options.family(&space_name(&options.origin), Family::Body)]);
    let database = options.database(direct_io);
    if read_only {
        DB::open_cf_descriptors_read_only(&database, dir, families, false)
    } else {
        DB::open_cf_descriptors(&database, dir, families)
    }
}

impl RocksEngine {
    /// Opens the engine in a directory, or makes it there. Where the file system has no direct I/O it goes without.
    ///
    /// # Errors
    /// [`ImageError::Corrupt`] when the directory is damaged; others when it belongs to another origin, is open elsewhere, or
    /// cannot be written.
    pub fn open(options: &RocksOptions) -> Result<Self, ImageError> {
        let (names, space_name) = (family_names(&options.origin), space_name(&options.origin));
        let open = |direct_io| open_database(options, &options.dir, direct_io, false);
        let (db, direct_io) = match open(options.direct_io) {
            Err(refused) if options.direct_io && lacks_direct_io(&refused) => {
                let db = open(false);
                if db.is_ok() {
                    tracing::warn!(origin = %options.origin, "no direct I/O in {}: {refused}", options.dir.display());
                }
                (db, false)
            }
            opened => (opened, options.direct_io),
        };
        let db = db.map_err(|e| open_error(&e))?;
        let space = load_space(&db, &space_name)?;
        let used = space.files.iter().map(|(number, usage)| (*number, usage.used)).collect();
        let files = Arc::new(BodyFiles::open(&options.dir, direct_io, &used)?);
        let store = Store {
            db,
            names,
            space_name,
            files,
            committing: Mutex::default(),
            space: Mutex::new(space),
            frozen: Mutex::default(),
            starved: AtomicBool::new(false),
            options: options.clone(),
            direct_io,
            remains: Remains::default(),
        };
        store.find_frozen()?;
        store.reclaim(0)?;
        let store = Arc::new(store);
        Ok(Self { store })
    }
}

fn lacks_direct_io(error: &rocksdb::Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidArgument | ErrorKind::NotSupported)
}

impl Engine for RocksEngine {
    fn commit(&self, changes: Vec<Change>) -> Result<(), ImageError> {
        let bodies = changes.iter().any(|change| change.family() == Family::Body);
        if bodies {
            values::commit(&self.store, changes)
        } else {
            self.store.write(values::batch(&self.store, changes)?)
        }
    }

    fn snapshot(&self) -> Arc<dyn Tables> {
        let era = self.store.space().era();
        Arc::new(Seen { snapshot: OwnedSnapshot::take(Arc::clone(&self.store)), _era: era })
    }

    fn flush(&self) -> Result<(), ImageError> {
        let dropped = self.store.space().commits();
        // The bytes before the places: a flush that has returned refers to nothing that is not durable.
        self.store.files.sync()?;
        self.store.flush()?;
        self.store.reclaim(dropped)
    }

    fn freeze(&self) -> Result<(), ImageError> {
        self.store.thaw()?;
        self.flush()?;
        self.store.freeze()
    }

    fn frozen(&self) -> Option<Arc<dyn Tables>> {
        let store = self.store.frozen()?;
        let era = store.space().era();
        Some(Arc::new(Seen { snapshot: OwnedSnapshot::take(store), _era: era }))
    }

    fn thaw(&self) -> Result<(), ImageError> {
        self.store.thaw()
    }

    fn retire(&self) {
        let dir = self.store.options.dir.clone();
        *self.store.remains.retired.lock().unwrap_or_else(PoisonError::into_inner) = Some(dir);
    }

    fn figures(&self) -> Vec<(&'static str, u64)> {
        const DATABASE: [(&str, &str); 4] = [
            ("background_errors", "rocksdb.background-errors"),
            ("write_stopped", "rocksdb.is-write-stopped"),
            ("delayed_write_rate", "rocksdb.actual-delayed-write-rate"),
            ("snapshots", "rocksdb.num-snapshots"),
        ];
        let mut figures: Vec<_> = FAMILIES.iter().flat_map(|family| self.family_figures(*family)).collect();
        {
            let space = self.store.space();
            figures.push(("body_file_bytes", space.live()));
            figures.push(("body_files", space.files.len() as u64));
        }
        for (name, property) in DATABASE {
            if let Ok(Some(value)) = self.store.db.property_int_value(property) {
                figures.push((name, value));
            }
        }
        figures
    }
}

impl RocksEngine {
    fn family_figures(&self, family: Family) -> Vec<(&'static str, u64)> {
        const PROPERTIES: [&[&str]; 4] = [
            &["rocksdb.live-sst-files-size", "rocksdb.live-blob-file-size"],
            &["rocksdb.cur-size-all-mem-tables"],
            &["rocksdb.num-running-flushes", "rocksdb.mem-table-flush-pending"],
            &["rocksdb.estimate-pending-compaction-bytes"],
        ];
        let names = match family {
            Family::Log => ["log_bytes", "log_memtable_bytes", "log_flushes", "log_compaction_bytes"],
            Family::Body => ["body_bytes", "body_memtable_bytes", "body_flushes", "body_compaction_bytes"],
            Family::Image => ["image_bytes", "image_memtable_bytes", "image_flushes", "image_compaction_bytes"],
        };
        let Ok(handle) = self.store.family(family) else { return Vec::new() };
        let value = |property: &&str| self.store.db.property_int_value_cf(handle, *property).ok().flatten();
        let sums = PROPERTIES.iter().map(|run| run.iter().filter_map(value).sum());
        names.into_iter().zip(sums).collect()
    }
}

impl OwnedSnapshot {
    fn read_options(&self, family: Family) -> ReadOptions {
        let mut options = ReadOptions::default();
        options.set_snapshot(self.borrow_dependent());
        options.set_verify_checksums(family == Family::Image);
        options
    }

    fn iterator(&self, family: Family, until: &[u8]) -> Result<DBRawIterator<'_>, ImageError> {
        let store: &Store = self.borrow_owner();
        let mut options = self.read_options(family);
        if !until.is_empty() {
            options.set_iterate_upper_bound(until);
        }
        Ok(store.db.raw_iterator_cf_opt(store.family(family)?, options))
    }
}

/// What the engine hands out: a snapshot, and that nothing which it sees is freed.
struct Seen {
    snapshot: OwnedSnapshot,
    _era: Arc<Era>,
}

impl Tables for Seen {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, ImageError> {
        let store = self.snapshot.borrow_owner();
        let options = self.snapshot.read_options(family);
        let value = store.db.get_pinned_cf_opt(store.family(family)?, key, &options).map_err(|e| error(&e))?;
        match value {
            Some(value) if family == Family::Body => values::resolve(store, &value).map(Some),
            value => Ok(value.map(|value| Bytes::copy_from_slice(&value))),
        }
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        until: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), ImageError> {
        let mut iterator = self.snapshot.iterator(family, until)?;
        iterator.seek(from);
        while let Some((key, value)) = iterator.item() {
            let goes_on = match family {
                Family::Body => each(key, &values::resolve(self.snapshot.borrow_owner(), value)?),
                _ => each(key, value),
            };
            if !goes_on {
                return Ok(());
            }
            iterator.next();
        }
        iterator.status().map_err(|e| error(&e))
    }

    fn cursor<'a>(&'a self, family: Family, until: &[u8]) -> Result<Box<dyn Cursor + 'a>, ImageError> {
        if family == Family::Body {
            return Err(ImageError::Engine("bodies are not read by a cursor".into()));
        }
        Ok(Box::new(RocksCursor { iterator: self.snapshot.iterator(family, until)? }))
    }
}

struct RocksCursor<'a> {
    iterator: DBRawIterator<'a>,
}

impl Cursor for RocksCursor<'_> {
    fn seek(&mut self, key: &[u8]) {
        self.iterator.seek(key);
    }

    fn next(&mut self) {
        // An iterator that is not on a key must not be moved.
        if self.iterator.valid() {
            self.iterator.next();
        }
    }

    fn entry(&self) -> Result<Option<KeyValue<'_>>, ImageError> {
        match self.iterator.item() {
            Some(item) => Ok(Some(item)),
            None => self.iterator.status().map(|()| None).map_err(|e| error(&e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    fn engine(dir: &Path) -> Arc<RocksEngine> {
        let origin = Origin::new("site-a").expect("a name");
        let options = RocksOptions::new(dir, origin, RocksShared::new(16 << 20, 64 << 20));
        Arc::new(RocksEngine::open(&options).expect("opens"))
    }

    #[test]
    fn a_flush_makes_the_bytes_of_chunks_durable_too() {
        let dir = tempfile::tempdir().expect("a directory");
        let engine = engine(dir.path());
        engine.commit(vec![Change::Put(Family::Body, vec![1], vec![7; 9_000].into())]).expect("commits");
        assert!(!engine.store.files.is_synced());
        engine.flush().expect("flushes");
        assert!(engine.store.files.is_synced(), "its place is durable, so its bytes must be");
    }

    #[test]
    fn what_an_earlier_process_wrote_is_durable_after_the_first_flush() {
        let dir = tempfile::tempdir().expect("a directory");
        let before = engine(dir.path());
        before.commit(vec![Change::Put(Family::Body, vec![1], vec![7; 9_000].into())]).expect("commits");
        // Its end makes the place durable, and says nothing about the bytes.
        drop(before);
        let engine = engine(dir.path());
        assert!(!engine.store.files.is_synced(), "recovery finds the bytes, and still they may be lost");
        engine.flush().expect("flushes");
        assert!(engine.store.files.is_synced());
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "a reader that waits for ever must not hold up the test")]
    fn a_reader_does_not_wait_for_a_commit_that_is_at_the_device() {
        let dir = tempfile::tempdir().expect("a directory");
        let engine = engine(dir.path());
        let committing = engine.store.committing();
        let (sender, seen) = channel();
        let reader = Arc::clone(&engine);
        let thread = std::thread::spawn(move || sender.send((reader.snapshot(), reader.figures())).is_ok());
        assert!(seen.recv_timeout(Duration::from_secs(20)).is_ok(), "a snapshot, while a commit is under way");
        drop(committing);
        assert!(thread.join().expect("no panic"));
    }
}
