//! Locks of buckets, keys and uploads: fair, shared or exclusive, only in memory.
//!
//! Every request takes what it needs in one order (buckets, keys, uploads, each sorted), so two requests can never wait
//! for each other. A name that nobody holds or waits for takes no memory. Whoever writes holds its locks until the op is
//! applied or has failed: `ops::write` sees to that, also when the client goes away.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lockstep_storage::id::Origin;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// What is locked. The order of the variants is the order of locking.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Name {
    /// A bucket: shared for what happens in it, exclusive for its creation and removal.
    Bucket(Origin, String),
    /// Bucket and key: shared for blind writes, exclusive for an op that reads first.
    Key(Origin, String, String),
    /// An upload by its id: shared for a part, exclusive for its end.
    Upload(Origin, String),
}

/// Who else may hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Others that share.
    Shared,
    /// Nobody.
    Exclusive,
}

const SHARDS: usize = 64;

type Shard = HashMap<Name, Place>;

/// A lock and the number of those who hold it or wait for it.
#[derive(Default)]
struct Place {
    lock: Arc<RwLock<()>>,
    users: usize,
}

/// All locks of a node. Cheap to clone; all clones are the same locks.
#[derive(Clone)]
pub struct Locks {
    shards: Arc<[Mutex<Shard>]>,
    hasher: RandomState,
}

impl Default for Locks {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }
}

impl Locks {
    /// Takes all of `wanted`, in the order of locking. A name that is wanted twice is taken once, in the stronger mode.
    pub async fn acquire(&self, mut wanted: Vec<(Name, Mode)>) -> Held {
        // Stronger modes first, so that they are the ones that stay.
        wanted.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
        wanted.dedup_by(|later, earlier| later.0 == earlier.0);
        let mut held = Vec::with_capacity(wanted.len());
        for (name, mode) in wanted {
            let (entry, lock) = self.entry(name);
            let guard = match mode {
                Mode::Shared => Guard::Shared(lock.read_owned().await),
                Mode::Exclusive => Guard::Exclusive(lock.write_owned().await),
            };
            held.push(One { _guard: guard, _entry: entry });
        }
        Held { _held: held }
    }

    /// Names that are held or waited for.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    /// Is nothing held or waited for?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, name: &Name) -> MutexGuard<'_, Shard> {
        let at = self.hasher.hash_one(name) as usize % SHARDS;
        lock(&self.shards[at])
    }

    fn entry(&self, name: Name) -> (Entry, Arc<RwLock<()>>) {
        let mut shard = self.shard(&name);
        let place = shard.entry(name.clone()).or_default();
        place.users += 1;
        let lock = Arc::clone(&place.lock);
        drop(shard);
        (Entry { locks: self.clone(), name }, lock)
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks, held until this is dropped.
#[must_use = "the locks are released when this is dropped"]
pub struct Held {
    _held: Vec<One>,
}

/// One lock. The guard is declared, so dropped, before the entry: the entry counts who is left.
struct One {
    _guard: Guard,
    _entry: Entry,
}

enum Guard {
    Shared(#[allow(dead_code, reason = "held for its drop")] OwnedRwLockReadGuard<()>),
    Exclusive(#[allow(dead_code, reason = "held for its drop")] OwnedRwLockWriteGuard<()>),
}

/// Somebody who holds a name or waits for it; the last one takes it out of the map, also when it gave up waiting.
struct Entry {
    locks: Locks,
    name: Name,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut shard = self.locks.shard(&self.name);
        if let Some(place) = shard.get_mut(&self.name) {
            place.users -= 1;
            if place.users == 0 {
                shard.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn key(key: &str) -> Name {
        Name::Key(Origin::new("a").expect("good"), "b".into(), key.into())
    }

    fn bucket() -> Name {
        Name::Bucket(Origin::new("a").expect("good"), "b".into())
    }

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(out) => Some(out),
            Poll::Pending => None,
        }
    }

    #[test]
    fn shared_goes_with_shared_and_exclusive_with_nothing() {
        let locks = Locks::default();
        let first = poll(pin!(locks.acquire(vec![(key("k"), Mode::Shared)]))).expect("free");
        let second = poll(pin!(locks.acquire(vec![(key("k"), Mode::Shared)]))).expect("shared");
        let mut writer = pin!(locks.acquire(vec![(key("k"), Mode::Exclusive)]));
        assert!(poll(writer.as_mut()).is_none());
        drop(first);
        assert!(poll(writer.as_mut()).is_none());
        drop(second);
        let writer = poll(writer.as_mut()).expect("free");
        assert!(poll(pin!(locks.acquire(vec![(key("k"), Mode::Shared)]))).is_none());
        assert!(poll(pin!(locks.acquire(vec![(key("other"), Mode::Exclusive)]))).is_some());
        drop(writer);
        assert!(locks.is_empty());
    }

    #[test]
    fn a_waiting_writer_is_not_overtaken_by_readers() {
        let locks = Locks::default();
        let reader = poll(pin!(locks.acquire(vec![(key("k"), Mode::Shared)]))).expect("free");
        let mut writer = pin!(locks.acquire(vec![(key("k"), Mode::Exclusive)]));
        assert!(poll(writer.as_mut()).is_none());
        let mut late = pin!(locks.acquire(vec![(key("k"), Mode::Shared)]));
        assert!(poll(late.as_mut()).is_none());
        drop(reader);
        assert!(poll(late.as_mut()).is_none(), "the writer came first");
        let held = poll(writer.as_mut()).expect("its turn");
        drop(held);
        assert!(poll(late.as_mut()).is_some());
    }

    #[test]
    fn one_order_whatever_was_asked_and_the_stronger_mode_wins() {
        let locks = Locks::default();
        let wanted = vec![
            (key("z"), Mode::Shared),
            (key("a"), Mode::Exclusive),
            (bucket(), Mode::Shared),
            (key("z"), Mode::Exclusive),
        ];
        let held = poll(pin!(locks.acquire(wanted))).expect("never waits for itself");
        assert_eq!(locks.len(), 3);
        assert!(poll(pin!(locks.acquire(vec![(key("z"), Mode::Shared)]))).is_none());
        assert!(poll(pin!(locks.acquire(vec![(bucket(), Mode::Shared)]))).is_some());
        drop(held);
        assert!(locks.is_empty());
        assert!(bucket() < key(""));
    }

    #[test]
    fn who_gives_up_waiting_leaves_nothing_behind() {
        let locks = Locks::default();
        let held = poll(pin!(locks.acquire(vec![(key("k"), Mode::Exclusive)]))).expect("free");
        {
            let mut waiting = pin!(locks.acquire(vec![(bucket(), Mode::Shared), (key("k"), Mode::Shared)]));
            assert!(poll(waiting.as_mut()).is_none());
            assert_eq!(locks.len(), 2);
        }
        assert_eq!(locks.len(), 1);
        drop(held);
        assert!(locks.is_empty());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn exclusive_sections_never_overlap() {
        let locks = Locks::default();
        let inside = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let mut tasks = Vec::new();
        for task in 0..16usize {
            let (locks, inside) = (locks.clone(), Arc::clone(&inside));
            tasks.push(tokio::spawn(async move {
                for round in 0..200usize {
                    let names =
                        vec![(key("x"), Mode::Exclusive), (key(&format!("{}", (task + round) % 3)), Mode::Shared)];
                    let held = locks.acquire(names).await;
                    assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                    tokio::task::yield_now().await;
                    inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                    drop(held);
                }
            }));
        }
        for task in tasks {
            task.await.expect("no overlap");
        }
        assert!(locks.is_empty());
    }
}
