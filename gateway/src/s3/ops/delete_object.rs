//! DeleteObject.

use std::sync::Arc;

use crate::s3::{Gateway, Request, S3Error, S3Result};

/// DeleteObject.
///
/// # Errors
/// Always, as yet.
pub async fn delete_object(_gateway: &Arc<Gateway>, _request: Request) -> S3Result {
    Err(S3Error::not_implemented("DeleteObject"))
}
