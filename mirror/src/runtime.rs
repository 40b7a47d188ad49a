//! The threads that carry the core's effects out: the core's own, the log writer, and per origin an apply worker and a
//! flush worker. What is slow answers with an event; nothing but the core's thread touches the core.

mod core;
mod descriptors;
mod engine;
mod generations;
mod log_writer;
mod notes;
mod space;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lockstep_storage::id::{Epoch, Origin};
use lockstep_storage::image::rocks::RocksShared;
use lockstep_storage::nvram::file::{FileNvram, PersistClass};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

pub use self::descriptors::connections_max;
use self::generations::{RocksEngines, RocksGenerations};
pub use self::space::Reserve;
use self::space::{Disk, Space};
use crate::client::{BUDGET_UNIT, Client, Input, Role, Shared};
use crate::event::{Command, Connection, Now};
use crate::link::{LinkHandle, LinkOptions};
use crate::plan::NodePlan;
use crate::start::{StartError, Started, region_len, start};
use crate::tail::Tails;
use crate::worker::{Aside, Worker};

/// Time between two looks at the threads.
const THREADS_INTERVAL: Duration = Duration::from_millis(500);

/// What a node is opened with.
pub struct RuntimeOptions {
    /// Origins, streams, sizes.
    pub plan: NodePlan,
    /// Where engines and tails lie.
    pub data_dir: PathBuf,
    /// The NVRAM region: a file or a device.
    pub nvram_path: PathBuf,
    /// What a persist survives.
    pub persist: PersistClass,
    /// Bytes of records that clients may have in memory.
    pub budget_bytes: usize,
    /// Bytes of block cache, of all origins together.
    pub cache_bytes: usize,
    /// Bytes of write buffers, of all origins together.
    pub write_buffer_bytes: usize,
    /// What stays free of the disk.
    pub reserve: Reserve,
    /// The link; none without a mirror in either direction.
    pub link: Option<LinkOptions>,
}

/// Why a node cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file or directory.
    #[error("{0}: {1}")]
    Io(PathBuf, std::io::Error),
    /// What is stored and what is configured.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// The clocks of a process: one that never goes back, and the wall's.
#[derive(Debug, Clone, Copy)]
struct Clock {
    began: Instant,
}

impl Clock {
    fn now(self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono_ms: self.began.elapsed().as_millis() as u64, wall_ms: wall.as_millis() as u64 }
    }
}

/// A running node. Dropping it without [`Runtime::shut_down`] is like a crash, but tidy.
pub struct Runtime {
    client: Client,
    link: Option<LinkHandle>,
    inbox: mpsc::Sender<Input>,
    threads: Vec<JoinHandle<()>>,
    stopped: CancellationToken,
    reason: Arc<Mutex<String>>,
}

impl Runtime {
    /// Opens the node: its region, its engines, its threads. `tokio` carries the link. `progress` hears how many bytes of
    /// a new region are zeroed. Blocks while recovery runs.
    ///
    /// # Errors
    /// When a file, the region, an engine or the plan says no.
    pub fn open(
        options: &RuntimeOptions,
        tokio: &tokio::runtime::Handle,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self, OpenError> {
        descriptors::raise();
        make_dir(&options.data_dir)?;
        let len = region_len(&options.plan);
        let mut nvram =
            FileNvram::open(&options.nvram_path, len, options.persist, progress).map_err(StartError::Nvram)?;
        let rocks = RocksShared::new(options.cache_bytes, options.write_buffer_bytes);
        let disk = Arc::new(Disk::open(&options.data_dir, options.reserve));
        let mut engines = RocksEngines::new(&options.data_dir, &rocks, &disk);
        let clock = Clock { began: Instant::now() };
        let incarnation = uuid_like(clock.now().wall_ms);
        let mut begin = || start(&mut nvram, &options.plan, incarnation, &mut engines, clock.now());
        let started = match begin() {
            Err(error) if error.is_no_space() && disk.give_all() => {
                tracing::warn!("no space to start with ({error}): what is held on the disk is given back");
                begin()?
            }
            started => started?,
        };
        Ok(Self::spawn(options, (&rocks, &disk), started, nvram, clock, tokio))
    }

    fn spawn(
        options: &RuntimeOptions,
        (rocks, disk): (&RocksShared, &Arc<Disk>),
        started: Started,
        nvram: FileNvram,
        clock: Clock,
        tokio: &tokio::runtime::Handle,
    ) -> Self {
        let (inbox, receiver) = mpsc::channel();
        let Started { node, images, effects } = started;
        let mut status = node.status(clock.now());
        status.persist_class = options.persist.as_str();
        let sources: Vec<Origin> =
            status.origins.iter().filter(|o| o.role == Role::Source).map(|o| o.origin.clone()).collect();
        let shared = Shared {
            node: options.plan.node.clone(),
            inbox: inbox.clone(),
            budget: Arc::new(Semaphore::new(options.budget_bytes / BUDGET_UNIT)),
            images: images.clone(),
            origins: RwLock::default(),
            status: RwLock::new(Arc::new(status)),
            tails: Tails::new(options.data_dir.clone()),
            roles: watch::Sender::new(Vec::new()),
        };
        let client = Client { shared: Arc::new(shared) };
        let link = options.link.clone().map(|link| link_of(&options.plan, link, tokio, &inbox));
        let mut threads = Vec::new();
        let (log, figures, thread) = log_writer::spawn(nvram, inbox.clone());
        threads.push(thread);
        let (mut engines, mut spaces) = (HashMap::new(), HashMap::new());
        for (origin, image) in images {
            let mut tail = client.tails().writer();
            let set_aside = Box::new(move |o: &Origin, e: Epoch, step: Aside<'_>| tail.take(o, e, step));
            let generations = RocksGenerations::new(&options.data_dir, &origin, rocks, disk);
            let worker = Worker::new(origin.clone(), image, options.plan.limits, set_aside, Box::new(generations));
            let space = Arc::new(Space::new(Arc::clone(disk), sources.contains(&origin)));
            let (sender, handles) = engine::spawn(origin.clone(), worker, Arc::clone(&space), &inbox);
            spaces.insert(origin.clone(), space);
            engines.insert(origin, sender);
            threads.extend(handles);
        }
        let stopped = CancellationToken::new();
        let reason = Arc::new(Mutex::new(String::new()));
        let outlets = core::Outlets { log, engines, spaces, link: link.clone(), client: client.clone(), figures };
        let stop = (stopped.clone(), Arc::clone(&reason));
        threads.push(core::spawn(node, effects, receiver, outlets, clock, options.persist.as_str(), stop));
        Self { client, link, inbox, threads, stopped, reason }
    }

    /// What the gateway calls.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The link, to serve its listener.
    #[must_use]
    pub fn link(&self) -> Option<&LinkHandle> {
        self.link.as_ref()
    }

    /// Comes back when the node stopped by itself, with why (F13): because it had to, or because one of its threads is
    /// gone. A node that lives on without its core would tell load balancers that it is well, and answer nobody.
    pub async fn stopped(&self) -> String {
        loop {
            let looked = tokio::time::timeout(THREADS_INTERVAL, self.stopped.cancelled()).await;
            if looked.is_ok() {
                return self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone();
            }
            if let Some(thread) = lost(&self.threads) {
                return thread;
            }
        }
    }

    /// Stops admission, settles what is admitted, makes a last consistency point, for at most `patience`; then ends the
    /// threads. Says whether everything was settled.
    pub async fn shut_down(mut self, patience: Duration) -> bool {
        let settled = tokio::time::timeout(patience, self.client.command(Command::Shutdown)).await;
        let _closed = self.inbox.send(Input::Stop);
        if let Some(link) = &self.link {
            link.close_all();
        }
        let threads = std::mem::take(&mut self.threads);
        let _joined = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|t| drop(t.join()))).await;
        matches!(settled, Ok(Ok(_)))
    }
}

/// Says which thread has ended, where one has: none does before the node is told to stop.
fn lost(threads: &[JoinHandle<()>]) -> Option<String> {
    let lost = threads.iter().find(|thread| thread.is_finished())?;
    Some(format!("the thread '{}' is gone: the log says why", lost.thread().name().unwrap_or_default()))
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let _closed = self.inbox.send(Input::Stop);
    }
}

fn link_of(
    plan: &NodePlan,
    options: LinkOptions,
    tokio: &tokio::runtime::Handle,
    inbox: &mpsc::Sender<Input>,
) -> LinkHandle {
    // Outgoing connections have even numbers, incoming ones odd.
    let incoming = AtomicU64::new(1);
    let next = move || Connection(incoming.fetch_add(2, Ordering::Relaxed));
    let inbox = inbox.clone();
    let deliver = move |event, held| drop(inbox.send(Input::Link(event, held)));
    LinkHandle::new(plan, options, tokio.clone(), next, deliver)
}

fn make_dir(dir: &Path) -> Result<(), OpenError> {
    std::fs::create_dir_all(dir).map_err(|e| OpenError::Io(dir.to_owned(), e))
}

/// A number that no other region has: the region's name.
fn uuid_like(wall_ms: u64) -> u64 {
    let address = std::ptr::from_ref(&wall_ms).addr() as u64;
    let process = u64::from(std::process::id());
    (wall_ms << 20) ^ (process << 44) ^ address.rotate_left(17)
}

#[cfg(test)]
mod tests {
    use std::thread::Builder;

    use super::*;

    #[test]
    fn a_thread_that_is_gone_is_named() {
        let (hold, released) = mpsc::channel::<()>();
        let waits =
            Builder::new().name("waits".into()).spawn(move || assert!(released.recv().is_err())).expect("a thread");
        let ends = Builder::new().name("ends".into()).spawn(|| {}).expect("a thread");
        assert_eq!(lost(&[]), None);
        let mut threads = vec![waits];
        assert_eq!(lost(&threads), None);
        threads.push(ends);
        while !threads[1].is_finished() {
            std::thread::yield_now();
        }
        assert!(lost(&threads).is_some_and(|reason| reason.contains("'ends' is gone")));
        drop(hold);
    }
}
