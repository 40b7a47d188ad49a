//! S3 over HTTP in front of the mirrored log, the admin interface and the command line of a node.
//!
//! # Layout
//! - [`s3`]: the S3 protocol and its operations.
//! - [`config`]: what a node is told: file, environment, defaults, checks.
//! - [`metrics`]: what the S3 service counts.

pub mod config;
pub mod metrics;
pub mod s3;
