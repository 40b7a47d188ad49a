//! A request as handlers see it: authenticated, routed, decoded.
//!
//! Made by the service only, after the signature of the head has been verified and before a byte of the body is read.

use lockstep_storage::id::Origin;

use super::payload::Payload;
use super::query::Query;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// The holder of an access key.
    User {
        /// Access key id.
        access_key: String,
        /// The user that the key speaks for.
        user: String,
        /// Root may do everything.
        root: bool,
    },
}

impl Caller {
    /// The user's name: what becomes the owner of new buckets and objects.
    #[must_use]
    pub fn user(&self) -> &str {
        match self {
            Self::User { user, .. } => user,
        }
    }

    /// May it do everything?
    #[must_use]
    pub fn is_root(&self) -> bool {
        match self {
            Self::User { root, .. } => *root,
        }
    }
}

/// An authenticated, routed S3 request.
#[derive(Debug)]
pub struct Request {
    /// Request id: 16 upper-case hex digits, in header and error XML.
    pub id: String,
    /// Method.
    pub method: http::Method,
    /// Bucket; empty for the service itself.
    pub bucket: String,
    /// Key, decoded; empty for a bucket.
    pub key: String,
    /// Query, decoded.
    pub query: Query,
    /// Headers as received, without `aws-chunked` in Content-Encoding.
    pub headers: http::HeaderMap,
    /// The body, decoded from whatever framing it came in.
    pub payload: Payload,
    /// Who asks.
    pub caller: Caller,
    /// The origin whose buckets are meant.
    pub origin: Origin,
    /// Path for the error XML.
    pub resource: String,
}

impl Request {
    /// A header's value where it is there and readable text; none otherwise.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}
