//! `AbortMultipartUpload`: ends an upload and drops its parts.

use std::sync::Arc;

use http::StatusCode;
use lockstep_storage::op::{AbortMultipartUpload, Mutation};

use super::write::{self, Decision};
use super::{multipart, read};
use crate::s3::locks::Mode;
use crate::s3::{Gateway, Request, S3Result, response};

/// `AbortMultipartUpload`.
///
/// # Errors
/// `NoSuchUpload`; refusals of the log.
pub async fn abort_multipart_upload(gateway: &Arc<Gateway>, request: Request) -> S3Result {
    let target = write::target(gateway, &request)?;
    let locks = vec![
        write::bucket_lock(&request, Mode::Shared),
        write::key_lock(&request, Mode::Exclusive),
        multipart::upload_lock(&request, Mode::Exclusive),
    ];
    let written = write::write(gateway, target, locks, move |view| {
        read::bucket(view, &request)?;
        multipart::upload(view, &request)?;
        let upload_id = multipart::upload_id(&request).to_owned();
        let op = AbortMultipartUpload { bucket: request.bucket, key: request.key, upload_id };
        Ok(Decision::log(Mutation::AbortMultipartUpload(op), response::empty(StatusCode::NO_CONTENT)))
    });
    Ok(written.await?.into_answer())
}
