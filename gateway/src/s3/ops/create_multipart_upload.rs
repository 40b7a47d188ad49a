//! `CreateMultipartUpload`: starts an upload and gives it an id.

use std::sync::Arc;

use http::StatusCode;
use lockstep_storage::op::{CreateMultipartUpload, Mutation, Object, Upload};
use uuid::Uuid;

use super::write::{self, Decision};
use super::{headers, multipart, read};
use crate::s3::locks::Mode;
use crate::s3::xml::Writer;
use crate::s3::{Gateway, Request, S3Result, response};

/// `CreateMultipartUpload`.
///
/// # Errors
/// S3's, for bad headers and a bucket that is not there; refusals of the log.
pub async fn create_multipart_upload(gateway: &Arc<Gateway>, request: Request) -> S3Result {
    let target = write::target(gateway, &request)?;
    headers::refuse_unsupported(&request.headers)?;
    let checksum = multipart::asked_checksum(&request.headers)?;
    let object = Object {
        headers: headers::system(&request.headers),
        metadata: headers::metadata(&request.headers)?,
        owner: request.caller.user().to_owned(),
        ..Object::default()
    };
    let upload = Upload {
        object,
        initiated_ms: 0,
        checksum_algorithm: checksum.map(|(algorithm, _)| algorithm.name().to_owned()).unwrap_or_default(),
        checksum_type: checksum.map(|(_, of)| of.name().to_owned()).unwrap_or_default(),
    };
    let locks = vec![write::bucket_lock(&request, Mode::Shared), write::key_lock(&request, Mode::Shared)];
    let written = write::write(gateway, target, locks, move |view| {
        read::bucket(view, &request)?;
        let upload_id = Uuid::new_v4().simple().to_string();
        let mut out = Writer::document("InitiateMultipartUploadResult");
        out.text("Bucket", &request.bucket).text("Key", &request.key).text("UploadId", &upload_id);
        let mut created = response::xml(StatusCode::OK, out.finish());
        if let Some((algorithm, of)) = checksum {
            headers::insert(created.headers_mut(), "x-amz-checksum-algorithm", algorithm.name());
            headers::insert(created.headers_mut(), "x-amz-checksum-type", of.name());
        }
        let op = CreateMultipartUpload { bucket: request.bucket, key: request.key, upload_id, upload };
        Ok(Decision::log(Mutation::CreateMultipartUpload(op), created))
    });
    Ok(written.await?.into_answer())
}
