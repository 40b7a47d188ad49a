//! Signature Version 4: who sends a request, and is the head of it what was signed? And version 2, for the presigned URLs
//! of clients that still make them: see [`VersionTwo`].
//!
//! Three steps, all before a byte of the body is read: [`Claim::read`] takes the signature apart (Authorization header or
//! presigned query), the caller finds the secret of the access key, [`Claim::verify`] makes the signature again and compares.
//! The canonical request is built here from the raw URI and headers; key and signature come from aws-sigv4.
//!
//! What must stay true: everything that a handler acts on is signed (host, path, query, every `x-amz-` header); no
//! comparison of secrets takes longer for a better guess; the clock is an argument.

mod canonical;
mod claim;
mod date;
mod keys;
mod version_two;

use http::{HeaderMap, Method};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::error::{Code, S3Error};
use canonical::PathForm;
pub use claim::{Claim, Form, PresignedQuery};
pub use date::{Timestamp, now_s};
pub use keys::SigningKeys;
pub use version_two::VersionTwo;

/// The only algorithm.
pub(crate) const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// The only service.
pub(crate) const SERVICE: &str = "s3";
/// SHA-256 of nothing, in hex.
pub(crate) const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
/// How far a request's clock may be from ours, in seconds.
pub const SKEW_MAX_S: i64 = 15 * 60;
/// Longest life of a presigned URL, in seconds.
pub const EXPIRES_MAX_S: i64 = 7 * 24 * 3600;

/// What is signed of a request: its head, as it came in.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// Method.
    pub method: &'a Method,
    /// Path, not decoded.
    pub path: &'a str,
    /// Query without `?`, not decoded.
    pub query: &'a str,
    /// Headers.
    pub headers: &'a HeaderMap,
    /// Host header, or `:authority` in HTTP/2.
    pub host: &'a str,
}

/// The signature of the head, and what signs the chunks that follow it. The default one signs nothing: that of a head after
/// which no chunk is signed.
#[derive(Debug, Clone, Default)]
pub struct Signer {
    /// Signing key of the day.
    pub key: [u8; 32],
    /// `20261124T000000Z`
    pub timestamp: String,
    /// `20261124/us-east-1/s3/aws4_request`
    pub scope: String,
    /// Signature before: the head's at first, then the last chunk's. 64 lower-case hex digits.
    pub signature: String,
}

impl Signer {
    /// Signs what stands in a string to sign after algorithm, time and scope, chained to the signature before.
    pub(crate) fn chain(&self, algorithm: &str, rest: &[&str]) -> String {
        let mut text = String::with_capacity(320);
        for part in [algorithm, &self.timestamp, &self.scope, &self.signature] {
            text.push_str(part);
            text.push('\n');
        }
        text.push_str(&rest.join("\n"));
        aws_sigv4::sign::v4::calculate_signature(self.key, text.as_bytes())
    }
}

impl Claim<'_> {
    /// Is the signature the one that the holder of `secret` would make?
    ///
    /// # Errors
    /// `SignatureDoesNotMatch`.
    pub fn verify(&self, head: &Head<'_>, secret: &str, keys: &SigningKeys) -> Result<Signer, S3Error> {
        let key = keys.get(self, secret);
        let payload = self.payload_hash();
        let mut signer = Signer {
            key,
            timestamp: self.timestamp.text().to_owned(),
            scope: self.scope.to_owned(),
            signature: String::new(),
        };
        let presented = self.signature.as_bytes();
        for form in [PathForm::Normal, PathForm::Raw] {
            let canonical = canonical::request(head, self, payload, form);
            let Some(canonical) = canonical else { continue };
            let digest = hex(&Sha256::digest(&canonical));
            let mut text = String::with_capacity(192);
            for part in [ALGORITHM, self.timestamp.text(), self.scope] {
                text.push_str(part);
                text.push('\n');
            }
            text.push_str(&digest);
            let wanted = aws_sigv4::sign::v4::calculate_signature(key, text.as_bytes());
            if bool::from(wanted.as_bytes().ct_eq(presented)) {
                signer.signature = wanted;
                return Ok(signer);
            }
        }
        Err(Code::SignatureDoesNotMatch.into())
    }
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    out
}

/// The bytes of a SHA-256 in hex of either case; none where it is not one.
pub(crate) fn sha256_from_hex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    Some(bytes)
}
