//! Clients that meet at a few keys, and a record of what each asked and was told, and when. They put, get, delete and put on
//! conditions, every value only once, and add to a set and list it. They go where they are directed, as a name server would
//! direct them, and on through refusals and broken connections.
//!
//! # Layout
//! - [`record`]: what they asked for and were told.

pub mod record;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, StatusCode};
use lockstep_gateway::config::KeyPair;
use lockstep_gateway::demo::client::{Answer, S3Client};
use lockstep_gateway::demo::ledger::Content;
use lockstep_gateway::demo::workload::{BUCKET, Random};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::record::{ELEMENT, Record, SET_PREFIX, listed};
use crate::history::set::Listing;
use crate::history::{Action, Condition, Operation, Outcome, Place, State, Value};

/// Clients at once.
const CLIENTS: u64 = 8;
/// Keys at which they meet.
pub const KEYS: u64 = 6;
/// After so long a client gives up: the outcome is unknown.
const PATIENCE: Duration = Duration::from_secs(3);
/// Before a refused client tries again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// Longest rest between two operations, in milliseconds.
const REST_MS_MAX: u64 = 12;
/// Additions to the set: one page of a listing holds them all, which is read at one moment.
const ADDITIONS_MAX: usize = 900;

/// Where clients are directed: an address, or nowhere for now.
type Direction = Option<String>;

/// Clients at work.
pub struct Clients {
    shared: Arc<Shared>,
    running: Vec<JoinHandle<()>>,
}

struct Shared {
    record: Mutex<Record>,
    direction: watch::Sender<Direction>,
    key: KeyPair,
    seed: u64,
    began: Instant,
    stop: AtomicBool,
}

impl Shared {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }
}

impl Clients {
    /// Starts them at an address.
    #[must_use]
    pub fn start(address: &str, key: &KeyPair, seed: u64) -> Self {
        let shared = Arc::new(Shared {
            record: Mutex::default(),
            direction: watch::Sender::new(Some(address.to_owned())),
            key: key.clone(),
            seed,
            began: Instant::now(),
            stop: AtomicBool::new(false),
        });
        let running = (0..CLIENTS).map(|number| tokio::spawn(Client::new(number, Arc::clone(&shared)).run())).collect();
        Self { shared, running }
    }

    /// Directs them to another address, or nowhere.
    pub fn direct(&self, to: Direction) {
        self.shared.direction.send_replace(to);
    }

    /// Time since the history's beginning.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.shared.now()
    }

    /// Operations that ended in success so far.
    #[must_use]
    pub fn answered(&self) -> u64 {
        let counts = self.shared.record().counts;
        counts.writes + counts.deletes
    }

    /// Answers so far that a source alone had.
    #[must_use]
    pub fn local(&self) -> u64 {
        self.shared.record().counts.local
    }

    /// Stops them, reads each key and the set once more, and gives the record out.
    ///
    /// # Errors
    /// When a client panicked, or a last read has no answer.
    pub async fn finish(self) -> Result<Record, String> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for client in self.running {
            client.await.map_err(|error| format!("a client is gone: {error}"))?;
        }
        let mut last = Client::new(CLIENTS, Arc::clone(&self.shared));
        let before = self.shared.record().wrong.len();
        for key in 0..KEYS {
            last.until_answered(&format!("the last read of k{key}"), key).await?;
        }
        last.until_answered("the last listing", KEYS).await?;
        drop(last);
        let mut record = std::mem::take(&mut *self.shared.record());
        if record.wrong.len() > before {
            record.wrong.push("some of these in the last reads".into());
        }
        Ok(record)
    }
}

struct Client {
    number: u64,
    random: Random,
    shared: Arc<Shared>,
    connection: Option<(String, S3Client)>,
    /// The last value seen, by key.
    seen: HashMap<String, Value>,
}

/// What a request came to, before it is known what it was.
enum Reply {
    Answer(Answer, Duration),
    /// None, or none in time.
    Broken(String),
}

impl Client {
    fn new(number: u64, shared: Arc<Shared>) -> Self {
        let random = Random::new(shared.seed ^ (number + 1).wrapping_mul(0x9e37_79b9_97f4_a7c1));
        Self { number, random, shared, connection: None, seen: HashMap::new() }
    }

    async fn run(mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            let key = format!("k{}", self.random.below(KEYS));
            let went_well = match self.random.below(100) {
                0..34 => self.get(&key).await,
                34..42 => self.delete(&key).await,
                42..60 => self.put(&key, Condition::Always).await,
                60..74 => self.put(&key, Condition::Absent).await,
                74..90 => match self.seen.get(&key).copied() {
                    Some(value) => self.put(&key, Condition::Is(value)).await,
                    None => self.get(&key).await,
                },
                90..97 => self.add().await,
                _ => self.list().await,
            };
            let rest = Duration::from_millis(self.random.below(REST_MS_MAX));
            tokio::time::sleep(if went_well { rest } else { RETRY_PAUSE }).await;
        }
    }

    /// Asks again until there is an answer: a key by its number, or the set.
    async fn until_answered(&mut self, what: &str, key: u64) -> Result<(), String> {
        let began = Instant::now();
        loop {
            let answered = if key < KEYS { self.get(&format!("k{key}")).await } else { self.list().await };
            if answered {
                return Ok(());
            }
            if began.elapsed() > 10 * PATIENCE {
                let direction = self.shared.direction.borrow().clone();
                return Err(format!("{what} has no answer at {direction:?}: {:?}", self.shared.record().wrong));
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// The connection to where clients are directed now. None while there is none: nothing was asked then.
    async fn connect(&mut self) -> Option<&mut (String, S3Client)> {
        let direction = self.shared.direction.borrow().clone()?;
        if self.connection.as_ref().is_none_or(|(address, _)| *address != direction) {
            self.connection = None;
            let client = S3Client::connect(&direction, &self.shared.key).await.ok()?;
            self.connection = Some((direction, client));
        }
        self.connection.as_mut()
    }

    /// Sends a request. None where it was not sent.
    async fn ask(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: Bytes,
    ) -> Option<Reply> {
        let target = format!("/{BUCKET}{path}");
        let (_, client) = self.connect().await?;
        let asked = tokio::time::timeout(PATIENCE, client.exchange(method, &target, headers, body)).await;
        Some(match asked {
            Ok(Ok(answer)) => Reply::Answer(answer, self.shared.now()),
            broken => {
                self.connection = None;
                self.shared.record().counts.broken += 1;
                Reply::Broken(broken.map_or_else(|_| "gave up".into(), |error| error.err().unwrap_or_default()))
            }
        })
    }

    fn operation(&self, action: Action, outcome: Outcome, began: Duration, ended: Duration) -> Operation {
        let at = self.connection.as_ref().map_or_else(String::new, |(address, _)| format!("at {address}"));
        Operation { client: self.number, action, outcome, began, ended, place: None, local: false, note: at }
    }

    async fn get(&mut self, key: &str) -> bool {
        let began = self.shared.now();
        let Some(reply) = self.ask(Method::GET, &format!("/{key}"), &[], Bytes::new()).await else { return false };
        let Reply::Answer(answer, ended) = reply else { return false };
        if answer.headers.contains_key("x-lockstep-consistency-point") {
            self.shared.record().replica_reads += 1;
            return false;
        }
        let found: State = match answer.status {
            StatusCode::OK => Some(self.recognise(key, &answer)),
            StatusCode::NOT_FOUND if says(&answer, "NoSuchKey") => None,
            StatusCode::SERVICE_UNAVAILABLE => return false,
            _ => return self.wrong(&format!("get {key}"), &answer),
        };
        if let Some(value) = found {
            self.seen.insert(key.to_owned(), value);
        }
        let operation = self.operation(Action::Get, Outcome::Read(found), began, ended);
        self.shared.record().history.push(key, operation);
        true
    }

    /// The value that was read: by its first bytes, and then all of it must be right. What is not is a value of its own,
    /// which nobody wrote.
    fn recognise(&self, key: &str, answer: &Answer) -> Value {
        let mut record = self.shared.record();
        let etag = answer.headers.get("etag").and_then(|etag| etag.to_str().ok()).unwrap_or_default().to_owned();
        let found = record.written.get(answer.body.get(..8).unwrap_or_default()).cloned();
        let strange = match found {
            Some((_, value, content)) if content.bytes() != answer.body => {
                format!("v{value} with {} bytes instead of {}, or other ones", answer.body.len(), content.len)
            }
            Some((other, value, _)) if other != key => format!("v{value}, which was written to {other}"),
            Some((_, value, _)) if *record.etags.entry(value).or_insert_with(|| etag.clone()) != etag => {
                format!("v{value} with the ETag {etag} instead of {}", record.etags[&value])
            }
            Some((_, value, _)) => return value,
            None => format!("{} bytes that nobody wrote", answer.body.len()),
        };
        record.values += 1;
        let value = record.values;
        record.wrong.push(format!("{key} was read as {strange}: v{value} in the history"));
        value
    }

    /// A new value for a key, and its bytes: most are small, some take several records.
    fn value(&mut self, key: &str) -> (Value, Content) {
        let large = self.random.below(100) < 3;
        let len = if large { (2 << 20) + self.random.below(1 << 20) } else { 16 + self.random.below(600) };
        let mut record = self.shared.record();
        record.values += 1;
        let value = record.values;
        let content = Content { seed: self.shared.seed.wrapping_add(value), len: len as usize };
        // The first draw of a seed is no other seed's.
        let first = Random::new(content.seed).draw().to_le_bytes().to_vec();
        record.written.insert(first, (key.to_owned(), value, content));
        (value, content)
    }

    async fn put(&mut self, key: &str, when: Condition) -> bool {
        let etag = match when {
            Condition::Is(value) => self.shared.record().etags.get(&value).cloned(),
            Condition::Always | Condition::Absent => None,
        };
        let headers: Vec<(&'static str, &str)> = match (when, &etag) {
            (Condition::Absent, _) => vec![("if-none-match", "*")],
            (Condition::Is(_), Some(etag)) => vec![("if-match", etag)],
            (Condition::Is(_), None) => return true,
            (Condition::Always, _) => Vec::new(),
        };
        let (value, content) = self.value(key);
        let action = Action::Put { value, when };
        let began = self.shared.now();
        let reply = self.ask(Method::PUT, &format!("/{key}"), &headers, content.bytes()).await;
        let Some(operation) = self.judge(key, action, began, reply) else { return false };
        let done = operation.outcome == Outcome::Done;
        if done {
            self.seen.insert(key.to_owned(), value);
            self.shared.record().counts.bytes += content.len as u64;
        }
        let went_well = !matches!(operation.outcome, Outcome::Refused | Outcome::Unknown);
        self.shared.record().history.push(key, operation);
        went_well
    }

    async fn delete(&mut self, key: &str) -> bool {
        let began = self.shared.now();
        let reply = self.ask(Method::DELETE, &format!("/{key}"), &[], Bytes::new()).await;
        let Some(operation) = self.judge(key, Action::Delete, began, reply) else { return false };
        let went_well = operation.outcome == Outcome::Done;
        self.shared.record().history.push(key, operation);
        went_well
    }

    async fn add(&mut self) -> bool {
        if self.shared.record().additions.len() >= ADDITIONS_MAX {
            return true;
        }
        let value = {
            let mut record = self.shared.record();
            record.values += 1;
            record.values
        };
        let action = Action::Put { value, when: Condition::Always };
        let began = self.shared.now();
        let reply = self.ask(Method::PUT, &format!("/{SET_PREFIX}{value}"), &[], Bytes::from_static(ELEMENT)).await;
        let Some(operation) = self.judge("set", action, began, reply) else { return false };
        let went_well = operation.outcome == Outcome::Done;
        self.shared.record().additions.push(operation);
        went_well
    }

    async fn list(&mut self) -> bool {
        let began = self.shared.now();
        let Some(reply) = self.ask(Method::GET, "?list-type=2&prefix=set%2F", &[], Bytes::new()).await else {
            return false;
        };
        let Reply::Answer(answer, ended) = reply else { return false };
        if answer.headers.contains_key("x-lockstep-consistency-point") {
            self.shared.record().replica_reads += 1;
            return false;
        }
        if answer.status == StatusCode::SERVICE_UNAVAILABLE {
            return false;
        }
        if answer.status != StatusCode::OK || says(&answer, "<IsTruncated>true") {
            return self.wrong("list", &answer);
        }
        self.shared.record().listings.push(Listing { began, ended, elements: listed(&answer.body) });
        true
    }

    /// What a write came to. None where it was not sent.
    fn judge(&mut self, key: &str, action: Action, began: Duration, reply: Option<Reply>) -> Option<Operation> {
        let (answer, ended) = match reply? {
            Reply::Answer(answer, ended) => (answer, ended),
            Reply::Broken(error) => {
                let mut operation = self.operation(action, Outcome::Unknown, began, self.shared.now());
                operation.note = format!("{} {error}", operation.note);
                return Some(operation);
            }
        };
        let seq = answer.headers.get("x-lockstep-seq").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let conditional = |wanted: fn(Condition) -> bool| matches!(action, Action::Put { when, .. } if wanted(when));
        let outcome = match answer.status {
            StatusCode::OK | StatusCode::NO_CONTENT => Outcome::Done,
            StatusCode::PRECONDITION_FAILED if conditional(|when| when != Condition::Always) => Outcome::Failed,
            StatusCode::NOT_FOUND
                if conditional(|when| matches!(when, Condition::Is(_))) && says(&answer, "NoSuchKey") =>
            {
                Outcome::Missing
            }
            StatusCode::SERVICE_UNAVAILABLE if seq.is_some() || says(&answer, "is not known") => Outcome::Unknown,
            StatusCode::SERVICE_UNAVAILABLE if answer.headers.contains_key("retry-after") => Outcome::Refused,
            _ => {
                self.wrong(&format!("{action:?} at {key}"), &answer);
                Outcome::Unknown
            }
        };
        let mut operation = self.operation(action, outcome, began, ended);
        if outcome == Outcome::Done {
            operation.place = seq.as_deref().and_then(place);
            operation.local = answer.headers.get("x-lockstep-ack").is_some_and(|ack| ack == "local");
            if operation.place.is_none() {
                self.wrong(&format!("{action:?} at {key} was answered without a place in the log ({seq:?})"), &answer);
            }
        }
        if let Some(seq) = seq {
            operation.note = format!("{} {seq}", operation.note);
        }
        self.count(&operation, &answer);
        Some(operation)
    }

    fn count(&self, operation: &Operation, answer: &Answer) {
        let mut record = self.shared.record();
        let counts = &mut record.counts;
        match (operation.outcome, operation.action) {
            (Outcome::Done, Action::Delete) => counts.deletes += 1,
            (Outcome::Done, _) => counts.writes += 1,
            (Outcome::Refused, _) => counts.refused += 1,
            (Outcome::Unknown, _) => counts.unknown += 1,
            _ => {}
        }
        counts.local += u64::from(operation.local);
        let etag = answer.headers.get("etag").and_then(|etag| etag.to_str().ok());
        if let (Outcome::Done, Action::Put { value, .. }, Some(etag)) = (operation.outcome, operation.action, etag) {
            record.etags.entry(value).or_insert_with(|| etag.to_owned());
        }
    }

    fn wrong(&self, asked: &str, answer: &Answer) -> bool {
        let text: String = String::from_utf8_lossy(&answer.body).chars().take(300).collect();
        self.shared.record().wrong.push(format!("{asked}: {} {text}", answer.status));
        false
    }
}

fn says(answer: &Answer, words: &str) -> bool {
    answer.body.windows(words.len()).take(1000).any(|window| window == words.as_bytes())
}

/// `<origin>/<epoch>/<seq>`, in which the epoch is `[<changes of the source>.]<restarts>-<node>`.
fn place(text: &str) -> Option<Place> {
    let mut parts = text.split('/').skip(1);
    let (epoch, seq) = (parts.next()?, parts.next()?);
    Some(Place { promotes: promotes(epoch)?, seq: seq.parse().ok()? })
}

/// Of an epoch as it prints: how often the origin had got another source.
#[must_use]
pub fn promotes(epoch: &str) -> Option<u64> {
    let (counter, _node) = epoch.split_once('-')?;
    counter.split_once('.').map_or(Some(0), |(promotes, _restarts)| promotes.parse().ok())
}
