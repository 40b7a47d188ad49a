//! The log writer: the one thread that touches the NVRAM. It takes everything that waits, writes it in order, and makes it
//! durable with one persist.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

use bytes::Bytes;
use lockstep_storage::nvram::{BLOCK_LEN, Nvram, NvramError};

use crate::client::Input;
use crate::event::Event;

/// Bytes written before a persist is due, whatever waits.
const GROUP_LEN_MAX: usize = 16 << 20;

/// Fills a batch up to the block bound that the next one begins at.
static ZEROS: [u8; BLOCK_LEN as usize] = [0; BLOCK_LEN as usize];

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
    let mut run = Run::default();
    while let Some(next) = job {
        match next {
            Job::Write { offset, pieces } => {
                bytes += pieces.iter().map(Bytes::len).sum::<usize>();
                if let Err(error) = run.add(nvram, offset, pieces) {
                    return Some(Err(error));
                }
            }
            Job::Persist { id: asked } => id = Some(asked),
        }
        job = if bytes < GROUP_LEN_MAX || id.is_none() { jobs.try_recv().ok() } else { None };
    }
    if let Err(error) = run.write(nvram) {
        return Some(Err(error));
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

/// Writes that follow each other in the region: batches do, and one write of them costs the device what each would.
#[derive(Default)]
struct Run {
    offset: u64,
    len: u64,
    pieces: Vec<Bytes>,
}

impl Run {
    fn add(&mut self, nvram: &mut impl Nvram, offset: u64, pieces: Vec<Bytes>) -> Result<(), NvramError> {
        let padding = self.len.next_multiple_of(BLOCK_LEN) - self.len;
        if self.len == 0 || self.offset + self.len + padding != offset {
            self.write(nvram)?;
            self.offset = offset;
        } else if padding > 0 {
            self.pieces.push(Bytes::from_static(&ZEROS[..padding as usize]));
            self.len += padding;
        }
        self.len += pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
        self.pieces.extend(pieces);
        Ok(())
    }

    fn write(&mut self, nvram: &mut impl Nvram) -> Result<(), NvramError> {
        let pieces = std::mem::take(&mut self.pieces);
        self.len = 0;
        if pieces.is_empty() { Ok(()) } else { nvram.write(self.offset, &pieces) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    /// Keeps what is written where.
    #[derive(Default)]
    struct Seen(Vec<(u64, Vec<u8>)>);

    impl Nvram for Seen {
        fn len(&self) -> u64 {
            u64::MAX
        }

        fn write(&mut self, offset: u64, pieces: &[Bytes]) -> Result<(), NvramError> {
            self.0.push((offset, pieces.concat()));
            Ok(())
        }

        fn persist(&mut self) -> Result<(), NvramError> {
            Ok(())
        }

        fn read(&mut self, offset: u64, _len: usize) -> Result<Bytes, NvramError> {
            Err(NvramError::Range { offset, len: 0, region: 0 })
        }
    }

    #[test]
    fn batches_that_follow_each_other_are_one_write() {
        let (sender, jobs) = channel();
        let write = |offset, bytes: &[u8]| {
            let pieces = bytes.chunks(3).map(Bytes::copy_from_slice).collect();
            sender.send(Job::Write { offset, pieces }).expect("is read");
        };
        write(8192, &[1; 4097]);
        write(16_384, &[2; 4096]);
        write(20_480, &[3; 10]);
        write(0, &[4; 5]);
        write(65_536, &[5; 7]);
        sender.send(Job::Persist { id: 7 }).expect("is read");
        let mut nvram = Seen::default();
        let done = group(&mut nvram, &jobs, &Figures::default());
        assert!(matches!(done, Some(Ok(Some(7)))));
        let first = [&[1; 4097][..], &[0; 4095], &[2; 4096], &[3; 10]].concat();
        assert_eq!(nvram.0, [(8192, first), (0, vec![4; 5]), (65_536, vec![5; 7])]);
    }
}
