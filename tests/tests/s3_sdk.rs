//! S3 as AWS's own SDK for Rust speaks it, without a special setting: every operation of this version with what it refuses,
//! against a node in this process with a real region, a real engine and real sockets.

#[path = "s3_sdk/bed.rs"]
mod bed;
#[path = "s3_sdk/buckets.rs"]
mod buckets;
#[path = "s3_sdk/checksums.rs"]
mod checksums;
#[path = "s3_sdk/conditions.rs"]
mod conditions;
#[path = "s3_sdk/copies.rs"]
mod copies;
#[path = "s3_sdk/deletes.rs"]
mod deletes;
#[path = "s3_sdk/lists.rs"]
mod lists;
#[path = "s3_sdk/multipart.rs"]
mod multipart;
#[path = "s3_sdk/objects.rs"]
mod objects;
#[path = "s3_sdk/part_copies.rs"]
mod part_copies;
#[path = "s3_sdk/presigned.rs"]
mod presigned;
