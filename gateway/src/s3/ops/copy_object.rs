//! `CopyObject`: an object with another one's bytes. No bytes move: both point at the same bodies.
//!
//! Source and target are locked exclusively until the copy is applied, so that the source's bodies cannot be given up in
//! between.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use lockstep_storage::image::View;
use lockstep_storage::op::{Mutation, Object, PutObject};
use percent_encoding::percent_decode;

use super::conditions::{Conditions, WriteCondition};
use super::write::{self, Decision};
use super::{headers, read};
use crate::s3::locks::{Mode, Name};
use crate::s3::upload::BodyGuard;
use crate::s3::xml::Writer;
use crate::s3::{Code, Gateway, Request, S3Error, S3Result, response};

/// Where a copy is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Bucket.
    pub bucket: String,
    /// Key.
    pub key: String,
}

impl Source {
    /// Reads `x-amz-copy-source`: bucket and key, URL-encoded, perhaps with a version id behind it.
    ///
    /// # Errors
    /// `InvalidArgument` for what is none, `NoSuchVersion` for a version other than null.
    pub fn parse(headers: &HeaderMap) -> Result<Self, S3Error> {
        let bad = || {
            S3Error::new(
                Code::InvalidArgument,
                "Copy Source must mention the source bucket and key: sourcebucket/sourcekey",
            )
        };
        let raw = headers.get("x-amz-copy-source").ok_or_else(bad)?.as_bytes();
        let raw = std::str::from_utf8(raw).map_err(|_| bad())?;
        let (path, version) = match raw.rsplit_once("?versionId=") {
            Some((path, version)) => (path, Some(version)),
            None => (raw, None),
        };
        if version.is_some_and(|version| !version.is_empty() && version != "null") {
            return Err(Code::NoSuchVersion.into());
        }
        let decoded = percent_decode(path.as_bytes()).decode_utf8().map_err(|_| bad())?;
        let path = decoded.strip_prefix('/').unwrap_or(&decoded);
        match path.split_once('/') {
            Some((bucket, key)) if !bucket.is_empty() && !key.is_empty() => {
                Ok(Self { bucket: bucket.to_owned(), key: key.to_owned() })
            }
            _ => Err(bad()),
        }
    }

    /// The object there, if the caller may read it and the request's conditions on it hold.
    ///
    /// # Errors
    /// `NoSuchBucket`, `AccessDenied`, `NoSuchKey`, `PreconditionFailed`.
    pub fn find(&self, view: &View, request: &Request) -> Result<Object, S3Error> {
        read::bucket_named(view, &self.bucket, &request.caller)?;
        let Some(object) = view.object(&self.bucket, &self.key)? else {
            return Err(S3Error::from(Code::NoSuchKey).with_detail("Key", &self.key));
        };
        Conditions::of_copy_source(&request.headers).require(&object)?;
        Ok(object)
    }
}

/// `CopyObject`.
///
/// # Errors
/// S3's, for what is not there and conditions that do not hold; refusals of the log.
pub async fn copy_object(gateway: &Arc<Gateway>, request: Request) -> S3Result {
    let target = write::target(gateway, &request)?;
    headers::refuse_unsupported(&request.headers)?;
    let source = Source::parse(&request.headers)?;
    let replaced = replacement(&request.headers)?;
    let itself = source.bucket == request.bucket && source.key == request.key;
    if itself && replaced.is_none() && !request.headers.contains_key("x-amz-website-redirect-location") {
        let message = "This copy request is illegal because it is trying to copy an object to itself without changing the \
                       object's metadata, storage class, website redirect location or encryption attributes.";
        return Err(S3Error::new(Code::InvalidRequest, message));
    }
    let condition = WriteCondition::parse(&request.headers);
    let source_key = Name::Key(request.origin.clone(), source.bucket.clone(), source.key.clone());
    let locks = vec![
        write::bucket_lock(&request, Mode::Shared),
        (Name::Bucket(request.origin.clone(), source.bucket.clone()), Mode::Shared),
        write::key_lock(&request, Mode::Exclusive),
        (source_key, Mode::Exclusive),
    ];
    let written = write::write(gateway, target, locks, move |view| {
        read::bucket(view, &request)?;
        let from = source.find(view, &request)?;
        if condition.is_some() {
            condition.judge(view.object(&request.bucket, &request.key)?.as_ref())?;
        }
        let (object, payload) = copy(from, replaced, &request);
        let value = (object.etag.clone(), object.headers.clone());
        let op = PutObject { bucket: request.bucket, key: request.key, object };
        Ok(Decision::Log { mutation: Box::new(Mutation::PutObject(op)), payload, body: BodyGuard::none(), value })
    });
    let written = written.await?;
    let (etag, stored) = &written.value;
    let mut out = Writer::document("CopyObjectResult");
    if let Some(receipt) = &written.receipt {
        out.time("LastModified", receipt.time_ms);
    }
    out.etag("ETag", etag);
    super::multipart::checksum_elements(&mut out, stored);
    Ok(written.answer(response::xml(StatusCode::OK, out.finish())))
}

type Replacement = (Vec<lockstep_storage::op::Header>, Vec<lockstep_storage::op::Header>);

/// The headers and metadata that replace the source's; none where those are copied.
fn replacement(headers: &HeaderMap) -> Result<Option<Replacement>, S3Error> {
    match headers.get("x-amz-metadata-directive").map(http::HeaderValue::as_bytes) {
        None | Some(b"COPY") => Ok(None),
        Some(b"REPLACE") => Ok(Some((headers::system(headers), headers::metadata(headers)?))),
        Some(_) => Err(S3Error::new(Code::InvalidArgument, "Unknown metadata directive.")),
    }
}

/// The copy and its payload. Small bytes travel in the payload again; checksums belong to the bytes, so they stay.
fn copy(from: Object, replaced: Option<Replacement>, request: &Request) -> (Object, Bytes) {
    const REDIRECT: &str = "x-amz-website-redirect-location";
    let Object { len, etag, extents, inline, headers: stored, metadata, .. } = from;
    let (checksums, system): (Vec<_>, Vec<_>) = stored.into_iter().partition(headers::is_checksum);
    let (mut system, metadata) = replaced.unwrap_or_else(|| {
        // A redirect is never copied: it is the request's or none.
        let kept = system.into_iter().filter(|header| header.name != REDIRECT);
        let own = headers::system(&request.headers).into_iter().filter(|header| header.name == REDIRECT);
        (kept.chain(own).collect(), metadata)
    });
    system.extend(checksums);
    let owner = request.caller.user().to_owned();
    (Object { len, etag, extents, headers: system, metadata, owner, ..Object::default() }, inline)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn sources_are_decoded_once() {
        let parse = |text: &str| {
            let value = HeaderValue::from_bytes(text.as_bytes()).expect("value");
            let headers = [(http::HeaderName::from_static("x-amz-copy-source"), value)].into_iter().collect();
            Source::parse(&headers).map(|source| (source.bucket, source.key)).map_err(|error| error.code)
        };
        let of = |bucket: &str, key: &str| Ok((bucket.to_owned(), key.to_owned()));
        assert_eq!(parse("b/k"), of("b", "k"));
        assert_eq!(parse("/b/a%2Fb+c%20d/e"), of("b", "a/b+c d/e"));
        assert_eq!(parse("b%2Fk"), of("b", "k"));
        assert_eq!(parse("/b//k"), of("b", "/k"));
        assert_eq!(parse("b/k?versionId=null"), of("b", "k"));
        assert_eq!(parse("b/k%3FversionId=1"), of("b", "k?versionId=1"));
        assert_eq!(parse("b/k?versionId=1"), Err(Code::NoSuchVersion));
        for bad in ["", "/", "b", "/b", "b/", "b/%ff"] {
            assert_eq!(parse(bad), Err(Code::InvalidArgument), "{bad}");
        }
    }
}
