//! `verify`: digests what clients can see of an origin's image at this node, with its position, and compares two of them.
//!
//! Each node digests its own image; the command line asks both and compares. Images can only be compared at one position:
//! where the two are apart, the difference is said instead of guessed at.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::{Admin, AdminResult, body_of, json, read, verbs};

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

    /// Says that another node's image is the same, or what differs.
    ///
    /// # Errors
    /// With one sentence when they differ or cannot be compared.
    pub fn compare(&self, other: &Self) -> Result<String, String> {
        let (here, there) = (&self.node, &other.node);
        if (&self.epoch, self.seq) != (&other.epoch, other.seq) {
            return Err(format!(
                "the images cannot be compared: {here} is at {}/{}, {there} at {}/{}; run sync while nobody writes, then \
                 verify again",
                self.epoch, self.seq, other.epoch, other.seq
            ));
        }
        if (self.entries, &self.checksum) != (other.entries, &other.checksum) {
            return Err(format!("the images differ at seq {}: {here} is not equal to {there}", self.seq));
        }
        if self.body_checksum != other.body_checksum || self.body_bytes != other.body_bytes {
            return Err(format!("the bodies differ at seq {}: {here} is not equal to {there}", self.seq));
        }
        Ok(format!("the images are equal at seq {}\n", self.seq))
    }
}

pub(super) async fn verify(State(admin): State<Arc<Admin>>, body: Bytes) -> AdminResult {
    let body: VerifyBody = body_of(&body)?;
    let origin = verbs::origin(&body.origin)?;
    let (image, bodies) =
        read(&admin, &origin, move |view| Ok((view.digest()?, body.deep.then(|| view.digest_bodies()).transpose()?)))
            .await?;
    Ok(json(
        StatusCode::OK,
        &DigestView {
            origin: origin.to_string(),
            node: admin.client.node().to_string(),
            epoch: image.applied.epoch.to_string(),
            seq: image.applied.seq.0,
            entries: image.entries,
            checksum: format!("{:016x}", image.checksum),
            body_bytes: bodies.map(|bodies| bodies.bytes),
            body_checksum: bodies.map(|bodies| format!("{:016x}", bodies.checksum)),
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
        }
    }

    #[test]
    fn only_equal_images_at_one_position_are_equal() {
        let here = digest("site-a", 9, "aa", Some("01"));
        assert!(here.compare(&digest("site-b", 9, "aa", Some("01"))).is_ok());
        let apart = here.compare(&digest("site-b", 8, "aa", Some("01"))).expect_err("another position");
        assert!(apart.contains("cannot be compared") && apart.contains("site-b at 1-0000000a/8"), "{apart}");
        let other = here.compare(&digest("site-b", 9, "ab", Some("01"))).expect_err("another image");
        assert!(other.contains("images differ at seq 9"), "{other}");
        let damaged = here.compare(&digest("site-b", 9, "aa", Some("02"))).expect_err("other bytes");
        assert!(damaged.contains("bodies differ"), "{damaged}");
        assert!(here.compare(&digest("site-b", 9, "aa", None)).is_err(), "one is deep, one is not");
    }
}
