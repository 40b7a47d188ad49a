//! `DeleteObject`: removes an object. One that is not there is removed too: the answer is the same.

use std::sync::Arc;

use http::StatusCode;
use lockstep_storage::op::{DeleteObject, Mutation};

use super::conditions::{WriteCondition, failed};
use super::{read, write};
use crate::s3::locks::Mode;
use crate::s3::{Gateway, Request, S3Result, response};

/// `DeleteObject`.
///
/// # Errors
/// S3's, for a bucket that is not there and an If-Match that does not hold; refusals of the log.
pub async fn delete_object(gateway: &Arc<Gateway>, request: Request) -> S3Result {
    let target = write::target(gateway, &request)?;
    read::only_null_version(&request)?;
    let condition = WriteCondition::parse(&request.headers);
    let mode = if condition.is_some() { Mode::Exclusive } else { Mode::Shared };
    let locks = vec![write::bucket_lock(&request, Mode::Shared), write::key_lock(&request, mode)];
    let written = write::write(gateway, target, locks, move |view| {
        read::bucket(view, &request)?;
        if condition.is_some() {
            let Some(current) = view.object(&request.bucket, &request.key)? else { return Err(failed("If-Match")) };
            condition.judge(Some(&current))?;
        }
        // Logged even where the view has nothing: a write whose outcome its client does not know may still be coming.
        let op = DeleteObject { bucket: request.bucket, key: request.key };
        Ok(write::Decision::log(Mutation::DeleteObject(op), response::empty(StatusCode::NO_CONTENT)))
    });
    Ok(written.await?.into_answer())
}
