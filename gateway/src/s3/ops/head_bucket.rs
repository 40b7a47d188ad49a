//! `HeadBucket`: is it there, and may the caller use it?

use std::sync::Arc;

use http::StatusCode;

use super::headers;
use super::read::{self, Reading};
use crate::s3::{Gateway, Request, S3Result, response};

/// `HeadBucket`.
///
/// # Errors
/// `NoSuchBucket`, `AccessDenied`.
pub async fn head_bucket(gateway: &Arc<Gateway>, request: Request) -> S3Result {
    let reading = Reading::begin(gateway, &request)?;
    let result = read::bucket(&reading.view, &request).map(|bucket| {
        let region = if bucket.region.is_empty() { &gateway.region } else { &bucket.region };
        let mut response = response::empty(StatusCode::OK);
        headers::insert(response.headers_mut(), "x-amz-bucket-region", region);
        response
    });
    reading.finish(result)
}
