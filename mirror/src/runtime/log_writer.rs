//! The log writer: the one thread that touches the NVRAM. It takes everything that waits, writes it in order, and makes it
//! durable with one persist.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

use bytes::Bytes;
use lockstep_storage::nvram::Nvram;
use lockstep_storage::nvram::NvramError;

use crate::client::Input;
use crate::event::Event;

/// Bytes written before a persist is due, whatever waits.
const GROUP_LEN_MAX: usize = 16 << 20;

pub(super) enum Job {
    Write { offset: u64, pieces: Vec<Bytes> },
    Persist { id: u64 },
}

/// What the device did, for status.
#[derive(Default)]
pub(super) struct Figures {
    pub(super) batches: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) persist_us: AtomicU64,
}

pub(super) fn spawn(
    mut nvram: impl Nvram + 'static,
    inbox: Sender<Input>,
) -> (Sender<Job>, Arc<Figures>, JoinHandle<()>) {
    let (sender, jobs) = channel();
    let figures = Arc::new(Figures::default());
    let counted = Arc::clone(&figures);
    let run = move || {
        while let Some(result) = group(&mut nvram, &jobs, &counted) {
            let event = match result {
                Ok(Some(id)) => Event::Persisted { id },
                Ok(None) => continue,
                Err(error) => Event::PersistFailed { reason: error.to_string() },
            };
            let failed = matches!(event, Event::PersistFailed { .. });
            if inbox.send(Input::Event(event)).is_err() || failed {
                return;
            }
        }
    };
    let thread = Builder::new().name("log-writer".into()).spawn(run).unwrap_or_else(|e| panic!("no thread: {e}"));
    (sender, figures, thread)
}

/// Carries out what waits, up to a bound, with one persist. None when the core is gone.
fn group(nvram: &mut impl Nvram, jobs: &Receiver<Job>, figures: &Figures) -> Option<Result<Option<u64>, NvramError>> {
    let mut job = Some(jobs.recv().ok()?);
    let (mut id, mut bytes) = (None, 0);
    while let Some(next) = job {
        match next {
            Job::Write { offset, pieces } => {
                bytes += pieces.iter().map(Bytes::len).sum::<usize>();
                if let Err(error) = nvram.write(offset, &pieces) {
                    return Some(Err(error));
                }
            }
            Job::Persist { id: asked } => id = Some(asked),
        }
        job = if bytes < GROUP_LEN_MAX || id.is_none() { jobs.try_recv().ok() } else { None };
    }
    if id.is_none() {
        return Some(Ok(None));
    }
    let began = Instant::now();
    let persisted = nvram.persist();
    figures.persist_us.fetch_add(began.elapsed().as_micros() as u64, Ordering::Relaxed);
    figures.batches.fetch_add(1, Ordering::Relaxed);
    figures.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    Some(persisted.map(|()| id))
}
