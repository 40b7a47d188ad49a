//! What a request is for: bucket and key, and the origin where the Host header names one.
//!
//! Path style by default; virtual-hosted style for the configured domains. The path is decoded once, byte by byte: empty
//! segments, `..` and encoded slashes are part of a key like any other character.

use lockstep_storage::id::Origin;
use percent_encoding::percent_decode_str;

use super::error::{Code, S3Error};
use super::table::Level;

/// Longest key, in bytes of UTF-8.
pub const KEY_LEN_MAX: usize = 1024;

/// What a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Bucket; empty for the service itself.
    pub bucket: String,
    /// Key; empty for a bucket.
    pub key: String,
    /// The origin that the Host header names.
    pub origin: Option<Origin>,
    /// Is the bucket in the Host header, and not in the path?
    pub hosted: bool,
}

impl Target {
    /// Finds it from Host header and raw path. `domains` are lower case.
    ///
    /// # Errors
    /// `InvalidBucketName`, `KeyTooLongError`, `InvalidURI`.
    pub fn resolve(domains: &[(String, Origin)], host: &str, path: &str) -> Result<Self, S3Error> {
        let path = path.strip_prefix('/').unwrap_or(path);
        let (origin, hosted) = match match_domain(domains, host) {
            Some((origin, label)) => (Some(origin), label),
            None => (None, String::new()),
        };
        let is_hosted = !hosted.is_empty();
        let (bucket, key) = if is_hosted {
            (hosted, decode(path)?)
        } else {
            let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
            (decode(bucket)?, decode(key)?)
        };
        let is_service = bucket.is_empty() && key.is_empty();
        if !is_service && !is_bucket_name(&bucket) {
            return Err(S3Error::from(Code::InvalidBucketName).with_detail("BucketName", bucket));
        }
        if key.len() > KEY_LEN_MAX {
            return Err(S3Error::from(Code::KeyTooLongError)
                .with_detail("Size", key.len().to_string())
                .with_detail("MaxSizeAllowed", KEY_LEN_MAX.to_string()));
        }
        Ok(Self { bucket, key, origin, hosted: is_hosted })
    }

    /// What the path names.
    #[must_use]
    pub fn level(&self) -> Level {
        match (self.bucket.is_empty(), self.key.is_empty()) {
            (true, _) => Level::Service,
            (false, true) => Level::Bucket,
            (false, false) => Level::Object,
        }
    }
}

/// The origin of the longest domain that the host is, or is below of, and the labels before it.
fn match_domain(domains: &[(String, Origin)], host: &str) -> Option<(Origin, String)> {
    if domains.is_empty() {
        return None;
    }
    let name = without_port(host);
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let below = |domain: &str| {
        let labels = name.strip_suffix(domain)?;
        if labels.is_empty() { Some("") } else { labels.strip_suffix('.').filter(|labels| !labels.is_empty()) }
    };
    let found =
        domains.iter().filter_map(|(domain, origin)| below(domain).map(|labels| (domain.len(), origin, labels)));
    found.max_by_key(|(len, ..)| *len).map(|(_, origin, labels)| (origin.clone(), labels.to_owned()))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.is_empty() => name,
        _ => host,
    }
}

fn decode(raw: &str) -> Result<String, S3Error> {
    let text = percent_decode_str(raw).decode_utf8();
    text.map(std::borrow::Cow::into_owned).map_err(|_| Code::InvalidURI.into())
}

/// Is it a name that S3 lets a bucket have?
#[must_use]
pub fn is_bucket_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    (3..=63).contains(&bytes.len())
        && edge(*first)
        && edge(*last)
        && bytes.iter().all(|b| edge(*b) || matches!(b, b'-' | b'.'))
        && !["..", ".-", "-."].iter().any(|pair| name.contains(pair))
        && name.parse::<std::net::Ipv4Addr>().is_err()
        && !is_dotted_quad(name)
}

/// Four groups of digits: looks like an address even where the numbers are too large for one.
fn is_dotted_quad(name: &str) -> bool {
    let digits = |group: &str| !group.is_empty() && group.len() <= 3 && group.bytes().all(|b| b.is_ascii_digit());
    name.split('.').count() == 4 && name.split('.').all(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(name: &str) -> Origin {
        Origin::new(name).unwrap()
    }

    fn domains() -> Vec<(String, Origin)> {
        vec![("s3.example".into(), origin("site-a")), ("b.s3.example".into(), origin("site-b"))]
    }

    fn resolve(host: &str, path: &str) -> (String, String, Option<String>) {
        let target = Target::resolve(&domains(), host, path).unwrap();
        (target.bucket, target.key, target.origin.map(|origin| origin.to_string()))
    }

    #[test]
    fn path_style() {
        for (path, bucket, key) in [
            ("/", "", ""),
            ("/bucket", "bucket", ""),
            ("/bucket/", "bucket", ""),
            ("/bucket/a/b", "bucket", "a/b"),
            ("/bucket//a//", "bucket", "/a//"),
            ("/bucket/../x", "bucket", "../x"),
            ("/bucket/a%2Fb%20c+d%25", "bucket", "a/b c+d%"),
            ("/bucket/%C3%A9", "bucket", "é"),
        ] {
            assert_eq!(resolve("127.0.0.1:9000", path), (bucket.into(), key.into(), None), "{path}");
        }
    }

    #[test]
    fn the_longest_domain_names_origin_and_bucket() {
        let a = Some("site-a".to_owned());
        let b = Some("site-b".to_owned());
        assert_eq!(resolve("s3.example", "/bucket/k"), ("bucket".into(), "k".into(), a.clone()));
        assert_eq!(resolve("My.Bucket.S3.Example:9000", "/k/x"), ("my.bucket".into(), "k/x".into(), a.clone()));
        assert_eq!(resolve("bucket.s3.example.", "/"), ("bucket".into(), String::new(), a));
        assert_eq!(resolve("b.s3.example", "/bucket"), ("bucket".into(), String::new(), b.clone()));
        assert_eq!(resolve("bucket.b.s3.example", "/k"), ("bucket".into(), "k".into(), b));
        assert_eq!(resolve("others3.example", "/bucket"), ("bucket".into(), String::new(), None));
        assert_eq!(resolve("[::1]:9000", "/bucket"), ("bucket".into(), String::new(), None));
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let refused = |path: &str| Target::resolve(&[], "h", path).unwrap_err().code;
        for path in
            ["//key", "/ab", "/Bucket", "/a_b", "/-ab", "/ab-", "/a..b", "/a.-b", "/a-.b", "/192.168.5.4", "/999.1.1.1"]
        {
            assert_eq!(refused(path), Code::InvalidBucketName, "{path}");
        }
        assert_eq!(refused(&format!("/{}", "a".repeat(64))), Code::InvalidBucketName);
        assert!(Target::resolve(&[], "h", &format!("/{}", "a".repeat(63))).is_ok());
        assert_eq!(refused("/bucket/%ff"), Code::InvalidURI);
        assert_eq!(refused(&format!("/bucket/{}", "k".repeat(1025))), Code::KeyTooLongError);
        assert!(Target::resolve(&[], "h", &format!("/bucket/{}", "%41".repeat(1024))).is_ok());
    }
}
