//! `GetObject`: an object's bytes, all of them, a range, or a part; or that the client has them already.
//!
//! `HeadObject` is the same answer without the bytes.

use std::sync::Arc;

use http::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderValue, IF_RANGE, RANGE};
use http::{HeaderMap, StatusCode};
use lockstep_storage::image::View;
use lockstep_storage::op::Object;

use super::conditions::{Conditions, Judgement, failed};
use super::headers;
use super::read::{self, Reading};
use crate::s3::download::{self, Asked, Range};
use crate::s3::{Code, Gateway, Request, Response, S3Error, S3Result, response};

/// `GetObject`.
///
/// # Errors
/// S3's, for what is not there and for conditions and ranges that do not hold; `InternalError` for damaged bytes.
pub async fn get_object(gateway: &Arc<Gateway>, request: Request) -> S3Result {
    let reading = Reading::begin(gateway, &request)?;
    let found = find(&reading.view, &request);
    let result = answer(reading.view.clone(), found).await;
    reading.finish(result)
}

async fn answer(view: View, found: Result<Found, S3Error>) -> S3Result {
    match found? {
        Found::NotModified(response) => Ok(response),
        Found::Object { mut response, object, range } => {
            *response.body_mut() = download::body(view, *object, range).await?;
            Ok(response)
        }
    }
}

/// What a GET or HEAD found.
pub enum Found {
    /// The client has it: this is the answer.
    NotModified(Response),
    /// The object, the head of the answer, and the bytes that belong in it.
    Object {
        /// Status and headers, with the length of the bytes.
        response: Response,
        /// The object.
        object: Box<Object>,
        /// Which of its bytes.
        range: Range,
    },
}

/// Finds the object, judges the conditions, and makes the head of the answer.
///
/// # Errors
/// As [`get_object`].
pub fn find(view: &View, request: &Request) -> Result<Found, S3Error> {
    read::bucket(view, request)?;
    read::only_null_version(request)?;
    let Some(object) = view.object(&request.bucket, &request.key)? else {
        return Err(S3Error::from(Code::NoSuchKey).with_detail("Key", &request.key));
    };
    match Conditions::of_read(&request.headers).judge(&object) {
        Judgement::Go => {}
        Judgement::Failed(condition) => return Err(failed(condition)),
        Judgement::NotModified => {
            let mut response = response::empty(StatusCode::NOT_MODIFIED);
            headers::identify(&object, response.headers_mut());
            return Ok(Found::NotModified(response));
        }
    }
    let (range, partial) = which(request, &object)?;
    let mut response = response::empty(if partial { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK });
    let out = response.headers_mut();
    let wants_checksum = request.header("x-amz-checksum-mode").is_some_and(|mode| mode.eq_ignore_ascii_case("enabled"));
    headers::describe(&object, wants_checksum && range == Range::whole(object.len), out);
    headers::apply_overrides(&request.query, out)?;
    out.insert(CONTENT_LENGTH, HeaderValue::from(range.len));
    if partial && range.len > 0 {
        headers::insert(out, CONTENT_RANGE.as_str(), &range.content_range(object.len));
    }
    if let Some(count) = part_count(&object).filter(|_| request.query.has("partNumber")) {
        out.insert("x-amz-mp-parts-count", HeaderValue::from(count));
    }
    Ok(Found::Object { response, object: Box::new(object), range })
}

/// The bytes that are asked for, and whether the answer is a partial one.
fn which(request: &Request, object: &Object) -> Result<(Range, bool), S3Error> {
    let header = request.header(RANGE.as_str()).filter(|_| range_is_meant(&request.headers, object));
    if let Some(number) = request.query.get("partNumber") {
        if header.is_some() {
            return Err(S3Error::new(
                Code::InvalidRequest,
                "Cannot specify both Range header and partNumber query parameter.",
            ));
        }
        return Ok((part(object, number)?, true));
    }
    match header.map(|header| (header, download::parse_range(header, object.len))) {
        None | Some((_, Asked::Whole)) => Ok((Range::whole(object.len), false)),
        Some((_, Asked::Part(range))) => Ok((range, true)),
        Some((asked, Asked::Unsatisfiable)) => {
            let error = S3Error::from(Code::InvalidRange)
                .with_detail("RangeRequested", asked)
                .with_detail("ActualObjectSize", object.len.to_string());
            let span = HeaderValue::from_str(&format!("bytes */{}", object.len));
            Err(span.into_iter().fold(error, |error, span| error.with_header(CONTENT_RANGE, span)))
        }
    }
}

/// An `If-Range` that names another version means: then all of it.
fn range_is_meant(headers: &HeaderMap, object: &Object) -> bool {
    let Some(condition) = headers.get(IF_RANGE).and_then(|value| value.to_str().ok()) else { return true };
    match httpdate::parse_http_date(condition) {
        Ok(date) => {
            date.duration_since(std::time::UNIX_EPOCH).is_ok_and(|since| since.as_secs() == object.modified_ms / 1000)
        }
        Err(_) => condition.trim().trim_matches('"') == object.etag,
    }
}

/// How many parts an object was completed from: its ETag says it.
fn part_count(object: &Object) -> Option<u32> {
    object.etag.split_once('-').and_then(|(_, count)| count.parse().ok())
}

/// The bytes of a part. An object that came in one piece is its own part 1.
fn part(object: &Object, number: &str) -> Result<Range, S3Error> {
    let number: u32 = number.parse().ok().filter(|number| (1..=10_000).contains(number)).ok_or_else(|| {
        S3Error::new(Code::InvalidArgument, "Part number must be an integer between 1 and 10000, inclusive")
    })?;
    let Some(_) = part_count(object) else {
        return if number == 1 { Ok(Range::whole(object.len)) } else { Err(Code::InvalidPart.into()) };
    };
    let mut start = 0;
    let mut found: Option<Range> = None;
    for extent in &object.extents {
        if extent.part_number == number {
            let so_far = found.unwrap_or(Range { start, len: 0 });
            found = Some(Range { len: so_far.len + extent.len, ..so_far });
        }
        start += extent.len;
    }
    // An empty object has a part of no bytes.
    let empty = (object.len == 0 && number == 1).then_some(Range::whole(0));
    found.or(empty).ok_or(Code::InvalidPart.into())
}
