//! How every operation that only reads gets at an image, and what its answer says about that.
//!
//! One view a request: what it sees is one moment of the origin's history. At a node that is not the origin's source the
//! answer names the consistency point that the moment is not older than.

use http::header::HeaderName;
use lockstep_mirror::client::{OriginState, Role};
use lockstep_storage::id::Origin;
use lockstep_storage::image::View;
use lockstep_storage::op::Bucket;

use super::write::position;
use crate::s3::{Code, Gateway, Request, S3Error, S3Result};

/// Names the consistency point of an answer from a replica.
const CONSISTENCY_POINT: HeaderName = HeaderName::from_static("x-lockstep-consistency-point");

/// A read in progress.
pub struct Reading {
    /// What it sees.
    pub view: View,
    origin: Origin,
    replica_of: Option<OriginState>,
}

impl Reading {
    /// Looks at the image of the request's origin, now. The consistency point is noted first: the view is not older.
    ///
    /// # Errors
    /// When this node does not have the origin.
    pub fn begin(gateway: &Gateway, request: &Request) -> Result<Self, S3Error> {
        let origins = gateway.client.origins();
        let state = origins.iter().find(|state| state.origin == request.origin);
        let replica_of = state.filter(|state| state.role != Role::Source).cloned();
        let view = gateway.client.mending_view(&request.origin)?;
        Ok(Self { view, origin: request.origin.clone(), replica_of })
    }

    /// The answer, a refusal too, with the consistency point where this is a replica.
    ///
    /// # Errors
    /// Those of the answer.
    pub fn finish(self, result: S3Result) -> S3Result {
        let Some(state) = self.replica_of else { return result };
        let (epoch, seq) = state.consistency_point;
        let point = position(&self.origin, epoch, seq);
        match result {
            Ok(mut response) => {
                response.headers_mut().insert(CONSISTENCY_POINT, point);
                Ok(response)
            }
            Err(error) => Err(error.with_header(CONSISTENCY_POINT, point)),
        }
    }
}

/// The bucket of a request, if the caller may use it: its owner and root may.
///
/// # Errors
/// `NoSuchBucket`, `AccessDenied`.
pub fn bucket(view: &View, request: &Request) -> Result<Bucket, S3Error> {
    bucket_named(view, &request.bucket, &request.caller)
}

/// A bucket, if the caller may use it.
///
/// # Errors
/// `NoSuchBucket`, `AccessDenied`.
pub fn bucket_named(view: &View, name: &str, caller: &crate::s3::Caller) -> Result<Bucket, S3Error> {
    let Some(bucket) = view.bucket(name)? else {
        return Err(S3Error::from(Code::NoSuchBucket).with_detail("BucketName", name));
    };
    if bucket.owner != caller.user() && !caller.is_root() {
        return Err(Code::AccessDenied.into());
    }
    Ok(bucket)
}

/// Refuses a version id: buckets have no versions yet, but for the one that is called null.
///
/// # Errors
/// `NoSuchVersion`.
pub fn only_null_version(request: &Request) -> Result<(), S3Error> {
    match request.query.get("versionId") {
        None | Some("null") => Ok(()),
        Some(id) => Err(S3Error::from(Code::NoSuchVersion).with_detail("VersionId", id)),
    }
}
