//! `UploadPartCopy`: stores bytes of an object as a part of an upload.
//!
//! The bytes are read from one view of the source and stored again: a part must be whole bodies, and a range need not be.
//! So the source needs no lock: what the view sees stays readable until the copy is made.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use lockstep_storage::op::Object;

use super::copy_object::Source;
use super::put_object::LEN_MAX;
use super::upload_part::{begin, store};
use super::write;
use super::{headers, multipart};
use crate::s3::download::{Asked, Pieces, Range, parse_range};
use crate::s3::upload::{Plan, Source as Bodies, upload};
use crate::s3::xml::Writer;
use crate::s3::{Code, Gateway, Request, S3Error, S3Result, response};

/// `UploadPartCopy`.
///
/// # Errors
/// S3's, for what is not there and conditions that do not hold; refusals of the log.
pub async fn upload_part_copy(gateway: &Arc<Gateway>, request: Request) -> S3Result {
    let target = write::target(gateway, &request)?;
    headers::refuse_unsupported(&request.headers)?;
    let number = multipart::part_number(&request)?;
    let source = Source::parse(&request.headers)?;
    let algorithms = begin(&target, &request, None)?;
    let view = target.client.mending_view(&target.origin)?;
    let object = source.find(&view, &request)?;
    let range = copied(&request, &object)?;

    let mut bytes = if object.extents.is_empty() {
        Copied::Inline(inline(&object, range)?)
    } else {
        Copied::Stored(range.len, Pieces::new(view, object.extents, range))
    };
    let plan = Plan { algorithms, inline: false, len_max: LEN_MAX };
    let uploaded = upload(&target, &mut bytes, &plan).await?;
    drop(bytes);
    let written = store(gateway, target, request, number, uploaded).await?;

    let mut out = Writer::document("CopyPartResult");
    if let Some(receipt) = &written.receipt {
        out.time("LastModified", receipt.time_ms);
    }
    out.etag("ETag", &written.value.etag);
    multipart::checksum_elements(&mut out, &written.value.headers);
    Ok(written.answer(response::xml(StatusCode::OK, out.finish())))
}

/// The bytes that are copied. Unlike a GET's, a range that is not wholly there is an error.
fn copied(request: &Request, object: &Object) -> Result<Range, S3Error> {
    let Some(header) = request.header("x-amz-copy-source-range") else { return Ok(Range::whole(object.len)) };
    let ends = header.strip_prefix("bytes=").and_then(|spec| spec.split_once('-'));
    let ends = ends.and_then(|(first, last)| Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?)));
    let Some((_, last)) = ends.filter(|(first, last)| first <= last) else {
        let message = "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are \
                       the zero-based offsets of the first and last bytes to copy";
        return Err(S3Error::new(Code::InvalidArgument, message));
    };
    match parse_range(header, object.len) {
        Asked::Part(range) if last < object.len => Ok(range),
        _ => {
            let message = format!("Range specified is not valid for source object of size: {}", object.len);
            Err(S3Error::new(Code::InvalidRange, message))
        }
    }
}

fn inline(object: &Object, range: Range) -> Result<Bytes, S3Error> {
    let (from, to) = (usize::try_from(range.start), usize::try_from(range.start + range.len));
    match (from, to) {
        (Ok(from), Ok(to)) if to <= object.inline.len() => Ok(object.inline.slice(from..to)),
        _ => Err(Code::InternalError.into()),
    }
}

/// Where the bytes come from.
enum Copied {
    Inline(Bytes),
    Stored(u64, Pieces),
}

impl Bodies for Copied {
    fn len_hint(&self) -> Option<u64> {
        match self {
            Self::Inline(bytes) => Some(bytes.len() as u64),
            Self::Stored(len, _) => Some(*len),
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, S3Error> {
        match self {
            Self::Inline(bytes) => Ok(Some(std::mem::take(bytes)).filter(|bytes| !bytes.is_empty())),
            Self::Stored(_, pieces) => Ok(pieces.next().await?),
        }
    }
}
