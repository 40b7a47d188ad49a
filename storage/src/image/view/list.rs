//! Lists in key order, rolled up at a delimiter. A common prefix costs one seek, however many keys it has: after it the
//! cursor jumps to the first key that does not start with it. So a page costs what it holds.
//!
//! `after` is exclusive. Where it is, or lies inside, a common prefix, that prefix is not returned again: so the last key
//! or prefix of a page is the token for the next one.

use prost::Message;

use super::{View, corrupt};
use crate::image::{Cursor, Family, ImageError, keys};
use crate::op::{Object, Upload};

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
    /// Key (or common prefix) and upload id to go on after; none at the end. The id is empty for a common prefix.
    pub next: Option<(String, String)>,
}

impl ListQuery {
    /// The common prefix that a key is rolled up into.
    fn common_prefix<'k>(&self, key: &'k str) -> Option<&'k str> {
        if self.delimiter.is_empty() {
            return None;
        }
        let rest = key.strip_prefix(self.prefix.as_str())?;
        let at = rest.find(self.delimiter.as_str())?;
        Some(&key[..self.prefix.len() + at + self.delimiter.len()])
    }

    /// Where to begin, given how keys are stored: `first(key)` is where a key and all that it starts are, `past(key)` the
    /// first place after that very key.
    fn start(&self, first: impl Fn(&str) -> Vec<u8>, past: impl Fn(&str) -> Vec<u8>) -> Vec<u8> {
        if self.after.is_empty() || self.after < self.prefix {
            return first(&self.prefix);
        }
        match self.common_prefix(&self.after) {
            Some(common) => keys::successor(&first(common)),
            None => past(&self.after),
        }
    }
}

impl View {
    /// Objects of a bucket in key order. Their inline bytes are left out. A bucket that is not there has none.
    ///
    /// # Errors
    /// When the engine cannot read or something does not decode.
    pub fn list_objects(&self, query: &ListQuery) -> Result<ListPage<Object>, ImageError> {
        let mut page = ListPage::default();
        let base = keys::object(&query.bucket, "");
        let first = |key: &str| keys::object(&query.bucket, key);
        let past = |key: &str| [&first(key)[..], b"\0"].concat();
        if query.limit == 0 {
            return Ok(page);
        }
        let mut cursor = self.tables.cursor(Family::Image, &keys::successor(&first(&query.prefix)))?;
        cursor.seek(&query.start(first, past));
        let mut last = None;
        while let Some((stored, value)) = cursor.entry()? {
            let key = str::from_utf8(&stored[base.len()..]).map_err(|_| corrupt("an object's key is not UTF-8"))?;
            if page.items.len() + page.prefixes.len() == query.limit {
                page.next_after = last;
                break;
            }
            if let Some(common) = query.common_prefix(key) {
                let common = common.to_owned();
                cursor.seek(&keys::successor(&first(&common)));
                last = Some(common.clone());
                page.prefixes.push(common);
            } else {
                last = Some(key.to_owned());
                page.items.push((key.to_owned(), keys::decode_object_meta(value)?));
                cursor.next();
            }
        }
        Ok(page)
    }

    /// Uploads of a bucket in order of key, then upload id: those to keys after `query.after`, and, where `after_upload`
    /// is not empty, those to `query.after` itself with an upload id after it.
    ///
    /// # Errors
    /// When the engine cannot read or something does not decode.
    pub fn list_uploads(&self, query: &ListQuery, after_upload: &str) -> Result<UploadPage, ImageError> {
        let mut page = UploadPage::default();
        let base = keys::uploads(&query.bucket, "");
        let first = |key: &str| keys::uploads(&query.bucket, key);
        let past = |key: &str| match after_upload {
            // Every upload id is less than this, and what the next key adds to this one is greater.
            "" => [&keys::uploads_of(&query.bucket, key)[..], b"g"].concat(),
            id => [&keys::uploads_of(&query.bucket, key)[..], id.as_bytes(), b"\0"].concat(),
        };
        if query.limit == 0 {
            return Ok(page);
        }
        let mut cursor = self.tables.cursor(Family::Image, &keys::successor(&first(&query.prefix)))?;
        cursor.seek(&query.start(first, past));
        let mut last = None;
        while let Some((key, upload_id, upload)) = upload_entry(cursor.as_ref(), base.len())? {
            if page.items.len() + page.prefixes.len() == query.limit {
                page.next = last;
                break;
            }
            if let Some(common) = query.common_prefix(&key) {
                cursor.seek(&keys::successor(&first(common)));
                last = Some((common.to_owned(), String::new()));
                page.prefixes.push(common.to_owned());
            } else {
                last = Some((key.clone(), upload_id.clone()));
                page.items.push((key, upload_id, upload));
                cursor.next();
            }
        }
        Ok(page)
    }
}

fn upload_entry(cursor: &dyn Cursor, base_len: usize) -> Result<Option<(String, String, Upload)>, ImageError> {
    let Some((stored, value)) = cursor.entry()? else { return Ok(None) };
    let (key, upload_id) = keys::split_upload(stored, base_len).ok_or_else(|| corrupt("key of an upload"))?;
    let upload = Upload::decode(value).map_err(|error| ImageError::Corrupt(format!("upload: {error}")))?;
    Ok(Some((key, upload_id, upload)))
}
