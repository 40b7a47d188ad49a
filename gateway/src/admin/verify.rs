//! `verify`: digests what clients can see of an origin's image at this node, with its position, and compares two of them.
//!
//! Each node digests its own image; the command line asks both and compares. Images can only be compared at one position:
//! where the two are apart, the difference is said instead of guessed at. Where they differ it asks for [`parts`], to find
//! and name what does.

pub mod parts;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Bytes;
use axum::extract::State;
use http::StatusCode;
use lockstep_mirror::client::Client;
use lockstep_storage::id::{ChunkId, Origin};
use lockstep_storage::image::View;
use lockstep_storage::image::view::parts::{Cut, KeyRange};
use serde::{Deserialize, Serialize};

use super::{Admin, AdminError, AdminResult, body_of, json, read, verbs};

/// Most damaged chunks that are told apart: a disk with more is not mended, but replaced.
const MET_MAX: usize = 1 << 20;

/// What `POST /v1/verify` takes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyBody {
    /// Which origin.
    pub origin: String,
    /// Read and verify every body too.
    #[serde(default)]
    pub deep: bool,
    /// Of bodies that are read, have damaged chunks repaired by the peer's bytes.
    #[serde(default)]
    pub repair: bool,
}

/// An image in a few numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DigestView {
    /// Whose image.
    pub origin: String,
    /// Where it is.
    pub node: String,
    /// Epoch of the last record in it.
    pub epoch: String,
    /// Seq of the last record in it.
    pub seq: u64,
    /// Buckets, objects, uploads, parts, keys and users.
    pub entries: u64,
    /// Checksum over all of them.
    pub checksum: String,
    /// Bytes of bodies that were read; none where they were not asked for.
    pub body_bytes: Option<u64>,
    /// Checksum over these bytes.
    pub body_checksum: Option<String>,
    /// Objects and parts whose bodies are not whole; none where they were not read.
    #[serde(default)]
    pub damaged: Option<u64>,
    /// Chunks that were found damaged; none where they were not to be repaired.
    #[serde(default)]
    pub chunks_damaged: Option<u64>,
    /// Of these, how many have their bytes again, from the peer.
    #[serde(default)]
    pub chunks_repaired: Option<u64>,
}

impl DigestView {
    /// As one line for people.
    #[must_use]
    pub fn text(&self) -> String {
        let bodies = match (self.body_bytes, &self.body_checksum) {
            (Some(bytes), Some(checksum)) => format!(", {bytes} bytes of bodies, checksum {checksum}"),
            _ => String::new(),
        };
        let mended = match (self.chunks_damaged, self.chunks_repaired) {
            (Some(damaged @ 1..), Some(repaired)) => format!(", {damaged} damaged chunks, {repaired} repaired"),
            _ => String::new(),
        };
        format!(
            "{} at {}: epoch {}, seq {}, {} entries, checksum {}{bodies}{mended}\n",
            self.origin, self.node, self.epoch, self.seq, self.entries, self.checksum
        )
    }

    /// What is wrong with this image by itself, in one sentence; none for nothing.
    #[must_use]
    pub fn damage(&self) -> Option<String> {
        let damaged = self.damaged.filter(|damaged| *damaged > 0)?;
        Some(format!("{damaged} of the entries at {} have damaged bodies", self.node))
    }

    /// Compares with another node's image: one sentence that says how they differ, or none where they are the same.
    ///
    /// # Errors
    /// With one sentence when they cannot be compared.
    pub fn difference(&self, other: &Self) -> Result<Option<String>, String> {
        let (here, there) = (&self.node, &other.node);
        if (&self.epoch, self.seq) != (&other.epoch, other.seq) {
            return Err(format!(
                "the images cannot be compared: {here} is at {}/{}, {there} at {}/{}; run sync while nobody writes, then \
                 verify again",
                self.epoch, self.seq, other.epoch, other.seq
            ));
        }
        if (self.entries, &self.checksum) != (other.entries, &other.checksum) {
            return Ok(Some(format!("the images differ at seq {}: {here} is not equal to {there}", self.seq)));
        }
        if let Some(damage) = self.damage().or_else(|| other.damage()) {
            return Ok(Some(format!("the images are equal at seq {}, but {damage}", self.seq)));
        }
        if self.body_checksum != other.body_checksum || self.body_bytes != other.body_bytes {
            return Ok(Some(format!("the bodies differ at seq {}: {here} is not equal to {there}", self.seq)));
        }
        Ok(None)
    }
}

/// A checksum as it is shown.
fn hex(checksum: u64) -> String {
    format!("{checksum:016x}")
}

pub(super) async fn verify(State(admin): State<Arc<Admin>>, body: Bytes) -> AdminResult {
    let body: VerifyBody = body_of(&body)?;
    let origin = verbs::origin(&body.origin)?;
    let mending = (body.deep && body.repair).then(|| Mending::new(admin.client.clone(), origin.clone()));
    let mended = mending.clone();
    let look = move |view: &View| {
        let view = mended.map_or_else(|| view.clone(), |mended| mended.look_through(view));
        let whole = view.digest_parts(&KeyRange::default(), &Cut::Before(Vec::new()), body.deep)?;
        Ok((view.progress()?.applied, whole))
    };
    let (applied, whole) = read(&admin, &origin, look).await?;
    let [image] = &whole[..] else {
        return Err(AdminError(StatusCode::INTERNAL_SERVER_ERROR, "a whole image is one part".into()));
    };
    Ok(json(
        StatusCode::OK,
        &DigestView {
            origin: origin.to_string(),
            node: admin.client.node().to_string(),
            epoch: applied.epoch.to_string(),
            seq: applied.seq.0,
            entries: image.entries,
            checksum: hex(image.checksum),
            body_bytes: image.bodies.map(|bodies| bodies.bytes),
            body_checksum: image.bodies.map(|bodies| hex(bodies.checksum)),
            damaged: body.deep.then_some(image.damaged),
            chunks_damaged: mending.as_ref().map(|mending| mending.count(|_| true)),
            chunks_repaired: mending.as_ref().map(|mending| mending.count(|repaired| repaired)),
        },
    ))
}

/// Has damaged chunks repaired while an image is read, and counts them: each once, whoever shares it.
#[derive(Clone)]
struct Mending {
    client: Client,
    origin: Origin,
    /// Chunks that were damaged, and whether they have their bytes again.
    met: Arc<Mutex<HashMap<ChunkId, bool>>>,
}

impl Mending {
    fn new(client: Client, origin: Origin) -> Self {
        Self { client, origin, met: Arc::default() }
    }

    fn met(&self) -> MutexGuard<'_, HashMap<ChunkId, bool>> {
        self.met.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look_through(&self, view: &View) -> View {
        let mending = self.clone();
        view.clone().with_mend(Arc::new(move |chunk| {
            let bytes = mending.client.mend(&mending.origin, chunk);
            let mut met = mending.met();
            if met.len() < MET_MAX {
                *met.entry(chunk).or_default() |= bytes.is_some();
            }
            bytes
        }))
    }

    fn count(&self, which: impl Fn(bool) -> bool) -> u64 {
        self.met().values().filter(|repaired| which(**repaired)).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(node: &str, seq: u64, checksum: &str, bodies: Option<&str>) -> DigestView {
        DigestView {
            origin: "site-a".into(),
            node: node.into(),
            epoch: "1-0000000a".into(),
            seq,
            entries: 3,
            checksum: checksum.into(),
            body_bytes: bodies.map(|_| 7),
            body_checksum: bodies.map(str::to_owned),
            damaged: bodies.map(|_| 0),
            chunks_damaged: None,
            chunks_repaired: None,
        }
    }

    #[test]
    fn only_equal_images_at_one_position_are_equal() {
        let here = digest("site-a", 9, "aa", Some("01"));
        let differs = |there: &DigestView| here.difference(there).expect("one position").unwrap_or_default();
        assert_eq!(here.difference(&digest("site-b", 9, "aa", Some("01"))), Ok(None));
        let apart = here.difference(&digest("site-b", 8, "aa", Some("01"))).expect_err("another position");
        assert!(apart.contains("cannot be compared") && apart.contains("site-b at 1-0000000a/8"), "{apart}");
        assert!(differs(&digest("site-b", 9, "ab", Some("01"))).contains("images differ at seq 9"));
        assert!(differs(&digest("site-b", 9, "aa", Some("02"))).contains("bodies differ"));
        assert!(differs(&digest("site-b", 9, "aa", None)).contains("bodies differ"), "one is deep, one is not");
        let damaged = DigestView { damaged: Some(2), ..digest("site-b", 9, "aa", Some("01")) };
        assert!(differs(&damaged).contains("2 of the entries at site-b have damaged bodies"));
        // A node of before does not say how many are damaged: it ends at the first of them.
        let mut before = serde_json::to_value(digest("site-b", 9, "aa", None)).expect("JSON");
        before.as_object_mut().expect("an object").remove("damaged");
        assert_eq!(serde_json::from_value::<DigestView>(before).expect("is read").damaged, None);
    }
}
