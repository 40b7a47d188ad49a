//! `PutObject`: stores an object in place of what was there.
//!
//! The body is in the log, or in memory if it is small, before any lock is taken; then conditions; then the op, which
//! alone makes the object visible.

use std::sync::Arc;

use http::StatusCode;
use lockstep_storage::op::{Mutation, Object, PutObject};

use super::checksums::{self, Expected};
use super::conditions::WriteCondition;
use super::{headers, read, write};
use crate::s3::digest::ChecksumType;
use crate::s3::locks::Mode;
use crate::s3::upload::{Plan, upload};
use crate::s3::{Gateway, Request, S3Result, response};

/// Largest object that comes in one request, in bytes.
pub const LEN_MAX: u64 = 5 << 30;

/// `PutObject`.
///
/// # Errors
/// S3's, for bad headers, digests and conditions; refusals of the log.
pub async fn put_object(gateway: &Arc<Gateway>, mut request: Request) -> S3Result {
    let target = write::target(gateway, &request)?;
    headers::refuse_unsupported(&request.headers)?;
    let metadata = headers::metadata(&request.headers)?;
    let expected = Expected::parse(&request.headers)?;
    let condition = WriteCondition::parse(&request.headers);
    read::bucket(&target.client.view(&target.origin)?, &request)?;

    let plan = Plan { algorithms: expected.algorithm().into_iter().collect(), inline: true, len_max: LEN_MAX };
    let mut payload = std::mem::take(&mut request.payload);
    let uploaded = upload(&target, &mut payload, &plan).await?;
    let checksum = expected.verify(&uploaded.digests, payload.trailers())?;

    let mut stored = headers::system(&request.headers);
    if let Some((algorithm, value)) = &checksum {
        stored.extend(checksums::stored(*algorithm, value, ChecksumType::FullObject));
    }
    let object = Object {
        len: uploaded.len,
        etag: uploaded.digests.etag(),
        extents: uploaded.extent.into_iter().collect(),
        headers: stored,
        metadata,
        owner: request.caller.user().to_owned(),
        ..Object::default()
    };
    let mode = if condition.is_some() { Mode::Exclusive } else { Mode::Shared };
    let locks = vec![write::bucket_lock(&request, Mode::Shared), write::key_lock(&request, mode)];
    let written = write::write(gateway, target, locks, move |view| {
        read::bucket(view, &request)?;
        if condition.is_some() {
            condition.judge(view.object(&request.bucket, &request.key)?.as_ref())?;
        }
        let answer = answer(&object);
        let op = PutObject { bucket: request.bucket, key: request.key, object };
        let (payload, body) = (uploaded.inline, uploaded.guard);
        Ok(write::Decision::Log { mutation: Box::new(Mutation::PutObject(op)), payload, body, value: answer })
    });
    Ok(written.await?.into_answer())
}

/// What was stored: the ETag, and the checksum that came with it.
fn answer(object: &Object) -> response::Response {
    let mut response = response::empty(StatusCode::OK);
    let out = response.headers_mut();
    headers::insert(out, "etag", &format!("\"{}\"", object.etag));
    for header in object.headers.iter().filter(|header| headers::is_checksum(header)) {
        headers::insert(out, &header.name, &header.value);
    }
    response
}
