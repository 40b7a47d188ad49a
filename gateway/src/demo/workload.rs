//! Writers that put, overwrite, copy, delete, and upload in parts, and note what they were told in a [`Ledger`]. Each one
//! owns its keys and waits for one answer before it sends the next request, so that every key has one order of operations.
//! A writer goes on through refusals and broken connections until it is told to stop.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use tokio::task::JoinHandle;

use super::client::{Answer, NO_ANSWER, S3Client};
use super::ledger::{Content, Known, Ledger, State, Upload};
use crate::config::KeyPair;

/// The bucket that everything goes to.
pub const BUCKET: &str = "demo";
/// Size of a part of a multipart upload but the last, in bytes.
const PART_LEN: usize = 5 << 20;
/// Time before a refused writer tries again.
const RETRY_PAUSE: Duration = Duration::from_millis(25);

/// A small generator: the same seed gives the same numbers.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Begins at a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number (splitmix64).
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound.max(1)
    }
}

/// What writers do.
#[derive(Debug, Clone, Copy)]
pub struct Mix {
    /// Keys of each writer.
    pub keys: u64,
    /// Classes of sizes: how many of a thousand objects, and the largest of them in bytes. The rest is 1 byte to 8 MiB.
    pub sizes: &'static [(u64, u64)],
    /// How many of a thousand operations are deletes, copies, and uploads in parts. The rest are puts.
    pub deletes: u64,
    /// Copies.
    pub copies: u64,
    /// Uploads in parts.
    pub multiparts: u64,
}

impl Mix {
    /// A few hundred keys and megabytes: what the demo shows.
    pub const BROAD: Self = Self {
        keys: 400,
        sizes: &[(700, 16 << 10), (220, 256 << 10), (70, 2 << 20)],
        deletes: 120,
        copies: 30,
        multiparts: 15,
    };
    /// Many objects, mostly small.
    pub const MANY: Self = Self {
        keys: 6000,
        sizes: &[(900, 4 << 10), (85, 64 << 10), (13, 1 << 20)],
        deletes: 70,
        copies: 40,
        multiparts: 6,
    };

    fn size(&self, random: &mut Random) -> usize {
        let mut class = random.below(1000);
        for (share, largest) in self.sizes {
            if class < *share {
                return 1 + random.below(*largest) as usize;
            }
            class -= share;
        }
        1 + random.below(8 << 20) as usize
    }
}

/// Who writes what where.
#[derive(Debug, Clone)]
pub struct Load {
    /// Host and port of the S3 listener.
    pub address: String,
    /// The key that signs.
    pub key: KeyPair,
    /// Writers at once.
    pub writers: u64,
    /// Decides names, contents and order.
    pub seed: u64,
    /// What they do.
    pub mix: Mix,
}

/// Counters that can be read while writers write.
#[derive(Debug, Default)]
pub struct Progress {
    /// Operations answered.
    pub answered: AtomicU64,
    /// Bytes answered.
    pub bytes: AtomicU64,
    /// Objects that are there.
    pub objects: AtomicU64,
    /// Answers that only the source had.
    pub local: AtomicU64,
    /// Refusals.
    pub refused: AtomicU64,
    stop: AtomicBool,
}

/// Writers at work.
pub struct Running {
    /// How far they are.
    pub progress: Arc<Progress>,
    writers: Vec<JoinHandle<Ledger>>,
    rest: Ledger,
}

impl Running {
    /// Starts them; they go on from what a ledger says.
    #[must_use]
    pub fn start(load: &Load, mut ledger: Ledger) -> Self {
        let progress = Arc::new(Progress::default());
        progress.objects.store(ledger.objects(), Ordering::Relaxed);
        let writers = (0..load.writers)
            .map(|number| {
                let prefix = format!("w{number}/");
                let own = ledger.split(&prefix);
                let writer = Writer {
                    names: own.keys.keys().cloned().collect(),
                    ledger: own,
                    random: Random::new(load.seed ^ (number + 1).wrapping_mul(0x1234_5678_9abc_def1)),
                    load: load.clone(),
                    prefix,
                    client: None,
                    progress: Arc::clone(&progress),
                };
                tokio::spawn(writer.run())
            })
            .collect();
        Self { progress, writers, rest: ledger }
    }

    /// Stops them and waits for their last answers.
    ///
    /// # Errors
    /// When a writer panicked.
    pub async fn stop(self) -> Result<Ledger, String> {
        self.progress.stop.store(true, Ordering::Relaxed);
        let mut all = self.rest;
        for writer in self.writers {
            all.join(writer.await.map_err(|error| format!("a writer is gone: {error}"))?);
        }
        Ok(all)
    }
}

/// What a request came to.
enum Outcome {
    Done(Answer),
    /// Nothing was changed.
    Refused,
    /// It may have been done, or may yet be.
    Unknown,
}

struct Writer {
    load: Load,
    prefix: String,
    random: Random,
    ledger: Ledger,
    /// Keys that have been written.
    names: Vec<String>,
    client: Option<S3Client>,
    progress: Arc<Progress>,
}

impl Writer {
    async fn run(mut self) -> Ledger {
        while !self.progress.stop.load(Ordering::Relaxed) {
            if self.client.is_none() {
                self.client = S3Client::connect(&self.load.address, &self.load.key).await.ok();
            }
            if self.client.is_none() {
                tokio::time::sleep(RETRY_PAUSE).await;
                continue;
            }
            let refused = self.ledger.counts.refused;
            self.operate().await;
            if self.ledger.counts.refused > refused {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
        self.ledger
    }

    async fn operate(&mut self) {
        let mix = self.load.mix;
        let any = self.name();
        let content = Content { seed: self.random.draw(), len: mix.size(&mut self.random) };
        let known =
            (!self.names.is_empty()).then(|| self.names[self.random.below(self.names.len() as u64) as usize].clone());
        let what = self.random.below(1000);
        match known {
            Some(known) if what < mix.deletes => self.delete(known).await,
            Some(known) if what < mix.deletes + mix.copies => self.copy(&known, any).await,
            _ if what < mix.deletes + mix.copies + mix.multiparts => self.multipart(any, content).await,
            _ => self.put(any, content).await,
        }
    }

    fn name(&mut self) -> String {
        format!("{}k{}", self.prefix, self.random.below(self.load.mix.keys))
    }

    /// Sends one request and says what it came to. An answer that no client should get is noted.
    async fn send(&mut self, method: Method, target: &str, copy: Option<&str>, body: Bytes) -> Outcome {
        let Some(client) = &mut self.client else { return Outcome::Refused };
        let asked = format!("{method} {target}");
        let sent = match copy {
            Some(source) => client.copy(source, target).await,
            None => client.send(method, target, body).await,
        };
        let counts = &mut self.ledger.counts;
        let answer = match sent {
            Ok(answer) => answer,
            Err(error) => {
                if error == NO_ANSWER {
                    self.ledger.wrong.push(format!("{asked}: {error}"));
                }
                counts.broken += 1;
                self.client = None;
                return Outcome::Unknown;
            }
        };
        let logged = answer.headers.contains_key("x-lockstep-seq");
        if answer.status.is_success() && !is_error(&answer.body) {
            if answer.headers.get("x-lockstep-ack").is_some_and(|ack| ack == "local") {
                counts.local += 1;
                self.progress.local.fetch_add(1, Ordering::Relaxed);
            }
            return Outcome::Done(answer);
        }
        self.progress.refused.fetch_add(1, Ordering::Relaxed);
        let retry_after = answer.headers.contains_key("retry-after");
        if answer.status != StatusCode::SERVICE_UNAVAILABLE || !retry_after {
            let text = String::from_utf8_lossy(&answer.body).chars().take(300).collect::<String>();
            self.ledger.wrong.push(format!("{asked}: {}, Retry-After {retry_after}: {text}", answer.status));
            return Outcome::Unknown;
        }
        if logged {
            counts.unknown += 1;
            return Outcome::Unknown;
        }
        counts.refused += 1;
        Outcome::Refused
    }

    /// Notes what an operation that leaves `state` at a key came to. Says whether it was acknowledged.
    fn note(&mut self, name: &str, state: State, outcome: &Outcome) -> bool {
        let known = self.ledger.keys.entry(name.to_owned()).or_insert_with(|| {
            self.names.push(name.to_owned());
            Known::default()
        });
        let before = known.certain().is_some();
        match outcome {
            Outcome::Done(_) => known.answer(state),
            Outcome::Unknown => known.unanswered.push(state),
            Outcome::Refused => return false,
        }
        match (before, known.certain().is_some()) {
            (false, true) => drop(self.progress.objects.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(self.progress.objects.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
        if matches!(outcome, Outcome::Unknown) {
            return false;
        }
        let bytes = state.map_or(0, |content| content.len as u64);
        self.ledger.counts.bytes += bytes;
        self.ledger.counts.writes += u64::from(state.is_some());
        self.ledger.counts.deletes += u64::from(state.is_none());
        self.progress.answered.fetch_add(1, Ordering::Relaxed);
        self.progress.bytes.fetch_add(bytes, Ordering::Relaxed);
        true
    }

    async fn put(&mut self, name: String, content: Content) {
        let outcome = self.send(Method::PUT, &format!("/{BUCKET}/{name}"), None, content.bytes()).await;
        self.note(&name, Some(content), &outcome);
    }

    async fn delete(&mut self, name: String) {
        let outcome = self.send(Method::DELETE, &format!("/{BUCKET}/{name}"), None, Bytes::new()).await;
        self.note(&name, None, &outcome);
    }

    async fn copy(&mut self, from: &str, to: String) {
        let Some(content) = self.ledger.keys.get(from).and_then(Known::certain) else { return };
        if from == to {
            return;
        }
        let source = format!("/{BUCKET}/{from}");
        let outcome = self.send(Method::PUT, &format!("/{BUCKET}/{to}"), Some(&source), Bytes::new()).await;
        self.ledger.counts.copies += u64::from(self.note(&to, Some(content), &outcome));
    }

    /// Uploads in parts: most in one small part, some in several; most are completed, some aborted, some left open.
    async fn multipart(&mut self, name: String, content: Content) {
        let large = self.random.below(4) == 0;
        let content = Content { len: if large { PART_LEN + content.len.min(1 << 20) } else { content.len }, ..content };
        let upload = match self.send(Method::POST, &format!("/{BUCKET}/{name}?uploads="), None, Bytes::new()).await {
            Outcome::Done(answer) => element(&answer.body, "UploadId"),
            Outcome::Unknown => {
                self.ledger.begun.insert(name);
                return;
            }
            Outcome::Refused => return,
        };
        let id = (name.clone(), upload.clone());
        self.ledger.uploads.insert(id.clone(), Upload::Open);
        let Some(parts) = self.parts(&name, &upload, content).await else { return };
        let target = format!("/{BUCKET}/{name}?uploadId={upload}");
        let end = self.random.below(10);
        if end == 0 {
            return;
        }
        let outcome = if end == 1 {
            let outcome = self.send(Method::DELETE, &target, None, Bytes::new()).await;
            self.ledger.counts.aborts += u64::from(matches!(outcome, Outcome::Done(_)));
            outcome
        } else {
            let body = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
            let outcome = self.send(Method::POST, &target, None, body.into()).await;
            self.ledger.counts.multiparts += u64::from(self.note(&name, Some(content), &outcome));
            outcome
        };
        match outcome {
            Outcome::Done(_) => drop(self.ledger.uploads.remove(&id)),
            Outcome::Unknown => drop(self.ledger.uploads.insert(id, Upload::MayHaveEnded)),
            Outcome::Refused => {}
        }
    }

    /// Stores every part; the list that completes the upload, or none where a part was not acknowledged.
    async fn parts(&mut self, name: &str, upload: &str, content: Content) -> Option<String> {
        let bytes = content.bytes();
        let mut parts = String::new();
        for (index, from) in (0..content.len).step_by(PART_LEN).enumerate() {
            let number = index + 1;
            let part = bytes.slice(from..content.len.min(from + PART_LEN));
            let target = format!("/{BUCKET}/{name}?partNumber={number}&uploadId={upload}");
            let Outcome::Done(stored) = self.send(Method::PUT, &target, None, part).await else { return None };
            let etag = stored.headers.get("etag").and_then(|value| value.to_str().ok()).unwrap_or_default();
            // Writing to a String cannot fail.
            let _ = write!(parts, "<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>");
        }
        Some(parts)
    }
}

/// A copy or a completion may fail after its status was sent.
fn is_error(body: &Bytes) -> bool {
    body.windows(7).take(200).any(|window| window == b"<Error>")
}

/// The text of the first element of this name in an answer.
fn element(body: &Bytes, name: &str) -> String {
    let text = String::from_utf8_lossy(body);
    let found = text.split(&format!("<{name}>")).nth(1).and_then(|rest| rest.split('<').next());
    found.unwrap_or_default().to_owned()
}
