//! The double of an engine: sorted maps with a live and a durable copy. For simulations and for tests of everything above
//! the seam.
//!
//! It keeps every commit since the last flush, so that a crash can leave any prefix of them, as an engine that flushes by
//! itself at any moment may. Faults are asked for by the test; without one nothing fails.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{Change, Cursor, Engine, Family, ImageError, KeyValue, Tables};

type Map = BTreeMap<Vec<u8>, Bytes>;

/// The families at one moment. Cloning shares them; a change to a shared one copies it first.
#[derive(Debug, Clone, Default)]
struct Maps {
    log: Arc<Map>,
    body: Arc<Map>,
    image: Arc<Map>,
}

impl Maps {
    fn get(&self, family: Family) -> &Map {
        match family {
            Family::Log => &self.log,
            Family::Body => &self.body,
            Family::Image => &self.image,
        }
    }

    fn get_mut(&mut self, family: Family) -> &mut Map {
        Arc::make_mut(match family {
            Family::Log => &mut self.log,
            Family::Body => &mut self.body,
            Family::Image => &mut self.image,
        })
    }

    fn change(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Put(family, key, value) => {
                    self.get_mut(*family).insert(key.clone(), value.clone());
                }
                Change::Delete(family, key) => {
                    self.get_mut(*family).remove(key);
                }
                Change::DeleteRange(family, from, until) => {
                    let map = self.get_mut(*family);
                    let keys: Vec<_> = run(map, Bound::Included(from), until).map(|(key, _)| key.clone()).collect();
                    for key in keys {
                        map.remove(&key);
                    }
                }
            }
        }
    }
}

/// Keys from a bound up to and without `until`; none where they cross.
fn run<'m>(map: &'m Map, from: Bound<&[u8]>, until: &[u8]) -> std::collections::btree_map::Range<'m, Vec<u8>, Bytes> {
    let (Bound::Included(first) | Bound::Excluded(first)) = from else {
        return map.range::<[u8], _>((Bound::Unbounded, Bound::Excluded(until)));
    };
    if first >= until {
        // An empty run; a map's range does not take bounds that cross.
        return map.range::<[u8], _>((Bound::Included(until), Bound::Excluded(until)));
    }
    map.range::<[u8], _>((from, Bound::Excluded(until)))
}

/// Values of bodies that are not longer stand with the keys, as checksums do, and are never lost alone.
const CHECKSUM_LEN: usize = 4;

/// A call that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultPoint {
    /// [`Engine::commit`].
    Commit,
    /// [`Engine::flush`].
    Flush,
}

/// How it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// [`ImageError::NoSpace`].
    NoSpace,
    /// [`ImageError::Engine`].
    Broken,
}

#[derive(Debug, Default)]
struct State {
    live: Maps,
    durable: Maps,
    /// Commits since `durable`, in order.
    unflushed: Vec<Vec<Change>>,
    frozen: Option<Maps>,
    faults: Vec<(FaultPoint, Fault)>,
}

/// An engine in memory.
#[derive(Debug, Default)]
pub struct MemoryEngine {
    state: Mutex<State>,
}

impl MemoryEngine {
    /// An empty engine.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many commits a crash may lose.
    #[must_use]
    pub fn unflushed(&self) -> usize {
        self.state().unflushed.len()
    }

    /// What a new process finds after a crash now: everything up to the last flush and the first `survive` of the commits
    /// since (all, where there are fewer). This engine stays as it is; its faults do not go along.
    #[must_use]
    pub fn crash(&self, survive: usize) -> Self {
        self.crash_losing(survive, &mut || false)
    }

    /// As [`MemoryEngine::crash`], but of the commits since the last flush each chunk's bytes are lost where `lose` says so.
    #[must_use]
    pub fn crash_losing(&self, survive: usize, lose: &mut dyn FnMut() -> bool) -> Self {
        let state = self.state();
        let mut durable = state.durable.clone();
        for changes in state.unflushed.iter().take(survive) {
            let mut changes = changes.clone();
            for change in &mut changes {
                match change {
                    Change::Put(Family::Body, _, value) if value.len() > CHECKSUM_LEN && lose() => {
                        *value = vec![0; value.len()].into();
                    }
                    _ => {}
                }
            }
            durable.change(&changes);
        }
        let frozen = state.frozen.clone();
        Self { state: Mutex::new(State { live: durable.clone(), durable, frozen, ..State::default() }) }
    }

    /// The medium spoils a value: these bytes, or none, are there from now on, in memory, durable, and frozen.
    pub fn spoil(&self, family: Family, key: &[u8], value: Option<&Bytes>) {
        let mut state = self.state();
        let change = match value {
            Some(value) => Change::Put(family, key.to_vec(), value.clone()),
            None => Change::Delete(family, key.to_vec()),
        };
        let State { live, durable, frozen, .. } = &mut *state;
        for maps in [live, durable].into_iter().chain(frozen) {
            if maps.get(family).contains_key(key) {
                maps.change(std::slice::from_ref(&change));
            }
        }
    }

    /// Makes the next call of this kind fail once. Faults of one kind are used up in the order in which they came.
    pub fn inject(&self, point: FaultPoint, fault: Fault) {
        self.state().faults.push((point, fault));
    }
}

impl State {
    fn fail(&mut self, point: FaultPoint) -> Result<(), ImageError> {
        let Some(at) = self.faults.iter().position(|(p, _)| *p == point) else { return Ok(()) };
        match self.faults.remove(at).1 {
            Fault::NoSpace => Err(ImageError::NoSpace),
            Fault::Broken => Err(ImageError::Engine(format!("injected fault in {point:?}"))),
        }
    }
}

impl Engine for MemoryEngine {
    fn commit(&self, changes: Vec<Change>) -> Result<(), ImageError> {
        let mut state = self.state();
        state.fail(FaultPoint::Commit)?;
        state.live.change(&changes);
        state.unflushed.push(changes);
        Ok(())
    }

    fn snapshot(&self) -> Arc<dyn Tables> {
        Arc::new(self.state().live.clone())
    }

    fn flush(&self) -> Result<(), ImageError> {
        let mut state = self.state();
        state.fail(FaultPoint::Flush)?;
        // Not a clone of the live maps: the next commit would have to copy them whole.
        for changes in std::mem::take(&mut state.unflushed) {
            state.durable.change(&changes);
        }
        Ok(())
    }

    fn freeze(&self) -> Result<(), ImageError> {
        self.flush()?;
        let mut state = self.state();
        state.frozen = Some(state.durable.clone());
        Ok(())
    }

    fn frozen(&self) -> Option<Arc<dyn Tables>> {
        let frozen = self.state().frozen.clone()?;
        Some(Arc::new(frozen))
    }

    fn thaw(&self) -> Result<(), ImageError> {
        self.state().frozen = None;
        Ok(())
    }

    fn retire(&self) {}

    fn figures(&self) -> Vec<(&'static str, u64)> {
        let state = self.state();
        let bytes = |family| state.live.get(family).iter().map(|(k, v)| (k.len() + v.len()) as u64).sum();
        vec![
            ("log_bytes", bytes(Family::Log)),
            ("body_bytes", bytes(Family::Body)),
            ("image_bytes", bytes(Family::Image)),
            ("unflushed_commits", state.unflushed.len() as u64),
        ]
    }
}

impl Tables for Maps {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, ImageError> {
        Ok(self.get(family).get(key).cloned())
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        until: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), ImageError> {
        for (key, value) in run(self.get(family), Bound::Included(from), until) {
            if !each(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn cursor<'a>(&'a self, family: Family, until: &[u8]) -> Result<Box<dyn Cursor + 'a>, ImageError> {
        Ok(Box::new(MapCursor { map: self.get(family), until: until.to_vec(), here: None }))
    }
}

struct MapCursor<'a> {
    map: &'a Map,
    until: Vec<u8>,
    here: Option<(&'a Vec<u8>, &'a Bytes)>,
}

impl Cursor for MapCursor<'_> {
    fn seek(&mut self, key: &[u8]) {
        self.here = run(self.map, Bound::Included(key), &self.until).next();
    }

    fn next(&mut self) {
        if let Some((key, _)) = self.here {
            self.here = run(self.map, Bound::Excluded(key), &self.until).next();
        }
    }

    fn entry(&self) -> Result<Option<KeyValue<'_>>, ImageError> {
        Ok(self.here.map(|(key, value)| (&key[..], &value[..])))
    }
}
