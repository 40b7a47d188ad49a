//! `ListBuckets`: the caller's buckets; root sees everybody's.

use std::sync::Arc;

use http::StatusCode;
use lockstep_storage::image::View;

use super::listing::{Owners, limit, owner_element, token_decode, token_encode};
use super::read::Reading;
use crate::s3::xml::Writer;
use crate::s3::{Gateway, Request, S3Result, response};

const BUCKETS_MAX: usize = 10_000;

/// `ListBuckets`.
///
/// # Errors
/// `InvalidArgument` for a bad parameter.
pub async fn list_buckets(gateway: &Arc<Gateway>, request: Request) -> S3Result {
    let reading = Reading::begin(gateway, &request)?;
    let view = reading.view.clone();
    let region = gateway.region.clone();
    let result = super::listing::on_blocking_thread(move || answer(&view, &request, &region)).await;
    reading.finish(result)
}

fn answer(view: &View, request: &Request, region: &str) -> S3Result {
    let max = limit(&request.query, "max-buckets", BUCKETS_MAX)?;
    let prefix = request.query.get("prefix").unwrap_or_default();
    let mut after = request.query.get("continuation-token").map(token_decode).transpose()?.unwrap_or_default();
    let caller = &request.caller;
    let mut found = Vec::new();
    let more = 'pages: loop {
        let page = view.buckets(&after, 1000)?;
        let Some((last, _)) = page.last() else { break false };
        after.clone_from(last);
        for (name, bucket) in page {
            if (bucket.owner == caller.user() || caller.is_root()) && name.starts_with(prefix) {
                if found.len() == max {
                    break 'pages true;
                }
                found.push((name, bucket));
            }
        }
    };
    let mut out = Writer::document("ListAllMyBucketsResult");
    owner_element(&mut out, "Owner", &Owners::new(view).of(caller.user())?);
    out.nest("Buckets", |out| {
        for (name, bucket) in &found {
            out.nest("Bucket", |out| {
                out.text("Name", name).time("CreationDate", bucket.created_ms);
                if request.query.has("max-buckets") {
                    out.text("BucketRegion", if bucket.region.is_empty() { region } else { &bucket.region });
                }
            });
        }
    });
    if let Some((last, _)) = found.last().filter(|_| more) {
        out.text("ContinuationToken", &token_encode(last));
    }
    if !prefix.is_empty() {
        out.text("Prefix", prefix);
    }
    Ok(response::xml(StatusCode::OK, out.finish()))
}
