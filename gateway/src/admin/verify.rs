//! `verify`: digests what clients can see of an origin's image at this node, with its position, and compares two of them.
//!
//! Each node digests its own image; the command line asks both and compares. Images can only be compared at one position:
//! where the two are apart, the difference is said instead of guessed at. Where they differ it asks for [`parts`], to find
//! and name what does.

pub mod parts;

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use http::StatusCode;
use lockstep_storage::image::View;
use lockstep_storage::image::view::parts::{Cut, KeyRange};
use serde::{Deserialize, Serialize};

use super::{Admin, AdminError, AdminResult, body_of, json, read, verbs};

/// What `POST /v1/verify` takes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyBody {
    /// Which origin.
    pub origin: String,
    /// Read and verify every body too.
    #[serde(default)]
    pub deep: bool,
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
}

impl DigestView {
    /// As one line for people.
    #[must_use]
    pub fn text(&self) -> String {
        let bodies = match (self.body_bytes, &self.body_checksum) {
            (Some(bytes), Some(checksum)) => format!(", {bytes} bytes of bodies, checksum {checksum}"),
            _ => String::new(),
        };
        format!(
            "{} at {}: epoch {}, seq {}, {} entries, checksum {}{bodies}\n",
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
    let look = move |view: &View| {
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
        },
    ))
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
