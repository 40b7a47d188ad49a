//! S3 over HTTP in front of the mirrored log, the admin interface and the command line of a node.
//!
//! # Layout
//! - [`s3`]: the S3 protocol and its operations.
//! - [`metrics`]: what the S3 service counts.

pub mod metrics;
pub mod s3;
