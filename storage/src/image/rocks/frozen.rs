//! The state that is kept for a baseline: a checkpoint of the database in a directory of its own, which shares its files,
//! opened to be read only. The bodies that it refers to stay where they are: nothing is freed while there is one.
//!
//! RocksDB makes the directory under another name first, so one that is there under its own is whole. One that cannot be
//! opened is given up: the baseline begins anew.

use std::fs::File;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use rocksdb::checkpoint::Checkpoint;

use super::{Remains, Store, error, family_names, open_database, space_name};
use crate::image::ImageError;

impl Store {
    /// Where it lies: beside the engine's own directory.
    fn frozen_dir(&self) -> PathBuf {
        let mut name = self.options.dir.file_name().unwrap_or_default().to_owned();
        name.push(".frozen");
        self.options.dir.with_file_name(name)
    }

    pub(super) fn frozen(&self) -> Option<Arc<Store>> {
        self.frozen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep(&self, frozen: Option<Arc<Store>>) {
        *self.frozen.lock().unwrap_or_else(PoisonError::into_inner) = frozen;
    }

    /// Makes a checkpoint of what is durable now; the caller has flushed, and nobody commits.
    pub(super) fn freeze(&self) -> Result<(), ImageError> {
        let dir = self.frozen_dir();
        let made = Checkpoint::new(&self.db).and_then(|checkpoint| checkpoint.create_checkpoint(&dir));
        let opened = made.map_err(|e| error(&e)).and_then(|()| self.open_frozen());
        match opened {
            Ok(frozen) => {
                self.keep(Some(Arc::new(frozen)));
                Ok(())
            }
            Err(failed) => {
                self.remove_frozen()?;
                Err(failed)
            }
        }
    }

    /// Takes up what an earlier process froze.
    pub(super) fn find_frozen(&self) -> Result<(), ImageError> {
        if !self.frozen_dir().exists() {
            return Ok(());
        }
        match self.open_frozen() {
            Ok(frozen) => self.keep(Some(Arc::new(frozen))),
            Err(failed) => {
                tracing::warn!(origin = %self.options.origin, "a baseline cannot go on and begins anew: {failed}");
                self.remove_frozen()?;
            }
        }
        Ok(())
    }

    fn open_frozen(&self) -> Result<Store, ImageError> {
        let options = &self.options;
        let db = open_database(options, &self.frozen_dir(), self.direct_io, true).map_err(|e| error(&e))?;
        Ok(Store {
            db,
            names: family_names(&options.origin),
            space_name: space_name(&options.origin),
            files: Arc::clone(&self.files),
            committing: Mutex::default(),
            space: Mutex::default(),
            frozen: Mutex::default(),
            starved: AtomicBool::new(false),
            options: options.clone(),
            direct_io: self.direct_io,
            remains: Remains::default(),
        })
    }

    /// Gives it up. What waited to be freed meanwhile goes with the next flush.
    pub(super) fn thaw(&self) -> Result<(), ImageError> {
        // Its files go before bodies may: it must not be taken up again when bodies are gone that it refers to.
        self.remove_frozen()?;
        self.keep(None);
        Ok(())
    }

    fn remove_frozen(&self) -> Result<(), ImageError> {
        let dir = self.frozen_dir();
        let removed = match std::fs::remove_dir_all(&dir) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            Ok(()) => dir.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all()),
            failed => failed,
        };
        removed.map_err(|e| ImageError::Engine(format!("remove {}: {e}", dir.display())))
    }
}
