//! The S3 protocol: from a socket to a handler and back.
//!
//! # Layout
//! - [`listener`]: accepts connections, bounds them, drains them at the end.
//! - [`service`]: one request: id, host, authentication, route, handler, answer.
//! - [`host`]: bucket, key and origin from Host header and path; [`query`]: the decoded query.
//! - [`auth`]: SigV4, header and presigned; [`payload`]: the body in all its framings.
//! - [`table`]: the operations, one line each; [`ops`]: a file for each.
//! - [`request`], [`response`], [`error`], [`xml`]: what handlers take and give.
//! - [`locks`], [`upload`], [`download`]: what handlers share.

pub mod auth;
pub mod error;
pub mod locks;
pub mod ops;
pub mod payload;
pub mod query;
pub mod request;
pub mod response;
pub mod table;
pub mod xml;

use std::sync::Arc;

use lockstep_mirror::client::Client;
use lockstep_storage::id::Origin;

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
}

impl Gateway {
    /// The state of a listener.
    #[must_use]
    pub fn new(client: Client, region: String, domains: Vec<(String, Origin)>) -> Arc<Self> {
        let domains = domains.into_iter().map(|(name, origin)| (name.to_ascii_lowercase(), origin)).collect();
        Arc::new(Self { client, region, domains, locks: locks::Locks::default() })
    }
}
