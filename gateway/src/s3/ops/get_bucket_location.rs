//! GetBucketLocation.

use std::sync::Arc;

use crate::s3::{Gateway, Request, S3Error, S3Result};

/// GetBucketLocation.
///
/// # Errors
/// Always, as yet.
pub async fn get_bucket_location(_gateway: &Arc<Gateway>, _request: Request) -> S3Result {
    Err(S3Error::not_implemented("GetBucketLocation"))
}
