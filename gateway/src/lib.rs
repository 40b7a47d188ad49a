//! S3 over HTTP in front of the mirrored log, the admin interface and the command line of a node.
//!
//! # Layout
//! - [`s3`]: the S3 protocol and its operations.
//! - [`cli`]: the command line; [`serve`]: a node put together; [`demo`]: two sites, a failure, and what came of it.
//! - [`admin`]: health, metrics, status and the operator's verbs over HTTP.
//! - [`config`]: what a node is told: file, environment, defaults, checks.
//! - [`hook`]: the operator's program that is run when a role changes.
//! - [`metrics`]: what the S3 service counts.
//! - [`secret`]: how keys and tokens are made and stored.

pub mod admin;
pub mod cli;
pub mod config;
pub mod demo;
pub mod hook;
pub mod metrics;
pub mod s3;
pub mod secret;
pub mod serve;
