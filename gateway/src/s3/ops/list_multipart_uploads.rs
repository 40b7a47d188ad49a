//! `ListMultipartUploads`: the uploads in progress in a bucket, in order of key, then upload id.

use std::sync::Arc;

use http::StatusCode;
use lockstep_storage::image::{ListQuery, UploadPage, View};

use super::listing::{Encoding, Owners, limit, on_blocking_thread, owner_element};
use super::multipart;
use super::read::{self, Reading};
use crate::s3::xml::Writer;
use crate::s3::{Gateway, Request, S3Result, response};

const UPLOADS_MAX: usize = 1000;

/// `ListMultipartUploads`.
///
/// # Errors
/// `NoSuchBucket`, `AccessDenied`, `InvalidArgument` for a bad parameter.
pub async fn list_multipart_uploads(gateway: &Arc<Gateway>, request: Request) -> S3Result {
    let reading = Reading::begin(gateway, &request)?;
    let view = reading.view.clone();
    let result = on_blocking_thread(move || answer(&view, &request)).await;
    reading.finish(result)
}

fn answer(view: &View, request: &Request) -> S3Result {
    read::bucket(view, request)?;
    let query = &request.query;
    let text = |name| query.get(name).unwrap_or_default();
    let encoding = Encoding::parse(query)?;
    let max = limit(query, "max-uploads", UPLOADS_MAX)?;
    let key_marker = text("key-marker");
    // An upload id means something only together with its key.
    let upload_marker = if key_marker.is_empty() { "" } else { text("upload-id-marker") };
    let asked = ListQuery {
        bucket: request.bucket.clone(),
        prefix: text("prefix").to_owned(),
        delimiter: text("delimiter").to_owned(),
        after: key_marker.to_owned(),
        limit: max,
    };
    let page = if max == 0 { UploadPage::default() } else { view.list_uploads(&asked, upload_marker)? };

    let mut out = Writer::document("ListMultipartUploadsResult");
    out.text("Bucket", &request.bucket);
    out.text("KeyMarker", &encoding.of(key_marker)).text("UploadIdMarker", upload_marker);
    if let Some((key, upload_id)) = &page.next {
        out.text("NextKeyMarker", &encoding.of(key)).text("NextUploadIdMarker", upload_id);
    }
    if !asked.delimiter.is_empty() {
        out.text("Delimiter", &encoding.of(&asked.delimiter));
    }
    out.text("Prefix", &encoding.of(&asked.prefix));
    encoding.element(&mut out);
    out.value("MaxUploads", max).value("IsTruncated", page.next.is_some());
    let mut owners = Owners::new(view);
    for (key, upload_id, upload) in &page.items {
        let owner = owners.of(&upload.object.owner)?;
        out.nest("Upload", |out| {
            out.text("Key", &encoding.of(key)).text("UploadId", upload_id);
            owner_element(out, "Initiator", &owner);
            owner_element(out, "Owner", &owner);
            out.text("StorageClass", "STANDARD").time("Initiated", upload.initiated_ms);
            if let Some((algorithm, of)) = multipart::checksum_of(upload) {
                out.text("ChecksumAlgorithm", algorithm.name()).text("ChecksumType", of.name());
            }
        });
    }
    for prefix in &page.prefixes {
        out.nest("CommonPrefixes", |out| {
            out.text("Prefix", &encoding.of(prefix));
        });
    }
    Ok(response::xml(StatusCode::OK, out.finish()))
}
