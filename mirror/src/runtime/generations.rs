//! Where an origin's engines lie: `origins/<origin>/<generation>/` in the data directory.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lockstep_storage::id::Origin;
use lockstep_storage::image::absent::AbsentEngine;
use lockstep_storage::image::rocks::{RocksEngine, RocksOptions, RocksShared};
use lockstep_storage::image::{Engine, Image, ImageError};

use super::space::Disk;
use crate::start::Engines;
use crate::worker::Generations;

/// The engines of one origin on RocksDB.
pub(super) struct RocksGenerations {
    dir: PathBuf,
    origin: Origin,
    rocks: RocksShared,
    disk: Arc<Disk>,
}

impl RocksGenerations {
    pub(super) fn new(data_dir: &Path, origin: &Origin, rocks: &RocksShared, disk: &Arc<Disk>) -> Self {
        let dir = data_dir.join("origins").join(origin.as_str());
        Self { dir, origin: origin.clone(), rocks: rocks.clone(), disk: Arc::clone(disk) }
    }

    fn path(&self, generation: u64) -> PathBuf {
        self.dir.join(generation.to_string())
    }

    /// The generations that there are.
    fn all(&self) -> Result<Vec<u64>, ImageError> {
        let entries = match std::fs::read_dir(&self.dir) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|e| failed("read", &self.dir, &e))?,
        };
        let mut numbers = Vec::new();
        for entry in entries {
            let name = entry.map_err(|e| failed("read", &self.dir, &e))?.file_name();
            numbers.extend(name.to_str().and_then(|name| name.parse::<u64>().ok()));
        }
        Ok(numbers)
    }
}

/// The engines of all origins, as a start finds them.
pub(super) struct RocksEngines<'a> {
    data_dir: &'a Path,
    rocks: &'a RocksShared,
    disk: &'a Arc<Disk>,
}

impl<'a> RocksEngines<'a> {
    pub(super) fn new(data_dir: &'a Path, rocks: &'a RocksShared, disk: &'a Arc<Disk>) -> Self {
        Self { data_dir, rocks, disk }
    }

    fn of(&self, origin: &Origin) -> RocksGenerations {
        RocksGenerations::new(self.data_dir, origin, self.rocks, self.disk)
    }
}

impl Engines for RocksEngines<'_> {
    fn newest(&mut self, origin: &Origin) -> Result<Option<u64>, ImageError> {
        Ok(self.of(origin).all()?.into_iter().max())
    }

    fn open(&mut self, origin: &Origin, generation: u64) -> Result<Image, ImageError> {
        self.of(origin).open(generation).map(Image::new)
    }

    fn absent(&mut self, origin: &Origin, generation: u64) -> Image {
        let mut generations = self.of(origin);
        let origin = origin.clone();
        Image::new(Arc::new(AbsentEngine::new(move || {
            if let Err(error) = generations.remove(generation) {
                // The next start removes it.
                tracing::warn!(%origin, "the damaged engine is not needed any more, and stays: {error}");
            }
        })))
    }

    fn remove_before(&mut self, origin: &Origin, generation: u64) -> Result<(), ImageError> {
        let mut generations = self.of(origin);
        let earlier = generations.all()?.into_iter().filter(|earlier| *earlier < generation);
        earlier.into_iter().try_for_each(|earlier| generations.remove(earlier))
    }
}

impl Generations for RocksGenerations {
    fn open(&mut self, generation: u64) -> Result<Arc<dyn Engine>, ImageError> {
        let dir = self.path(generation);
        std::fs::create_dir_all(&dir).map_err(|e| failed("make", &dir, &e))?;
        let engine = RocksEngine::open(&RocksOptions::new(dir, self.origin.clone(), self.rocks.clone()))?;
        Ok(Arc::new(engine))
    }

    fn remove(&mut self, generation: u64) -> Result<(), ImageError> {
        let dir = self.path(generation);
        let mut frozen = dir.clone().into_os_string();
        frozen.push(".frozen");
        for dir in [PathBuf::from(frozen), dir] {
            match std::fs::remove_dir_all(&dir) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(failed("remove", &dir, &e)),
                _ => {}
            }
        }
        Ok(())
    }

    fn free_bytes(&mut self) -> Option<u64> {
        self.disk.free_bytes()
    }
}

fn failed(action: &str, path: &Path, error: &io::Error) -> ImageError {
    match error.kind() {
        ErrorKind::StorageFull => ImageError::NoSpace,
        _ => ImageError::Engine(format!("{action} {}: {error}", path.display())),
    }
}
