//! An origin's engine threads: the apply worker carries out everything in order, a large apply in steps between the rest;
//! the flush worker flushes, and watches how much space is left. Both wait and try again while the disk is full.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use lockstep_storage::id::Origin;
use lockstep_storage::image::{Image, ImageError};

use super::space::Space;
use crate::client::Input;
use crate::event::{Effect, Event};
use crate::worker::{Worker, failure};

/// Time between looks at the free space, and between two tries of a flush.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How long what was collected waits for a flush that comes by itself: while clients write, one does.
const RECLAIM_DELAY: Duration = Duration::from_secs(15);

pub(super) fn spawn(
    origin: Origin,
    worker: Worker,
    space: Arc<Space>,
    inbox: &Sender<Input>,
) -> (Sender<Effect>, [JoinHandle<()>; 2]) {
    let (sender, effects) = channel();
    let (flush, orders) = channel();
    let image = worker.image().clone();
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
    flush: &Sender<Order>,
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
                let _gone = flush.send(Order::Flush);
                continue;
            }
            Some(effect) => until_there_is_space(origin, space, inbox, || worker.carry_out(effect.clone())),
            None => until_there_is_space(origin, space, inbox, || worker.step()),
        };
        if worker.has_collected() {
            let _gone = flush.send(Order::Reclaim);
        }
        let event = match done {
            Ok(None) => continue,
            Ok(Some(event)) => event,
            Err(error) => failure(origin, &error),
        };
        if let Event::Stuck { at, reason, .. } = &event {
            tracing::error!(%origin, "record {at} cannot be applied, the image stays at {}: {reason}", at.prev());
        }
        let failed = matches!(event, Event::EngineFailed { .. });
        if inbox.send(Input::Event(event)).is_err() {
            return;
        }
        if failed {
            // Nothing more is done here; the node ends when the core has stored what it has to.
            while effects.recv().is_ok() {}
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
        space.set_starved(starved);
        let full = Event::Full { origin: origin.clone(), full: space.is_short() };
        if inbox.send(Input::Event(full)).is_err() || !starved {
            return done;
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// What the flush worker is told.
enum Order {
    /// The core waits for a flush.
    Flush,
    /// Bodies were collected: the next flush gives their space back to the disk.
    Reclaim,
}

fn flush_loop(origin: &Origin, image: &Image, space: &Space, orders: &Receiver<Order>, inbox: &Sender<Input>) {
    let (mut full, mut wanted) = (false, false);
    let mut reclaim_at: Option<Instant> = None;
    // The first look is at once: what is refused is refused from the start.
    let mut patience = Duration::ZERO;
    loop {
        let first = match orders.recv_timeout(std::mem::replace(&mut patience, LOOK_INTERVAL)) {
            Ok(order) => Some(order),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        for order in first.into_iter().chain(orders.try_iter()) {
            match order {
                Order::Flush => wanted = true,
                Order::Reclaim => reclaim_at = reclaim_at.or_else(|| Instant::now().checked_add(RECLAIM_DELAY)),
            }
        }
        // Where space is short nobody waits for the next flush that comes by itself.
        let reclaims = reclaim_at.is_some_and(|due| full || due <= Instant::now());
        let mut no_space = false;
        if wanted || reclaims {
            let flushed = image.flush();
            no_space = matches!(flushed, Err(ImageError::NoSpace));
            if no_space {
                space.give();
            } else {
                reclaim_at = None;
            }
            let event = match flushed {
                Ok(progress) => wanted.then(|| Event::Flushed { origin: origin.clone(), progress }),
                Err(ImageError::NoSpace) => None,
                Err(error) => Some(failure(origin, &error)),
            };
            wanted &= no_space;
            if event.is_some_and(|event| inbox.send(Input::Event(event)).is_err()) {
                return;
            }
        }
        space.hold();
        let now_full = no_space || space.is_short();
        if now_full != full {
            full = now_full;
            let _gone = inbox.send(Input::Event(Event::Full { origin: origin.clone(), full }));
        }
    }
}
