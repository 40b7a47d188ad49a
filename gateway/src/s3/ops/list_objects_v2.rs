//! `ListObjectsV2`: pages by an opaque token; owners only when asked for.

use std::sync::Arc;

use http::StatusCode;
use lockstep_storage::image::View;

use super::list_objects::Asked;
use super::listing::{on_blocking_thread, token_decode, token_encode};
use super::read::{self, Reading};
use crate::s3::xml::Writer;
use crate::s3::{Gateway, Request, S3Result, response};

/// `ListObjectsV2`.
///
/// # Errors
/// `NoSuchBucket`, `AccessDenied`, `InvalidArgument` for a bad parameter.
pub async fn list_objects_v2(gateway: &Arc<Gateway>, request: Request) -> S3Result {
    let reading = Reading::begin(gateway, &request)?;
    let view = reading.view.clone();
    let result = on_blocking_thread(move || answer(&view, &request)).await;
    reading.finish(result)
}

fn answer(view: &View, request: &Request) -> S3Result {
    read::bucket(view, request)?;
    let query = &request.query;
    let asked = Asked::parse(query)?;
    let encoding = asked.encoding;
    let start_after = query.get("start-after").filter(|after| !after.is_empty());
    let token = query.get("continuation-token");
    // The token says where the last page ended, which is after every start.
    let from_token = token.map(token_decode).transpose()?.filter(|after| !after.is_empty());
    let after = from_token.as_deref().or(start_after).unwrap_or_default();
    let page = asked.page(view, &request.bucket, after)?;

    let mut out = Writer::document("ListBucketResult");
    out.text("Name", &request.bucket).text("Prefix", &encoding.of(&asked.prefix));
    out.maybe("StartAfter", start_after.map(|after| encoding.of(after)).as_deref());
    out.maybe("ContinuationToken", token);
    out.maybe("NextContinuationToken", page.next_after.as_deref().map(token_encode).as_deref());
    out.value("KeyCount", page.items.len() + page.prefixes.len());
    asked.limits(&mut out, page.next_after.is_some());
    asked.contents(&mut out, view, &page, query.get("fetch-owner") == Some("true"))?;
    Ok(response::xml(StatusCode::OK, out.finish()))
}
