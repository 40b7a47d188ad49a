//! The table of operations: one line each. A new operation is a line here and a file in `ops`.
//!
//! A request goes to the first line that fits, so lines with a query or header stand before the plain ones. What S3 has
//! and this table has not is refused by name and never falls through to the plain operation of the same path.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::{HeaderMap, Method};

use super::error::{Code, S3Error};
use super::query::Query;
use super::request::Request;
use super::response::S3Result;
use super::{Gateway, ops};

/// What the path of a request names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// `/`
    Service,
    /// A bucket.
    Bucket,
    /// A key in a bucket.
    Object,
}

/// What a handler is: a function in `ops`, its future boxed.
pub type Handler = for<'a> fn(&'a Arc<Gateway>, Request) -> Pin<Box<dyn Future<Output = S3Result> + Send + 'a>>;

/// One operation.
pub struct Operation {
    /// S3's name of it.
    pub name: &'static str,
    /// Method.
    pub method: Method,
    /// What the path names.
    pub level: Level,
    /// Query keys that must all be there; `key=value` where the value counts too.
    pub query: &'static [&'static str],
    /// A header that must be there; empty for none.
    pub header: &'static str,
    /// The permission that policies name.
    pub permission: &'static str,
    /// Who answers.
    pub handler: Handler,
}

macro_rules! operations {
    ($($name:ident $method:ident $level:ident $query:tt $header:literal $permission:literal $file:ident;)*) => {
        /// Every operation, the more special ones first.
        pub static OPERATIONS: &[Operation] = &[$(Operation {
            name: stringify!($name),
            method: Method::$method,
            level: Level::$level,
            query: &$query,
            header: $header,
            permission: $permission,
            handler: |gateway, request| Box::pin(ops::$file::$file(gateway, request)),
        },)*];
    };
}

operations! {
    // name                  method level   query                      header              permission                       file
    ListBuckets              GET    Service []                         ""                  "s3:ListAllMyBuckets"            list_buckets;

    GetBucketLocation        GET    Bucket  ["location"]               ""                  "s3:GetBucketLocation"           get_bucket_location;
    ListMultipartUploads     GET    Bucket  ["uploads"]                ""                  "s3:ListBucketMultipartUploads"  list_multipart_uploads;
    ListObjectsV2            GET    Bucket  ["list-type=2"]            ""                  "s3:ListBucket"                  list_objects_v2;
    ListObjects              GET    Bucket  []                         ""                  "s3:ListBucket"                  list_objects;
    DeleteObjects            POST   Bucket  ["delete"]                 ""                  "s3:DeleteObject"                delete_objects;
    CreateBucket             PUT    Bucket  []                         ""                  "s3:CreateBucket"                create_bucket;
    HeadBucket               HEAD   Bucket  []                         ""                  "s3:ListBucket"                  head_bucket;
    DeleteBucket             DELETE Bucket  []                         ""                  "s3:DeleteBucket"                delete_bucket;

    CreateMultipartUpload    POST   Object  ["uploads"]                ""                  "s3:PutObject"                   create_multipart_upload;
    CompleteMultipartUpload  POST   Object  ["uploadId"]               ""                  "s3:PutObject"                   complete_multipart_upload;
    UploadPartCopy           PUT    Object  ["uploadId", "partNumber"] "x-amz-copy-source" "s3:PutObject"                   upload_part_copy;
    UploadPart               PUT    Object  ["uploadId", "partNumber"] ""                  "s3:PutObject"                   upload_part;
    ListParts                GET    Object  ["uploadId"]               ""                  "s3:ListMultipartUploadParts"    list_parts;
    AbortMultipartUpload     DELETE Object  ["uploadId"]               ""                  "s3:AbortMultipartUpload"        abort_multipart_upload;
    CopyObject               PUT    Object  []                         "x-amz-copy-source" "s3:PutObject"                   copy_object;
    PutObject                PUT    Object  []                         ""                  "s3:PutObject"                   put_object;
    GetObject                GET    Object  []                         ""                  "s3:GetObject"                   get_object;
    HeadObject               HEAD   Object  []                         ""                  "s3:GetObject"                   head_object;
    DeleteObject             DELETE Object  []                         ""                  "s3:DeleteObject"                delete_object;
}

/// Query keys that make another operation of a request. One that the chosen line does not ask for is refused.
#[rustfmt::skip]
const SUB_RESOURCES: &[&str] = &[
    "accelerate", "acl", "analytics", "annotation", "attributes", "cors", "delete", "encryption", "intelligent-tiering",
    "inventory", "legal-hold", "lifecycle", "location", "logging", "metadataConfiguration", "metadataTable", "metrics",
    "notification", "object-lock", "ownershipControls", "policy", "policyStatus", "publicAccessBlock", "renameObject",
    "replication", "requestPayment", "restore", "retention", "select", "session", "tagging", "torrent", "uploadId",
    "uploads", "versioning", "versions", "website",
];

/// Finds the operation of a request.
///
/// # Errors
/// `NotImplemented` with the name of what is missing, `MethodNotAllowed` where S3 has no such method here.
pub fn route(method: &Method, level: Level, query: &Query, headers: &HeaderMap) -> Result<&'static Operation, S3Error> {
    let fits = |operation: &&Operation| {
        operation.method == *method
            && operation.level == level
            && operation.query.iter().all(|wanted| has(query, wanted))
            && (operation.header.is_empty() || headers.contains_key(operation.header))
    };
    let found = OPERATIONS.iter().find(fits);
    let asked = query.iter().map(|(name, _)| name).find(|name| SUB_RESOURCES.contains(name));
    let taken = |name: &str| found.is_some_and(|operation| operation.query.contains(&name));
    if let Some(name) = asked.filter(|name| !taken(name)) {
        let known = OPERATIONS.iter().any(|operation| operation.level == level && operation.query.contains(&name));
        return Err(if known { Code::MethodNotAllowed.into() } else { unsupported(method, level, name) });
    }
    match found {
        Some(operation) => Ok(operation),
        None if *method == Method::POST && level != Level::Service => Err(S3Error::not_implemented("PostObject")),
        None => Err(Code::MethodNotAllowed.into()),
    }
}

fn unsupported(method: &Method, level: Level, name: &str) -> S3Error {
    let of = match level {
        Level::Service => "the service",
        Level::Bucket => "a bucket",
        Level::Object => "an object",
    };
    S3Error::not_implemented(&format!("{method} ?{name} of {of}"))
}

fn has(query: &Query, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((name, value)) => query.get(name) == Some(value),
        None => query.has(wanted),
    }
}
