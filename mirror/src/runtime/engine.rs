//! An origin's engine threads: the apply worker carries out everything in order, a large apply in steps between the rest;
//! the flush worker flushes, and watches how much space is left. Both wait and try again while the disk is full.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use lockstep_storage::id::Origin;
use lockstep_storage::image::{Image, ImageError};

use crate::client::Input;
use crate::event::{Effect, Event};
use crate::worker::Worker;

/// Time between looks at the free space, and between two tries of a flush.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// How much space must stay free.
pub(super) struct Space {
    dir: PathBuf,
    reserve_bytes: u64,
    /// The apply worker waits for space.
    starved: AtomicBool,
}

impl Space {
    pub(super) fn new(dir: PathBuf, reserve_bytes: u64) -> Self {
        Self { dir, reserve_bytes, starved: AtomicBool::new(false) }
    }

    fn is_short(&self) -> bool {
        let little = |fs: rustix::fs::StatVfs| fs.f_bavail * fs.f_frsize < self.reserve_bytes;
        self.starved.load(Ordering::Acquire) || rustix::fs::statvfs(&self.dir).is_ok_and(little)
    }
}

pub(super) fn spawn(
    origin: Origin,
    worker: Worker,
    space: Space,
    inbox: &Sender<Input>,
) -> (Sender<Effect>, [JoinHandle<()>; 2]) {
    let (sender, effects) = channel();
    let (flush, orders) = channel();
    let image = worker.image().clone();
    let space = Arc::new(space);
    let applying = Arc::clone(&space);
    let (apply_inbox, flush_inbox) = (inbox.clone(), inbox.clone());
    let flush_origin = origin.clone();
    let spawn = |name: String, run: Box<dyn FnOnce() + Send>| {
        Builder::new().name(name).spawn(run).unwrap_or_else(|e| panic!("no thread: {e}"))
    };
    let apply = Box::new(move || apply_loop(&origin, worker, &applying, &effects, &flush, &apply_inbox));
    let flusher = Box::new(move || flush_loop(&flush_origin, &image, &space, &orders, &flush_inbox));
    (sender, [spawn("apply".into(), apply), spawn("flush".into(), flusher)])
}

fn apply_loop(
    origin: &Origin,
    mut worker: Worker,
    space: &Space,
    effects: &Receiver<Effect>,
    flush: &Sender<()>,
    inbox: &Sender<Input>,
) {
    loop {
        let next = if worker.has_steps() {
            match effects.try_recv() {
                Ok(effect) => Some(effect),
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Disconnected) => return,
            }
        } else {
            match effects.recv() {
                Ok(effect) => Some(effect),
                Err(_) => return,
            }
        };
        let done = match next {
            Some(Effect::Flush { .. }) => {
                // Everything before it is in the engine now; the flush may take its time.
                let _gone = flush.send(());
                continue;
            }
            Some(effect) => until_there_is_space(origin, space, inbox, || worker.carry_out(effect.clone())),
            None => until_there_is_space(origin, space, inbox, || worker.step()),
        };
        let event = match done {
            Ok(None) => continue,
            Ok(Some(event)) => event,
            Err(error) => Event::EngineFailed { origin: origin.clone(), reason: error.to_string() },
        };
        if let Event::Stuck { at, reason, .. } = &event {
            tracing::error!(%origin, "record {at} cannot be applied, the image stays at {}: {reason}", at.prev());
        }
        let failed = matches!(event, Event::EngineFailed { .. });
        if inbox.send(Input::Event(event)).is_err() || failed {
            return;
        }
    }
}

/// Tries again while the disk is full, and says so before and after. Gives up when the core has ended.
fn until_there_is_space<T>(
    origin: &Origin,
    space: &Space,
    inbox: &Sender<Input>,
    mut attempt: impl FnMut() -> Result<T, ImageError>,
) -> Result<T, ImageError> {
    let mut waited = false;
    loop {
        let done = attempt();
        let starved = matches!(done, Err(ImageError::NoSpace));
        if !starved && !waited {
            return done;
        }
        waited = true;
        space.starved.store(starved, Ordering::Release);
        let full = Event::Full { origin: origin.clone(), full: space.is_short() };
        if inbox.send(Input::Event(full)).is_err() || !starved {
            return done;
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

fn flush_loop(origin: &Origin, image: &Image, space: &Space, flushes: &Receiver<()>, inbox: &Sender<Input>) {
    let mut full = false;
    let mut wanted = false;
    loop {
        match flushes.recv_timeout(LOOK_INTERVAL) {
            Ok(()) => wanted = true,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        while flushes.try_recv().is_ok() {}
        let mut no_space = false;
        if wanted {
            let event = match image.flush() {
                Ok(progress) => Some(Event::Flushed { origin: origin.clone(), progress }),
                Err(ImageError::NoSpace) => None,
                Err(error) => Some(Event::EngineFailed { origin: origin.clone(), reason: error.to_string() }),
            };
            no_space = event.is_none();
            wanted = no_space;
            if let Some(event) = event
                && inbox.send(Input::Event(event)).is_err()
            {
                return;
            }
        }
        let now_full = no_space || space.is_short();
        if now_full != full {
            full = now_full;
            let _gone = inbox.send(Input::Event(Event::Full { origin: origin.clone(), full }));
        }
    }
}
