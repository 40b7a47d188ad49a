//! Headers that are stored with an object and given back: system headers, user metadata, checksums.
//!
//! A value is kept byte for byte: each byte as the character with its number (Latin-1), because HTTP promises no encoding
//! and a reader must get back what a writer sent.

use http::HeaderMap;
use http::header::{self, HeaderName, HeaderValue};
use lockstep_storage::op::{Header, Object};

use crate::s3::query::Query;
use crate::s3::{Code, S3Error};

/// Most bytes of user metadata, names and values together.
const METADATA_LEN_MAX: usize = 2048;
const METADATA_PREFIX: &str = "x-amz-meta-";
const CHECKSUM_PREFIX: &str = "x-amz-checksum-";
/// What an object is when nobody said it.
const CONTENT_TYPE_DEFAULT: HeaderValue = HeaderValue::from_static("binary/octet-stream");

/// Stored as they come.
const SYSTEM: [&str; 7] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
    "x-amz-website-redirect-location",
];

/// Query parameters of a GET that replace stored headers in its answer.
const OVERRIDES: [(&str, HeaderName); 6] = [
    ("response-cache-control", header::CACHE_CONTROL),
    ("response-content-disposition", header::CONTENT_DISPOSITION),
    ("response-content-encoding", header::CONTENT_ENCODING),
    ("response-content-language", header::CONTENT_LANGUAGE),
    ("response-content-type", header::CONTENT_TYPE),
    ("response-expires", header::EXPIRES),
];

fn to_text(value: &[u8]) -> String {
    value.iter().map(|byte| char::from(*byte)).collect()
}

/// A stored value as a header again; none for what no header can be.
#[must_use]
pub fn to_value(text: &str) -> Option<HeaderValue> {
    let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(c).ok()).collect();
    HeaderValue::from_bytes(&bytes?).ok()
}

fn joined(headers: &HeaderMap, name: &str) -> String {
    let values: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    to_text(&values.join(&b","[..]))
}

/// The system headers of a request that are stored with its object.
#[must_use]
pub fn system(headers: &HeaderMap) -> Vec<Header> {
    let there = SYSTEM.iter().filter(|name| headers.contains_key(**name));
    there.map(|name| Header { name: (*name).to_owned(), value: joined(headers, name) }).collect()
}

/// The user metadata of a request.
///
/// # Errors
/// `MetadataTooLarge` beyond 2 KiB.
pub fn metadata(headers: &HeaderMap) -> Result<Vec<Header>, S3Error> {
    let mut found: Vec<Header> = Vec::new();
    let mut len = 0;
    for name in headers.keys() {
        if let Some(short) = name.as_str().strip_prefix(METADATA_PREFIX).filter(|short| !short.is_empty()) {
            let value = joined(headers, name.as_str());
            len += short.len() + value.chars().count();
            found.push(Header { name: short.to_owned(), value });
        }
    }
    if len > METADATA_LEN_MAX {
        let error = S3Error::from(Code::MetadataTooLarge).with_detail("Size", len.to_string());
        return Err(error.with_detail("MaxSizeAllowed", METADATA_LEN_MAX.to_string()));
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Is it a checksum, or the type of one?
#[must_use]
pub fn is_checksum(header: &Header) -> bool {
    header.name.starts_with(CHECKSUM_PREFIX)
}

/// Refuses what a write asks for and would not get: to take the request and forget that would be a lie.
///
/// # Errors
/// `NotImplemented`, `InvalidStorageClass`.
pub fn refuse_unsupported(headers: &HeaderMap) -> Result<(), S3Error> {
    for (name, value) in headers {
        let text = value.to_str().unwrap_or_default();
        let what = match name.as_str() {
            "x-amz-acl" if matches!(text, "private" | "bucket-owner-full-control" | "bucket-owner-read") => continue,
            "x-amz-storage-class" if text == "STANDARD" => continue,
            "x-amz-storage-class" => return Err(Code::InvalidStorageClass.into()),
            "x-amz-bucket-object-lock-enabled" if text.eq_ignore_ascii_case("false") => continue,
            "x-amz-tagging" if text.is_empty() => continue,
            "x-amz-acl" => "A canned ACL other than private",
            "x-amz-tagging" => "Tagging",
            "x-amz-bucket-object-lock-enabled" => "Object lock",
            name if name.starts_with("x-amz-object-lock-") => "Object lock",
            name if name.starts_with("x-amz-grant-") => "An ACL grant",
            name if name.starts_with("x-amz-server-side-encryption") => "Server-side encryption",
            name if name.starts_with("x-amz-copy-source-server-side-encryption") => "Server-side encryption",
            _ => continue,
        };
        return Err(S3Error::not_implemented(what));
    }
    Ok(())
}

/// What every answer about an object says of it.
pub fn describe(object: &Object, with_checksums: bool, out: &mut HeaderMap) {
    out.insert(header::CONTENT_TYPE, CONTENT_TYPE_DEFAULT);
    for stored in object.headers.iter().filter(|stored| with_checksums || !is_checksum(stored)) {
        insert(out, &stored.name, &stored.value);
    }
    for stored in &object.metadata {
        insert(out, &format!("{METADATA_PREFIX}{}", stored.name), &stored.value);
    }
    identify(object, out);
    out.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
}

/// Which version it is: ETag and modification time.
pub fn identify(object: &Object, out: &mut HeaderMap) {
    insert(out, "etag", &format!("\"{}\"", object.etag));
    let modified = std::time::UNIX_EPOCH + std::time::Duration::from_secs(object.modified_ms / 1000);
    insert(out, "last-modified", &httpdate::fmt_http_date(modified));
}

/// Puts a stored header in an answer. What is no header any more is left out: it must not keep the bytes from a reader.
pub fn insert(out: &mut HeaderMap, name: &str, text: &str) {
    if let (Ok(name), Some(value)) = (HeaderName::from_bytes(name.as_bytes()), to_value(text)) {
        out.insert(name, value);
    }
}

/// Replaces stored headers by what the query says.
///
/// # Errors
/// `InvalidArgument` for a value that no header can have.
pub fn apply_overrides(query: &Query, out: &mut HeaderMap) -> Result<(), S3Error> {
    for (parameter, name) in OVERRIDES {
        if let Some(text) = query.get(parameter) {
            let value = HeaderValue::from_bytes(text.as_bytes())
                .map_err(|_| S3Error::new(Code::InvalidArgument, format!("{parameter} is not a header value.")))?;
            out.insert(name, value);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stored_comes_back_byte_for_byte() {
        let mut headers = HeaderMap::new();
        let odd = HeaderValue::from_bytes(b"Hello \xe9 \xc3\xa9").expect("opaque");
        headers.insert("x-amz-meta-greeting", odd.clone());
        headers.append("x-amz-meta-twice", HeaderValue::from_static("a"));
        headers.append("x-amz-meta-twice", HeaderValue::from_static("b"));
        headers.insert("content-type", HeaderValue::from_static("text/plain"));
        headers.insert("x-unknown", HeaderValue::from_static("dropped"));
        let metadata = metadata(&headers).expect("small");
        let object = Object { headers: system(&headers), metadata, etag: "e".into(), ..Object::default() };
        let mut out = HeaderMap::new();
        describe(&object, false, &mut out);
        assert_eq!(out["x-amz-meta-greeting"], odd);
        assert_eq!(out["x-amz-meta-twice"], "a,b");
        assert_eq!(out["content-type"], "text/plain");
        assert_eq!(out["etag"], "\"e\"");
        assert_eq!(out["last-modified"], "Thu, 01 Jan 1970 00:00:00 GMT");
        assert!(!out.contains_key("x-unknown"));
    }

    #[test]
    fn two_kib_of_metadata_and_not_a_byte_more() {
        let of = |len: usize| {
            let value = HeaderValue::from_bytes(&vec![b'v'; len]).expect("fine");
            metadata(&[(HeaderName::from_static("x-amz-meta-n"), value)].into_iter().collect())
        };
        assert!(of(METADATA_LEN_MAX - 1).is_ok());
        assert_eq!(of(METADATA_LEN_MAX).expect_err("too large").code, Code::MetadataTooLarge);
    }

    #[test]
    fn what_would_be_forgotten_is_refused() {
        let one = |name: &'static str, value: &'static str| {
            let headers = [(HeaderName::from_static(name), HeaderValue::from_static(value))].into_iter().collect();
            refuse_unsupported(&headers).map_err(|error| error.code)
        };
        assert_eq!(one("x-amz-acl", "private"), Ok(()));
        assert_eq!(one("x-amz-storage-class", "STANDARD"), Ok(()));
        assert_eq!(one("x-amz-acl", "public-read"), Err(Code::NotImplemented));
        assert_eq!(one("x-amz-storage-class", "GLACIER"), Err(Code::InvalidStorageClass));
        assert_eq!(one("x-amz-server-side-encryption-customer-key", "k"), Err(Code::NotImplemented));
        assert_eq!(one("x-amz-object-lock-mode", "GOVERNANCE"), Err(Code::NotImplemented));
    }
}
