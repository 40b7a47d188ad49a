//! `ListObjects`, the first version; and what both versions share.

use std::sync::Arc;

use http::StatusCode;
use lockstep_storage::image::{ListPage, ListQuery, View};
use lockstep_storage::op::Object;

use super::listing::{Encoding, Owners, limit, on_blocking_thread, owner_element};
use super::read::{self, Reading};
use crate::s3::digest::Algorithm;
use crate::s3::query::Query;
use crate::s3::xml::Writer;
use crate::s3::{Gateway, Request, S3Error, S3Result, response};

/// Most keys and common prefixes of a page.
const KEYS_MAX: usize = 1000;

/// `ListObjects`.
///
/// # Errors
/// `NoSuchBucket`, `AccessDenied`, `InvalidArgument` for a bad parameter.
pub async fn list_objects(gateway: &Arc<Gateway>, request: Request) -> S3Result {
    let reading = Reading::begin(gateway, &request)?;
    let view = reading.view.clone();
    let result = on_blocking_thread(move || answer(&view, &request)).await;
    reading.finish(result)
}

fn answer(view: &View, request: &Request) -> S3Result {
    read::bucket(view, request)?;
    let asked = Asked::parse(&request.query)?;
    let marker = request.query.get("marker").unwrap_or_default();
    let page = asked.page(view, &request.bucket, marker)?;
    let encoding = asked.encoding;
    let mut out = Writer::document("ListBucketResult");
    out.text("Name", &request.bucket).text("Prefix", &encoding.of(&asked.prefix)).text("Marker", &encoding.of(marker));
    out.maybe("NextMarker", page.next_after.as_deref().map(|next| encoding.of(next)).as_deref());
    asked.limits(&mut out, page.next_after.is_some());
    asked.contents(&mut out, view, &page, true)?;
    Ok(response::xml(StatusCode::OK, out.finish()))
}

/// What both versions are asked.
pub struct Asked {
    /// Only keys that start with it.
    pub prefix: String,
    /// Rolls keys up; empty for none.
    pub delimiter: String,
    /// Most keys and prefixes.
    pub max_keys: usize,
    /// How names are written.
    pub encoding: Encoding,
}

impl Asked {
    /// Reads the query.
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub fn parse(query: &Query) -> Result<Self, S3Error> {
        Ok(Self {
            prefix: query.get("prefix").unwrap_or_default().to_owned(),
            delimiter: query.get("delimiter").unwrap_or_default().to_owned(),
            max_keys: limit(query, "max-keys", KEYS_MAX)?,
            encoding: Encoding::parse(query)?,
        })
    }

    /// The page after a key or common prefix. A page of nothing has nothing after it: S3 says so too.
    ///
    /// # Errors
    /// When the image cannot be read.
    pub fn page(&self, view: &View, bucket: &str, after: &str) -> Result<ListPage<Object>, S3Error> {
        if self.max_keys == 0 {
            return Ok(ListPage::default());
        }
        let query = ListQuery {
            bucket: bucket.to_owned(),
            prefix: self.prefix.clone(),
            delimiter: self.delimiter.clone(),
            after: after.to_owned(),
            limit: self.max_keys,
        };
        Ok(view.list_objects(&query)?)
    }

    /// `MaxKeys` to `IsTruncated`, in S3's order.
    pub fn limits(&self, out: &mut Writer, truncated: bool) {
        out.value("MaxKeys", self.max_keys);
        if !self.delimiter.is_empty() {
            out.text("Delimiter", &self.encoding.of(&self.delimiter));
        }
        self.encoding.element(out);
        out.value("IsTruncated", truncated);
    }

    /// The keys, then the common prefixes.
    ///
    /// # Errors
    /// When the image cannot be read.
    pub fn contents(
        &self,
        out: &mut Writer,
        view: &View,
        page: &ListPage<Object>,
        with_owner: bool,
    ) -> Result<(), S3Error> {
        let mut owners = Owners::new(view);
        for (key, object) in &page.items {
            let owner = if with_owner { Some(owners.of(&object.owner)?) } else { None };
            out.nest("Contents", |out| {
                out.text("Key", &self.encoding.of(key))
                    .time("LastModified", object.modified_ms)
                    .etag("ETag", &object.etag);
                for stored in &object.headers {
                    if let Some(algorithm) = Algorithm::from_header(&stored.name) {
                        out.text("ChecksumAlgorithm", algorithm.name());
                    }
                }
                let kind = object.headers.iter().find(|stored| stored.name == "x-amz-checksum-type");
                out.maybe("ChecksumType", kind.map(|kind| kind.value.as_str()));
                out.value("Size", object.len);
                if let Some(owner) = &owner {
                    owner_element(out, "Owner", owner);
                }
                out.text("StorageClass", "STANDARD");
            });
        }
        for prefix in &page.prefixes {
            out.nest("CommonPrefixes", |out| {
                out.text("Prefix", &self.encoding.of(prefix));
            });
        }
        Ok(())
    }
}
