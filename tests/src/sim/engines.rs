//! The engines of a site, which outlive its processes: by origin and generation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lockstep_mirror::start::Engines as StartEngines;
use lockstep_mirror::worker::Generations;
use lockstep_storage::id::Origin;
use lockstep_storage::image::absent::AbsentEngine;
use lockstep_storage::image::memory::MemoryEngine;
use lockstep_storage::image::{Change, Engine, Image, ImageError, Tables};

use super::random::Random;

type Map = BTreeMap<(Origin, u64), Arc<MemoryEngine>>;

/// All of them. Cloning shares them.
#[derive(Clone, Default)]
pub struct Engines {
    map: Arc<Mutex<Map>>,
    full: Arc<AtomicBool>,
    /// Those whose files cannot be opened.
    damaged: Arc<Mutex<BTreeSet<(Origin, u64)>>>,
}

impl Engines {
    fn map(&self) -> MutexGuard<'_, Map> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The engine of an origin and generation; made where it is not there yet.
    #[must_use]
    pub fn engine(&self, origin: &Origin, generation: u64) -> Arc<MemoryEngine> {
        Arc::clone(self.map().entry((origin.clone(), generation)).or_default())
    }

    fn damaged(&self) -> MutexGuard<'_, BTreeSet<(Origin, u64)>> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This one cannot be opened any more.
    pub fn damage(&self, origin: &Origin, generation: u64) {
        self.damaged().insert((origin.clone(), generation));
    }

    /// All are gone.
    pub fn clear(&self) {
        self.damaged().clear();
        self.map().clear();
    }

    /// Those of an origin are gone.
    pub fn forget(&self, origin: &Origin) {
        self.damaged().retain(|(known, _)| known != origin);
        self.map().retain(|(known, _), _| known != origin);
    }

    /// There is no room for another one.
    pub fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::Relaxed);
    }

    /// The power goes: of what was not flushed some commits survive, and of their chunks' bytes `keep` percent.
    pub fn crash(&self, noise: &mut Random, keep: u64) {
        for engine in self.map().values_mut() {
            let survive = noise.below(engine.unflushed() as u64 + 1);
            *engine = Arc::new(engine.crash_losing(survive as usize, &mut || !noise.chance(keep)));
        }
    }
}

impl StartEngines for Engines {
    fn newest(&mut self, origin: &Origin) -> Result<Option<u64>, ImageError> {
        Ok(self.map().keys().filter(|(known, _)| known == origin).map(|(_, generation)| *generation).max())
    }

    fn open(&mut self, origin: &Origin, generation: u64) -> Result<Image, ImageError> {
        if self.damaged().contains(&(origin.clone(), generation)) {
            return Err(ImageError::Corrupt("a file of the simulation".into()));
        }
        Ok(Image::new(self.engine(origin, generation)))
    }

    fn absent(&mut self, origin: &Origin, generation: u64) -> Image {
        let (engines, key) = (self.clone(), (origin.clone(), generation));
        Image::new(Arc::new(AbsentEngine::new(move || drop(engines.map().remove(&key)))))
    }

    fn remove_before(&mut self, origin: &Origin, generation: u64) -> Result<(), ImageError> {
        self.map().retain(|(known, number), _| known != origin || *number >= generation);
        Ok(())
    }
}

/// The engines of one origin, as its worker sees them.
pub struct SimGenerations {
    engines: Engines,
    origin: Origin,
    /// They say that they have flushed, and have not.
    forgets_flush: bool,
}

impl SimGenerations {
    /// Those of `origin`.
    #[must_use]
    pub fn new(engines: &Engines, origin: &Origin, forgets_flush: bool) -> Self {
        Self { engines: engines.clone(), origin: origin.clone(), forgets_flush }
    }
}

impl Generations for SimGenerations {
    fn open(&mut self, generation: u64) -> Result<Arc<dyn Engine>, ImageError> {
        let engine = self.engines.engine(&self.origin, generation);
        Ok(if self.forgets_flush { Arc::new(Unflushed(engine)) } else { engine })
    }

    fn remove(&mut self, generation: u64) -> Result<(), ImageError> {
        self.engines.map().remove(&(self.origin.clone(), generation));
        Ok(())
    }

    fn free_bytes(&mut self) -> Option<u64> {
        self.engines.full.load(Ordering::Relaxed).then_some(0)
    }
}

/// An engine whose flush does nothing.
struct Unflushed(Arc<MemoryEngine>);

impl Engine for Unflushed {
    fn commit(&self, changes: Vec<Change>) -> Result<(), ImageError> {
        self.0.commit(changes)
    }

    fn snapshot(&self) -> Arc<dyn Tables> {
        self.0.snapshot()
    }

    fn flush(&self) -> Result<(), ImageError> {
        Ok(())
    }

    fn freeze(&self) -> Result<(), ImageError> {
        self.0.freeze()
    }

    fn frozen(&self) -> Option<Arc<dyn Tables>> {
        self.0.frozen()
    }

    fn thaw(&self) -> Result<(), ImageError> {
        self.0.thaw()
    }

    fn retire(&self) {
        self.0.retire();
    }

    fn figures(&self) -> Vec<(&'static str, u64)> {
        self.0.figures()
    }
}
