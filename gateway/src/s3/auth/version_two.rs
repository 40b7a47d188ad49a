//! Signature Version 2, in the query only: what the aws CLI (before its version 2) and boto3 put in a presigned URL where
//! nobody chose a version.
//!
//! It signs less than version 4: neither Host nor body, and of the query only what names a sub-resource or overrides a
//! header of the answer. So a URL of it that has anything else in its query is refused: what a handler acts on is signed,
//! here too. Its life is bounded like that of a newer one.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::percent_decode_str;
use sha1::Sha1;
use subtle::ConstantTimeEq;

use super::{EXPIRES_MAX_S, Head, SKEW_MAX_S};
use crate::s3::error::{Code, S3Error};

/// What is signed of a query.
const SIGNED: [&str; 14] = [
    "acl",
    "location",
    "partNumber",
    "response-cache-control",
    "response-content-disposition",
    "response-content-encoding",
    "response-content-language",
    "response-content-type",
    "response-expires",
    "tagging",
    "uploadId",
    "uploads",
    "versionId",
    "versioning",
];

/// A signature of version 2, taken apart.
#[derive(Debug)]
pub struct VersionTwo<'a> {
    /// Access key id.
    pub access_key: Cow<'a, str>,
    expires_s: i64,
    signature: Vec<u8>,
    /// Signed pairs of the query: names as they came, values decoded; none for a name without `=`.
    signed: Vec<(&'a str, Option<Cow<'a, str>>)>,
}

fn denied(message: &str) -> S3Error {
    S3Error::new(Code::AccessDenied, message)
}

impl<'a> VersionTwo<'a> {
    /// Reads and checks what a raw query claims. `now_s` is seconds since 1970.
    ///
    /// # Errors
    /// `AccessDenied` for an incomplete, outdated or endless one, `InvalidRequest` where something in it is not signed.
    pub fn read(raw: &'a str, now_s: i64) -> Result<Self, S3Error> {
        let (mut access_key, mut expires, mut signature, mut signed) = (None, None, None, Vec::new());
        for part in raw.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').map_or((part, None), |(name, value)| (name, Some(value)));
            let value = value.map(|value| percent_decode_str(value).decode_utf8_lossy());
            let slot = match name {
                "AWSAccessKeyId" => &mut access_key,
                "Expires" => &mut expires,
                "Signature" => &mut signature,
                name if SIGNED.contains(&name) => {
                    signed.push((name, value));
                    continue;
                }
                _ => return Err(S3Error::new(Code::InvalidRequest, UNSIGNED)),
            };
            if slot.replace(value.unwrap_or_default()).is_some() {
                return Err(denied("A parameter of the signature is there twice."));
            }
        }
        let (Some(access_key), Some(expires), Some(signature)) = (access_key, expires, signature) else {
            return Err(denied(
                "Query-string authentication requires the Signature, Expires and AWSAccessKeyId parameters",
            ));
        };
        let expires_s: i64 = expires.parse().map_err(|_| denied("Invalid date (should be seconds since epoch)"))?;
        if now_s >= expires_s {
            return Err(denied("Request has expired"));
        }
        if expires_s.saturating_sub(now_s) > EXPIRES_MAX_S + SKEW_MAX_S {
            return Err(denied("Expires must be at most a week from now"));
        }
        let signature = BASE64.decode(&*signature).map_err(|_| S3Error::from(Code::SignatureDoesNotMatch))?;
        signed.sort_by_key(|(name, _)| *name);
        Ok(Self { access_key, expires_s, signature, signed })
    }

    /// Is it the signature that the holder of `secret` would make? `hosted` is the bucket where Host names it, else empty.
    ///
    /// # Errors
    /// `SignatureDoesNotMatch`.
    pub fn verify(&self, head: &Head<'_>, hosted: &str, secret: &str) -> Result<(), S3Error> {
        let no = || S3Error::from(Code::SignatureDoesNotMatch);
        let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).map_err(|_| no())?;
        mac.update(&self.string_to_sign(head, hosted));
        let wanted = mac.finalize().into_bytes();
        if bool::from(wanted.as_slice().ct_eq(&self.signature)) { Ok(()) } else { Err(no()) }
    }

    fn string_to_sign(&self, head: &Head<'_>, hosted: &str) -> Vec<u8> {
        let header = |name: &str| head.headers.get(name).map(|value| value.as_bytes().trim_ascii()).unwrap_or_default();
        let expires = self.expires_s.to_string();
        let (md5, kind) = (header("content-md5"), header("content-type"));
        let mut out = [head.method.as_str().as_bytes(), md5, kind, expires.as_bytes(), b""].join(&b'\n');
        let mut names: Vec<&str> = head.headers.keys().map(http::HeaderName::as_str).collect();
        names.retain(|name| name.starts_with("x-amz-"));
        names.sort_unstable();
        for name in names {
            let values: Vec<&[u8]> = head.headers.get_all(name).iter().map(|v| v.as_bytes().trim_ascii()).collect();
            out.extend_from_slice(&[name.as_bytes(), b":", &values.join(&b','), b"\n"].concat());
        }
        if !hosted.is_empty() {
            out.push(b'/');
            out.extend_from_slice(hosted.as_bytes());
        }
        out.extend_from_slice(head.path.as_bytes());
        for (index, (name, value)) in self.signed.iter().enumerate() {
            out.push(if index == 0 { b'?' } else { b'&' });
            out.extend_from_slice(name.as_bytes());
            if let Some(value) = value {
                out.push(b'=');
                out.extend_from_slice(value.as_bytes());
            }
        }
        out
    }
}

const UNSIGNED: &str = "This URL has a signature of version 2, which does not cover everything in its query. Please use \
                        AWS4-HMAC-SHA256.";

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;

    const NOW_S: i64 = 1_795_616_000;

    /// Signed by boto3 1.43 for access key `a`, secret `b`.
    fn outcome(method: &Method, path: &str, query: &str, hosted: &str) -> Result<(), Code> {
        let headers = HeaderMap::new();
        let head = Head { method, path, query, headers: &headers, host: "127.0.0.1:1" };
        let claim = VersionTwo::read(query, NOW_S).map_err(|error| error.code)?;
        assert_eq!(claim.access_key, "a");
        claim.verify(&head, hosted, "b").map_err(|error| error.code)
    }

    #[test]
    fn what_boto3_signs_is_accepted_and_nothing_else() {
        let (get, put) = (&Method::GET, &Method::PUT);
        let plain = "AWSAccessKeyId=a&Signature=EBjIZ3%2Fk8ExBKnLoE9dSJYIFBtE%3D&Expires=1795616424";
        assert_eq!(outcome(get, "/b/k", plain, ""), Ok(()));
        assert_eq!(outcome(get, "/k", plain, "b"), Ok(()), "the same object by its Host name");
        let wrong = Err(Code::SignatureDoesNotMatch);
        assert_eq!(outcome(put, "/b/k", plain, ""), wrong);
        assert_eq!(outcome(get, "/b/l", plain, ""), wrong);
        assert_eq!(outcome(get, "/b/k", plain, "b"), wrong, "a longer key in the bucket of the Host name");
        assert_eq!(outcome(get, "/b/k", &plain.replace("6424", "6425"), ""), wrong);
        assert_eq!(outcome(get, "/b/k", &plain.replace("EBj", "FBj"), ""), wrong);
        assert_eq!(outcome(get, "/b/k", &format!("{plain}&versionId=null"), ""), wrong);
        assert_eq!(outcome(get, "/b/k", &format!("{plain}&prefix=x"), ""), Err(Code::InvalidRequest));
        let denied = Err(Code::AccessDenied);
        for bad in ["1795616000", "1", "-1", "1796300000", "99999999999999999999", "soon", ""] {
            assert_eq!(outcome(get, "/b/k", &plain.replace("1795616424", bad), ""), denied, "{bad}");
        }
        assert_eq!(outcome(get, "/b/k", &format!("{plain}&Expires=1795616424"), ""), denied);
        assert_eq!(outcome(get, "/b/k", "AWSAccessKeyId=a", ""), denied);
    }
}
