//! The operations, a file each, named as S3 names them; and what they share.
//!
//! Whatever changes something goes through [`mod@write`], whatever reads through [`read`]: locks, conditions, and the
//! headers that say how far the mirror is stand there once.

pub mod abort_multipart_upload;
pub mod checksums;
pub mod complete_multipart_upload;
pub mod conditions;
pub mod copy_object;
pub mod create_bucket;
pub mod create_multipart_upload;
pub mod delete_bucket;
pub mod delete_object;
pub mod delete_objects;
pub mod get_bucket_location;
pub mod get_object;
pub mod head_bucket;
pub mod head_object;
pub mod headers;
pub mod list_buckets;
pub mod list_multipart_uploads;
pub mod list_objects;
pub mod list_objects_v2;
pub mod list_parts;
pub mod listing;
pub mod multipart;
pub mod put_object;
pub mod read;
pub mod upload_part;
pub mod upload_part_copy;
pub mod write;
