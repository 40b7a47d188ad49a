//! ListObjectsV2.

use std::sync::Arc;

use crate::s3::{Gateway, Request, S3Error, S3Result};

/// ListObjectsV2.
///
/// # Errors
/// Always, as yet.
pub async fn list_objects_v2(_gateway: &Arc<Gateway>, _request: Request) -> S3Result {
    Err(S3Error::not_implemented("ListObjectsV2"))
}
