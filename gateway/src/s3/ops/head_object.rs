//! `HeadObject`: what `GetObject` would answer, without the bytes.

use std::sync::Arc;

use super::get_object::{Found, find};
use super::read::Reading;
use crate::s3::{Gateway, Request, S3Result};

/// `HeadObject`.
///
/// # Errors
/// As `GetObject`.
pub async fn head_object(gateway: &Arc<Gateway>, request: Request) -> S3Result {
    let reading = Reading::begin(gateway, &request)?;
    let result = find(&reading.view, &request).map(|found| match found {
        Found::NotModified(response) | Found::Object { response, .. } => response,
    });
    reading.finish(result)
}
