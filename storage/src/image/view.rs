//! Typed reads of one snapshot: what the gateway answers from, and what the mirror reads back of the container.

use std::sync::Arc;

use bytes::Bytes;

use super::{ImageError, Progress, Tables};
use crate::id::{BodyId, Seq};
use crate::op::{AccessKey, Bucket, Object, Part, Upload, User};
use crate::record::Record;

/// A consistent look at one origin's container and image. Keeps everything that it sees readable until it is dropped.
#[derive(Clone)]
pub struct View {
    tables: Arc<dyn Tables>,
}

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct ListQuery {
    /// Bucket.
    pub bucket: String,
    /// Only keys that start with it.
    pub prefix: String,
    /// Keys that have it after the prefix are rolled up into one common prefix; empty for none.
    pub delimiter: String,
    /// Only keys, and common prefixes, after it; empty for the start.
    pub after: String,
    /// At most so many keys and common prefixes together.
    pub limit: usize,
}

/// A page of a list, in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ListPage<T> {
    /// Keys with what is there.
    pub items: Vec<(String, T)>,
    /// Common prefixes.
    pub prefixes: Vec<String>,
    /// The last key or common prefix of the page where there is more: the `after` of the next one.
    pub next_after: Option<String>,
}

/// A page of uploads, in order of key, then upload id.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UploadPage {
    /// Key, upload id, upload.
    pub items: Vec<(String, String, Upload)>,
    /// Common prefixes.
    pub prefixes: Vec<String>,
    /// Key (or common prefix) and upload id to go on after; none at the end.
    pub next: Option<(String, String)>,
}

impl View {
    /// stub
    pub(crate) fn new(tables: Arc<dyn Tables>) -> Self {
        todo!()
    }
    /// stub
    pub fn progress(&self) -> Result<Progress, ImageError> {
        todo!()
    }
    /// stub
    pub fn bucket(&self, name: &str) -> Result<Option<Bucket>, ImageError> {
        todo!()
    }
    /// stub
    pub fn buckets(&self, after: &str, limit: usize) -> Result<Vec<(String, Bucket)>, ImageError> {
        todo!()
    }
    /// stub
    pub fn bucket_is_empty(&self, name: &str) -> Result<bool, ImageError> {
        todo!()
    }
    /// stub
    pub fn object(&self, bucket: &str, key: &str) -> Result<Option<Object>, ImageError> {
        todo!()
    }
    /// stub
    pub fn list_objects(&self, query: &ListQuery) -> Result<ListPage<Object>, ImageError> {
        todo!()
    }
    /// stub
    pub fn upload(&self, bucket: &str, key: &str, upload_id: &str) -> Result<Option<Upload>, ImageError> {
        todo!()
    }
    /// stub
    pub fn list_uploads(&self, query: &ListQuery, after_upload: &str) -> Result<UploadPage, ImageError> {
        todo!()
    }
    /// stub
    pub fn part(&self, upload_id: &str, part_number: u32) -> Result<Option<Part>, ImageError> {
        todo!()
    }
    /// stub
    pub fn parts(&self, upload_id: &str, after: u32, limit: usize) -> Result<Vec<(u32, Part)>, ImageError> {
        todo!()
    }
    /// stub
    pub fn access_key(&self, access_key: &str) -> Result<Option<AccessKey>, ImageError> {
        todo!()
    }
    /// stub
    pub fn access_keys(&self) -> Result<Vec<(String, AccessKey)>, ImageError> {
        todo!()
    }
    /// stub
    pub fn user(&self, name: &str) -> Result<Option<User>, ImageError> {
        todo!()
    }
    /// stub
    pub fn users(&self) -> Result<Vec<(String, User)>, ImageError> {
        todo!()
    }
    /// stub
    pub fn chunk(&self, body: BodyId, index: u32) -> Result<Bytes, ImageError> {
        todo!()
    }
    /// stub
    pub fn read_log(&self, from: Seq, bytes_max: usize) -> Result<Vec<Record>, ImageError> {
        todo!()
    }
}
