//! CreateMultipartUpload.

use std::sync::Arc;

use crate::s3::{Gateway, Request, S3Error, S3Result};

/// CreateMultipartUpload.
///
/// # Errors
/// Always, as yet.
pub async fn create_multipart_upload(_gateway: &Arc<Gateway>, _request: Request) -> S3Result {
    Err(S3Error::not_implemented("CreateMultipartUpload"))
}
