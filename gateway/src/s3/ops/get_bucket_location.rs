//! `GetBucketLocation`: the region of a bucket.

use std::sync::Arc;

use http::StatusCode;

use super::read::{self, Reading};
use crate::s3::xml::Writer;
use crate::s3::{Gateway, Request, S3Result, response};

/// The region that S3 leaves out.
const UNNAMED_REGION: &str = "us-east-1";

/// `GetBucketLocation`.
///
/// # Errors
/// `NoSuchBucket`, `AccessDenied`.
pub async fn get_bucket_location(gateway: &Arc<Gateway>, request: Request) -> S3Result {
    let reading = Reading::begin(gateway, &request)?;
    let result = read::bucket(&reading.view, &request).map(|bucket| {
        let own = if gateway.region == UNNAMED_REGION { "" } else { &gateway.region };
        let region = if bucket.region.is_empty() { own } else { &bucket.region };
        let mut out = Writer::document("LocationConstraint");
        out.content(region);
        response::xml(StatusCode::OK, out.finish())
    });
    reading.finish(result)
}
