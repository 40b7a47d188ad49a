//! Writers that remember what they were told, and a reader that compares. Each writer owns its keys, so after a failure
//! each key has one right answer, or two where its last operation was not answered.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use http::{Method, StatusCode};

use super::client::{Answer, S3Client};
use crate::config::KeyPair;

/// The bucket that everything goes to.
pub const BUCKET: &str = "demo";
/// Size of a part of a multipart upload but the last, in bytes.
const PART_LEN: usize = 5 << 20;

/// What a key holds: an object's seed and length, or nothing.
pub type State = Option<(u64, usize)>;

/// What is known of a key.
#[derive(Debug, Clone, Copy, Default)]
pub struct Known {
    /// After the last operation that was answered.
    pub acknowledged: State,
    /// After one that was sent and not answered.
    pub uncertain: Option<State>,
}

/// What a writer did.
#[derive(Debug, Default)]
pub struct Diary {
    /// By key.
    pub keys: BTreeMap<String, Known>,
    /// Writes acknowledged.
    pub writes: u64,
    /// Deletes acknowledged.
    pub deletes: u64,
    /// Bytes acknowledged.
    pub bytes: u64,
    /// The last `x-lockstep-seq`.
    pub last_seq: String,
    /// Why it stopped.
    pub stopped: String,
}

/// Counters that the progress line shows.
#[derive(Debug, Default)]
pub struct Progress {
    /// Operations answered.
    pub answered: AtomicU64,
    /// Bytes answered.
    pub bytes: AtomicU64,
    /// Writers stop when it is set.
    pub stop: AtomicBool,
}

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

/// The bytes of an object, made again from its seed.
#[must_use]
pub fn contents(seed: u64, len: usize) -> Bytes {
    let mut random = Random::new(seed);
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        out.extend_from_slice(&random.draw().to_le_bytes());
    }
    out.truncate(len);
    out.into()
}

/// Mostly small, some large: 1 byte to 8 MiB.
fn size(random: &mut Random) -> usize {
    let class = random.below(100);
    let size = match class {
        0..70 => 1 + random.below(16 << 10),
        70..92 => 1 + random.below(256 << 10),
        92..99 => 1 + random.below(2 << 20),
        _ => 1 + random.below(8 << 20),
    };
    usize::try_from(size).unwrap_or(1)
}

/// Writes until it fails or is stopped.
pub async fn writer(address: String, key: KeyPair, number: u64, seed: u64, progress: Arc<Progress>) -> Diary {
    let mut diary = Diary::default();
    let mut client = match S3Client::connect(&address, &key).await {
        Ok(client) => client,
        Err(error) => {
            diary.stopped = error;
            return diary;
        }
    };
    let mut random = Random::new(seed ^ number.wrapping_mul(0x1234_5678_9abc_def1));
    while !progress.stop.load(Ordering::Relaxed) {
        let name = format!("w{number}/k{}", random.below(400));
        let content = (random.draw(), size(&mut random));
        let (state, answer) = match random.below(100) {
            0..12 => (None, delete(&mut client, &name).await),
            12..13 => {
                let content = (content.0, PART_LEN + content.1.min(1 << 20));
                (Some(content), multipart(&mut client, &name, content).await)
            }
            _ => (Some(content), put(&mut client, &name, content).await),
        };
        let known = diary.keys.entry(name).or_default();
        match answer {
            Ok(answer) if answer.status.is_success() => {
                *known = Known { acknowledged: state, uncertain: None };
                if let Some(seq) = answer.headers.get("x-lockstep-seq").and_then(|v| v.to_str().ok()) {
                    seq.clone_into(&mut diary.last_seq);
                }
                let bytes = state.map_or(0, |(_, len)| len as u64);
                diary.bytes += bytes;
                if state.is_some() {
                    diary.writes += 1;
                } else {
                    diary.deletes += 1;
                }
                progress.answered.fetch_add(1, Ordering::Relaxed);
                progress.bytes.fetch_add(bytes, Ordering::Relaxed);
            }
            failed => {
                known.uncertain = Some(state);
                diary.stopped = failed.map_or_else(|e| e, |a| format!("{}: {}", a.status, text(&a.body)));
                return diary;
            }
        }
    }
    diary
}

fn text(body: &Bytes) -> String {
    String::from_utf8_lossy(body).chars().take(200).collect()
}

async fn put(client: &mut S3Client, name: &str, (seed, len): (u64, usize)) -> Result<Answer, String> {
    client.send(Method::PUT, &format!("/{BUCKET}/{name}"), contents(seed, len)).await
}

async fn delete(client: &mut S3Client, name: &str) -> Result<Answer, String> {
    client.send(Method::DELETE, &format!("/{BUCKET}/{name}"), Bytes::new()).await
}

async fn multipart(client: &mut S3Client, name: &str, (seed, len): (u64, usize)) -> Result<Answer, String> {
    let begun = client.send(Method::POST, &format!("/{BUCKET}/{name}?uploads="), Bytes::new()).await?;
    let answer = text(&begun.body);
    let found = String::from_utf8_lossy(&begun.body).into_owned();
    let upload = found.split("<UploadId>").nth(1).and_then(|rest| rest.split('<').next()).unwrap_or_default();
    if upload.is_empty() {
        return Err(format!("no upload id in: {answer}"));
    }
    let bytes = contents(seed, len);
    let mut parts = String::new();
    for (number, from) in (0..len).step_by(PART_LEN).enumerate() {
        let number = number + 1;
        let part = bytes.slice(from..len.min(from + PART_LEN));
        let target = format!("/{BUCKET}/{name}?partNumber={number}&uploadId={upload}");
        let stored = client.send(Method::PUT, &target, part).await?;
        let etag = stored.headers.get("etag").and_then(|v| v.to_str().ok()).unwrap_or_default();
        if !stored.status.is_success() {
            return Ok(stored);
        }
        let _infallible = write!(parts, "<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>");
    }
    let body = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
    client.send(Method::POST, &format!("/{BUCKET}/{name}?uploadId={upload}"), body.into()).await
}

/// What the reader found.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Keys whose state is right.
    pub equal: u64,
    /// Bytes read back of them.
    pub bytes: u64,
    /// Keys whose last operation was not answered; either outcome is right, and one of them was found.
    pub uncertain: u64,
    /// Each key that differs, in a sentence.
    pub different: Vec<String>,
}

/// Reads every key of a diary back.
///
/// # Errors
/// When the site does not answer.
pub async fn compare(client: &mut S3Client, diary: &Diary) -> Result<Comparison, String> {
    let mut found = Comparison::default();
    for (name, known) in &diary.keys {
        let answer = client.send(Method::GET, &format!("/{BUCKET}/{name}"), Bytes::new()).await?;
        let is = |state: &State| match state {
            None => answer.status == StatusCode::NOT_FOUND,
            Some((seed, len)) => answer.status == StatusCode::OK && answer.body == contents(*seed, *len),
        };
        let right = is(&known.acknowledged) || known.uncertain.as_ref().is_some_and(is);
        if right {
            found.equal += 1;
            found.bytes += answer.body.len() as u64 * u64::from(answer.status == StatusCode::OK);
            found.uncertain += u64::from(known.uncertain.is_some());
        } else {
            let (status, len) = (answer.status, answer.body.len());
            found.different.push(format!("{name}: {status}, {len} bytes; expected {known:?}"));
        }
    }
    Ok(found)
}
