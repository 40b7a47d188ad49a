//! Digests of many bodies at once.
//!
//! Uploads hand a digest and a chunk over and get the digest back, advanced. One thread runs the chunks of all of them in
//! the lanes of its vectors: it goes on in short steps, lets new chunks in between two of them and answers for those that
//! are through. So nobody waits for a full set, and nobody for the end of a set. A second thread joins only when the
//! lanes of the first are all taken, and never more than there are cores. The threads are the runtime's blocking threads
//! that bring the chunks; when nothing is left they go.
//!
//! Bounded by its callers: an upload hands over one chunk at a time. The upload path is the caller.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::available_parallelism;

use bytes::{Buf as _, Bytes};
use tokio::sync::oneshot;

use super::Digester;
use super::lanes::{Block, LANES_MAX, Lanes};

/// Blocks that the lanes go through between two looks at who waits: about a tenth of a millisecond.
const STEP_BLOCKS: usize = 1024;

/// The pool of a gateway. A clone is the same pool.
#[derive(Clone)]
pub struct DigestPool(Arc<Shared>);

struct Shared {
    lanes: Lanes,
    workers_max: usize,
    work: Mutex<Work>,
}

#[derive(Default)]
struct Work {
    waiting: VecDeque<Job>,
    /// Chunks in the lanes of the workers.
    running: usize,
    workers: usize,
}

struct Job {
    digester: Digester,
    /// What is left of the chunk.
    chunk: Bytes,
    done: oneshot::Sender<Digester>,
}

impl Default for DigestPool {
    fn default() -> Self {
        Self::new(Lanes::detect(), available_parallelism().map_or(1, usize::from))
    }
}

impl DigestPool {
    fn new(lanes: Lanes, workers_max: usize) -> Self {
        Self(Arc::new(Shared { lanes, workers_max, work: Mutex::default() }))
    }

    /// Adds a chunk to a digest, which comes back through `done`. Blocks while it works, for this chunk or for others:
    /// call it on a blocking thread.
    pub fn update(&self, mut digester: Digester, mut chunk: Bytes, done: oneshot::Sender<Digester>) {
        digester.update_checksums(&chunk);
        let taken = digester.md5.begin(&chunk);
        chunk.advance(taken);
        let pool = &*self.0;
        let mut work = pool.lock();
        work.waiting.push_back(Job { digester, chunk, done });
        let wanted = (work.running + work.waiting.len()).div_ceil(pool.lanes.count()).min(pool.workers_max);
        if work.workers < wanted {
            work.workers += 1;
            drop(work);
            Worker { pool, jobs: Vec::with_capacity(LANES_MAX), gone: false }.run();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Work> {
        // Nothing is half done when a thread panics under the lock: it only counts and moves.
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread at work.
struct Worker<'a> {
    pool: &'a Shared,
    jobs: Vec<Job>,
    /// Whether the pool has taken it off its count.
    gone: bool,
}

impl Worker<'_> {
    fn run(mut self) {
        while self.refill() {
            self.step();
            self.answer();
        }
    }

    /// Takes in who waits. False when this worker is not needed: there is nothing to do, or the others have room for all.
    fn refill(&mut self) -> bool {
        let lanes = self.pool.lanes.count();
        let mut work = self.pool.lock();
        while self.jobs.len() < lanes
            && let Some(job) = work.waiting.pop_front()
        {
            // Nobody waits for it when the request is gone.
            if !job.done.is_closed() {
                work.running += 1;
                self.jobs.push(job);
            }
        }
        // Under the lock: a chunk that comes after this finds the worker gone and brings another.
        if work.running + work.waiting.len() <= lanes * (work.workers - 1) {
            work.running -= self.jobs.len();
            work.waiting.extend(self.jobs.drain(..));
            work.workers -= 1;
            self.gone = true;
        }
        !self.gone
    }

    /// As many blocks as all have, up to a step.
    fn step(&mut self) {
        let whole = self.jobs.iter().map(|job| job.blocks().len()).min().unwrap_or(0);
        let count = whole.min(STEP_BLOCKS);
        let mut chains = [[0; 4]; LANES_MAX];
        let mut messages: [&[Block]; LANES_MAX] = [&[]; LANES_MAX];
        for (lane, job) in self.jobs.iter().enumerate() {
            chains[lane] = job.digester.md5.chain;
            messages[lane] = &job.blocks()[..count];
        }
        let used = self.jobs.len();
        self.pool.lanes.advance(&mut chains[..used], &messages[..used]);
        for (job, chain) in self.jobs.iter_mut().zip(chains) {
            job.digester.md5.chain = chain;
            job.digester.md5.end(count, &[]);
            job.chunk.advance(size_of::<Block>() * count);
        }
    }

    /// Gives back the digests whose chunks are through.
    fn answer(&mut self) {
        let before = self.jobs.len();
        for mut job in self.jobs.extract_if(.., |job| job.blocks().is_empty()) {
            job.digester.md5.end(0, &job.chunk);
            // Nobody waits for it when the request is gone.
            let _gone = job.done.send(job.digester);
        }
        let through = before - self.jobs.len();
        if through > 0 {
            self.pool.lock().running -= through;
        }
    }
}

impl Drop for Worker<'_> {
    /// Only a panic ends a worker that is not gone yet. Its uploads fail, and so do those that nobody would serve now.
    fn drop(&mut self) {
        if !self.gone {
            let mut work = self.pool.lock();
            work.running -= self.jobs.len();
            work.workers -= 1;
            if work.workers == 0 {
                work.waiting.clear();
            }
        }
    }
}

impl Job {
    fn blocks(&self) -> &[Block] {
        self.chunk.as_chunks().0
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use proptest::prelude::*;

    use super::super::lanes::tests::ways;
    use super::super::{Algorithm, Digests};
    use super::*;

    fn bytes(seed: usize, len: usize) -> Bytes {
        (0..len).map(|at| (seed * 131 + at * 7 + (at >> 8)) as u8).collect()
    }

    fn expected(body: &[u8]) -> Digests {
        use md5::Digest as _;
        let mut digester = Digester::new(&[Algorithm::Crc32c]);
        digester.update(body);
        Digests { md5: md5::Md5::digest(body).into(), checksums: digester.finish().checksums }
    }

    /// Hands a body over, cut into pieces of these lengths and a rest.
    fn through(pool: &DigestPool, mut body: Bytes, pieces: &[usize]) -> Digests {
        let mut digester = Digester::new(&[Algorithm::Crc32c]);
        for len in pieces.iter().copied().chain([usize::MAX]) {
            let (done, answer) = oneshot::channel();
            pool.update(digester, body.split_to(len.min(body.len())), done);
            digester = answer.blocking_recv().expect("the pool answers");
        }
        digester.finish()
    }

    fn assert_idle(pool: &DigestPool) {
        let work = pool.0.lock();
        assert_eq!((work.waiting.len(), work.running, work.workers), (0, 0, 0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn concurrent_bodies_do_not_mix(
            bodies in prop::collection::vec((0usize..300_000, prop::collection::vec(0usize..120_000, 0..4)), 1..40),
            workers_max in 1usize..4,
        ) {
            for (name, lanes) in ways() {
                let pool = DigestPool::new(lanes, workers_max);
                let wrong = thread::scope(|scope| {
                    let uploads: Vec<_> = bodies.iter().enumerate().map(|(seed, (len, pieces))| {
                        let (pool, body) = (&pool, bytes(seed, *len));
                        scope.spawn(move || through(pool, body.clone(), pieces) != expected(&body))
                    }).collect();
                    uploads.into_iter().map(|upload| upload.join().expect("no panic")).filter(|wrong| *wrong).count()
                });
                prop_assert_eq!(wrong, 0, "{}", name);
                assert_idle(&pool);
            }
        }
    }

    fn waiting(pool: &DigestPool, body: &Bytes) -> oneshot::Receiver<Digester> {
        let (done, digested) = oneshot::channel();
        pool.0.lock().waiting.push_back(Job { digester: Digester::new(&[]), chunk: body.clone(), done });
        digested
    }

    #[test]
    fn one_worker_serves_all_who_wait_and_skips_who_has_gone() {
        for (name, lanes) in ways() {
            let pool = DigestPool::new(lanes, 1);
            let bodies: Vec<_> = (0..3 * LANES_MAX).map(|n| bytes(n, n * 7_001)).collect();
            let mut answers: Vec<_> = bodies.iter().map(|body| Some(waiting(&pool, body))).collect();
            answers.iter_mut().step_by(5).for_each(|gone| *gone = None);
            assert_eq!(through(&pool, bytes(0, 5), &[]), expected(&bytes(0, 5)), "{name}");
            for (body, answer) in bodies.iter().zip(answers) {
                let md5 = answer.map(|answer| answer.blocking_recv().expect("the pool answers").finish().md5);
                assert!(md5.is_none_or(|md5| md5 == expected(body).md5), "{name}");
            }
            assert_idle(&pool);
        }
    }

    #[test]
    fn a_worker_leaves_when_the_others_have_room_for_its_chunks() {
        let pool = DigestPool::new(Lanes::detect(), 2);
        let body = bytes(1, 100_000);
        let answer = waiting(&pool, &body);
        pool.0.lock().workers = 2;
        let mut worker = Worker { pool: &pool.0, jobs: Vec::new(), gone: false };
        assert!(!worker.refill());
        drop(worker);
        {
            let work = pool.0.lock();
            assert_eq!(
                (work.waiting.len(), work.running, work.workers),
                (1, 0, 1),
                "its chunk waits for the other worker"
            );
        }
        Worker { pool: &pool.0, jobs: Vec::new(), gone: false }.run();
        assert_eq!(answer.blocking_recv().expect("the pool answers").finish().md5, expected(&body).md5);
        assert_idle(&pool);
    }

    #[test]
    fn uploads_fail_with_the_last_worker_and_the_pool_goes_on() {
        let pool = DigestPool::new(Lanes::detect(), 1);
        let (taken, left) = (waiting(&pool, &bytes(1, 100_000)), DigestPool::clone(&pool));
        pool.0.lock().workers = 1;
        let mut worker = Worker { pool: &pool.0, jobs: Vec::new(), gone: false };
        assert!(worker.refill());
        let not_taken = waiting(&pool, &bytes(2, 100_000));
        drop(worker);
        assert!(taken.blocking_recv().is_err() && not_taken.blocking_recv().is_err());
        assert_idle(&left);
        assert_eq!(through(&left, bytes(3, 70), &[1]), expected(&bytes(3, 70)));
    }
}
