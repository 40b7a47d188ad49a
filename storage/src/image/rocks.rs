//! The engine on RocksDB: one database a directory, three column families for one origin.
//!
//! RocksDB's own log is off: the NVRAM is its log. With atomic flush what a crash leaves is then a prefix of the commits,
//! over all three families. Bodies go to blob files, so that compaction does not move them. Block cache and the budget of
//! the write buffers are shared by all origins of a node ([`RocksShared`]).
//!
//! A damaged directory is an error value. RocksDB's checksums are verified for keys and the image; chunks and records
//! carry our own, which are verified above this seam, so RocksDB need not do it again.

mod options;
mod pinned;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{ColumnFamily, DB, DBRawIterator, ErrorKind, FlushOptions, ReadOptions, WriteBatch, WriteOptions};

pub use self::options::{RocksOptions, RocksShared};
use self::pinned::OwnedSnapshot;
use super::{Change, Cursor, Engine, Family, ImageError, KeyValue, Tables};
use crate::id::Origin;

const FAMILIES: [Family; 3] = [Family::Log, Family::Body, Family::Image];
/// Values from this length on are handed out where RocksDB has them; shorter ones are copied, which is cheaper and pins
/// no block of the cache.
const PINNED_LEN_MIN: usize = 16 << 10;

/// An origin's engine. Closing it, when it and every snapshot is dropped, flushes what was committed.
pub struct RocksEngine {
    store: Arc<Store>,
}

/// The open database and the names of its families.
struct Store {
    db: DB,
    names: [String; 3],
}

fn family_names(origin: &Origin) -> [String; 3] {
    FAMILIES.map(|family| match family {
        Family::Log => format!("log.{origin}"),
        Family::Body => format!("body.{origin}"),
        Family::Image => format!("image.{origin}"),
    })
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

impl Store {
    fn family(&self, family: Family) -> Result<&ColumnFamily, ImageError> {
        let name = &self.names[family as usize];
        self.db.cf_handle(name).ok_or_else(|| ImageError::Engine(format!("column family {name} is not open")))
    }
}

impl RocksEngine {
    /// Opens the engine in a directory, or makes it there. Where the file system has no direct I/O it goes without.
    ///
    /// # Errors
    /// When the directory is damaged, belongs to another origin, is open elsewhere, or cannot be written.
    pub fn open(options: &RocksOptions) -> Result<Self, ImageError> {
        let names = family_names(&options.origin);
        let open = |direct_io| {
            let families = FAMILIES.iter().zip(&names).map(|(family, name)| options.family(name, *family));
            DB::open_cf_descriptors(&options.database(direct_io), &options.dir, families)
        };
        let db = match open(options.direct_io) {
            Err(refused) if options.direct_io && lacks_direct_io(&refused) => {
                let db = open(false);
                if db.is_ok() {
                    tracing::warn!(origin = %options.origin, "no direct I/O in {}: {refused}", options.dir.display());
                }
                db
            }
            opened => opened,
        };
        let db = db.map_err(|e| error(&e))?;
        Ok(Self { store: Arc::new(Store { db, names }) })
    }
}

fn lacks_direct_io(error: &rocksdb::Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidArgument | ErrorKind::NotSupported)
}

impl Engine for RocksEngine {
    fn commit(&self, changes: Vec<Change>) -> Result<(), ImageError> {
        let len = |change: &Change| match change {
            Change::Put(_, key, value) => key.len() + value.len() + 16,
            Change::Delete(_, key) => key.len() + 16,
            Change::DeleteRange(_, from, until) => from.len() + until.len() + 16,
        };
        let mut batch = WriteBatch::with_capacity_bytes(changes.iter().map(len).sum::<usize>() + 32);
        for change in changes {
            match change {
                Change::Put(family, key, value) => batch.put_cf(self.store.family(family)?, key, value),
                Change::Delete(family, key) => batch.delete_cf(self.store.family(family)?, key),
                Change::DeleteRange(family, from, until) => {
                    if from < until {
                        batch.delete_range_cf(self.store.family(family)?, from, until);
                    }
                }
            }
        }
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.store.db.write_opt(batch, &options).map_err(|e| error(&e))
    }

    fn snapshot(&self) -> Arc<dyn Tables> {
        Arc::new(OwnedSnapshot::take(Arc::clone(&self.store)))
    }

    fn flush(&self) -> Result<(), ImageError> {
        let [log, body, image] = FAMILIES.map(|family| self.store.family(family));
        self.store.db.flush_cfs_opt(&[&log?, &body?, &image?], &FlushOptions::default()).map_err(|e| error(&e))
    }

    fn checkpoint(&self, dir: &Path) -> Result<(), ImageError> {
        self.flush()?;
        let checkpoint = Checkpoint::new(&self.store.db).map_err(|e| error(&e))?;
        checkpoint.create_checkpoint(dir).map_err(|e| error(&e))
    }

    fn figures(&self) -> Vec<(&'static str, u64)> {
        const DATABASE: [(&str, &str); 4] = [
            ("background_errors", "rocksdb.background-errors"),
            ("write_stopped", "rocksdb.is-write-stopped"),
            ("delayed_write_rate", "rocksdb.actual-delayed-write-rate"),
            ("snapshots", "rocksdb.num-snapshots"),
        ];
        let mut figures: Vec<_> = FAMILIES.iter().flat_map(|family| self.family_figures(*family)).collect();
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

impl Tables for OwnedSnapshot {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, ImageError> {
        let store = self.borrow_owner();
        let options = self.read_options(family);
        if family == Family::Body {
            return pinned::get(store, family, key, &options);
        }
        let value = store.db.get_pinned_cf_opt(store.family(family)?, key, &options).map_err(|e| error(&e))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        until: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), ImageError> {
        let mut iterator = self.iterator(family, until)?;
        iterator.seek(from);
        while let Some((key, value)) = iterator.item() {
            if !each(key, value) {
                return Ok(());
            }
            iterator.next();
        }
        iterator.status().map_err(|e| error(&e))
    }

    fn cursor<'a>(&'a self, family: Family, until: &[u8]) -> Result<Box<dyn Cursor + 'a>, ImageError> {
        Ok(Box::new(RocksCursor { iterator: self.iterator(family, until)? }))
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
