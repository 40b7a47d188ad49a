//! The S3 protocol: from a socket to a handler and back.
//!
//! # Layout
//! - [`listener`]: accepts connections, bounds them (also in time: `patience`), tells HTTP/1 from HTTP/2 (`opening`), drains
//!   them at the end.
//! - [`service`]: one request: id, host, authentication, route, handler, answer.
//! - [`host`]: bucket, key and origin from Host header and path; [`query`]: the decoded query.
//! - [`auth`]: SigV4, header and presigned; [`payload`]: the body in all its framings.
//! - [`table`]: the operations, one line each; [`ops`]: a file for each.
//! - [`request`], [`response`], [`error`], [`xml`]: what handlers take and give; [`ids`]: request ids.
//! - [`locks`], [`upload`], [`download`]: what handlers share.

pub mod auth;
pub mod digest;
pub mod download;
pub mod error;
pub mod host;
pub mod ids;
pub mod listener;
pub mod locks;
mod opening;
pub mod ops;
mod patience;
pub mod payload;
pub mod query;
pub mod request;
pub mod response;
pub mod service;
pub mod table;
pub mod upload;
pub mod xml;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::HeaderValue;
use lockstep_mirror::client::Client;
use lockstep_storage::id::Origin;

use crate::metrics::S3Metrics;

pub use error::{Code, S3Error};
pub use request::{Caller, Request};
pub use response::{Body, Response, S3Result};

/// What all requests share.
pub struct Gateway {
    /// The way to the log and the images.
    pub client: Client,
    /// The region that signatures must name, and that buckets are in.
    pub region: String,
    /// Host names that are answered in virtual-hosted style, lower case, each with its origin.
    pub domains: Vec<(String, Origin)>,
    /// Locks of buckets and keys.
    pub locks: locks::Locks,
    /// Digests of bodies, computed for all uploads together.
    pub digests: digest::DigestPool,
    /// What the service counts.
    pub metrics: Arc<S3Metrics>,
    pub(crate) signing_keys: auth::SigningKeys,
    pub(crate) ids: ids::RequestIds,
    /// Which node answered: `x-amz-id-2`.
    pub(crate) host_id: HeaderValue,
}

impl Gateway {
    /// The state of a listener.
    #[must_use]
    pub fn new(client: Client, region: String, domains: Vec<(String, Origin)>) -> Arc<Self> {
        let domains = domains.into_iter().map(|(name, origin)| (name.to_ascii_lowercase(), origin)).collect();
        // A node name in base64 is always a header value.
        let host_id = HeaderValue::from_str(&BASE64.encode(client.node().as_str()));
        Arc::new(Self {
            client,
            region,
            domains,
            locks: locks::Locks::default(),
            digests: digest::DigestPool::default(),
            metrics: Arc::default(),
            signing_keys: auth::SigningKeys::default(),
            ids: ids::RequestIds::default(),
            host_id: host_id.unwrap_or(HeaderValue::from_static("")),
        })
    }
}
