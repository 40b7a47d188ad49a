//! UploadPartCopy.

use std::sync::Arc;

use crate::s3::{Gateway, Request, S3Error, S3Result};

/// UploadPartCopy.
///
/// # Errors
/// Always, as yet.
pub async fn upload_part_copy(_gateway: &Arc<Gateway>, _request: Request) -> S3Result {
    Err(S3Error::not_implemented("UploadPartCopy"))
}
