//! `DeleteBucket`: removes an empty bucket. Uploads in progress do not keep it; they end with it.

use std::sync::Arc;

use http::StatusCode;
use lockstep_storage::op::{DeleteBucket, Mutation};

use super::read;
use super::write::{self, Decision};
use crate::s3::locks::Mode;
use crate::s3::{Code, Gateway, Request, S3Error, S3Result, response};

/// `DeleteBucket`.
///
/// # Errors
/// `NoSuchBucket`, `AccessDenied`, `BucketNotEmpty`; refusals of the log.
pub async fn delete_bucket(gateway: &Arc<Gateway>, request: Request) -> S3Result {
    let target = write::target(gateway, &request)?;
    let locks = vec![write::bucket_lock(&request, Mode::Exclusive)];
    let written = write::write(gateway, target, locks, move |view| {
        read::bucket(view, &request)?;
        if !view.bucket_is_empty(&request.bucket)? {
            return Err(S3Error::from(Code::BucketNotEmpty).with_detail("BucketName", &request.bucket));
        }
        let op = DeleteBucket { bucket: request.bucket };
        Ok(Decision::log(Mutation::DeleteBucket(op), response::empty(StatusCode::NO_CONTENT)))
    });
    Ok(written.await?.into_answer())
}
