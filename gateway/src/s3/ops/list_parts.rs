//! `ListParts`: the parts of an upload, in order of their numbers.

use std::sync::Arc;

use http::StatusCode;
use lockstep_storage::image::View;

use super::listing::{Owners, limit, on_blocking_thread, owner_element};
use super::multipart;
use super::read::{self, Reading};
use crate::s3::xml::Writer;
use crate::s3::{Gateway, Request, S3Result, response};

const PARTS_MAX: usize = 1000;

/// `ListParts`.
///
/// # Errors
/// `NoSuchUpload`, `InvalidArgument` for a bad parameter.
pub async fn list_parts(gateway: &Arc<Gateway>, request: Request) -> S3Result {
    let reading = Reading::begin(gateway, &request)?;
    let view = reading.view.clone();
    let result = on_blocking_thread(move || answer(&view, &request)).await;
    reading.finish(result)
}

fn answer(view: &View, request: &Request) -> S3Result {
    read::bucket(view, request)?;
    let upload = multipart::upload(view, request)?;
    let max = limit(&request.query, "max-parts", PARTS_MAX)?;
    let marker = limit(&request.query, "part-number-marker", i32::MAX as usize)?;
    let after = if request.query.has("part-number-marker") { u32::try_from(marker).unwrap_or(u32::MAX) } else { 0 };
    let mut parts = if max == 0 { Vec::new() } else { view.parts(multipart::upload_id(request), after, max + 1)? };
    let truncated = parts.len() > max;
    parts.truncate(max);

    let mut owners = Owners::new(view);
    let owner = owners.of(&upload.object.owner)?;
    let mut out = Writer::document("ListPartsResult");
    out.text("Bucket", &request.bucket).text("Key", &request.key).text("UploadId", multipart::upload_id(request));
    owner_element(&mut out, "Initiator", &owner);
    owner_element(&mut out, "Owner", &owner);
    out.text("StorageClass", "STANDARD").value("PartNumberMarker", after);
    out.value("NextPartNumberMarker", parts.last().map_or(0, |(number, _)| *number));
    out.value("MaxParts", max).value("IsTruncated", truncated);
    if let Some((algorithm, of)) = multipart::checksum_of(&upload) {
        out.text("ChecksumAlgorithm", algorithm.name()).text("ChecksumType", of.name());
    }
    for (number, part) in &parts {
        out.nest("Part", |out| {
            out.value("PartNumber", number).time("LastModified", part.modified_ms).etag("ETag", &part.etag);
            out.value("Size", part.len);
            multipart::checksum_elements(out, &part.headers);
        });
    }
    Ok(response::xml(StatusCode::OK, out.finish()))
}
