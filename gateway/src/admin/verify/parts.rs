//! Parts of an image and their entries: what a comparison asks for after two digests were not the same, to find and name
//! what differs.
//!
//! `POST /v1/verify/parts` digests a range of keys in parts; `POST /v1/verify/entries` names the entries of a range. Every
//! answer says where the image was, so that whoever puts answers together knows whether they belong together: nothing is
//! kept from one question to the next. Keys go as base64, because they are no text.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use lockstep_storage::image::view::parts::{Cut, EntryDigest, EntryName, KeyRange, PartDigest};
use lockstep_storage::image::{ImageError, View};
use serde::{Deserialize, Serialize};

use super::hex;
use crate::admin::{Admin, AdminError, AdminResult, body_of, json, read, verbs};

/// Most parts of an answer: as many keys fit in a question of the other node.
pub const PARTS_MAX: usize = 16;
/// Most entries of an answer.
pub const ENTRIES_MAX: usize = 256;

/// What `POST /v1/verify/parts` takes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartsBody {
    /// Whose image.
    pub origin: String,
    /// Read and verify bodies too.
    #[serde(default)]
    pub deep: bool,
    /// The first key; none for the first that there is.
    #[serde(default)]
    pub from: Option<String>,
    /// The first key behind; none for the end.
    #[serde(default)]
    pub until: Option<String>,
    /// Cut after so many entries each.
    #[serde(default)]
    pub every: Option<u64>,
    /// Or cut before these keys.
    #[serde(default)]
    pub before: Vec<String>,
}

/// What `POST /v1/verify/entries` takes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntriesBody {
    /// Whose image.
    pub origin: String,
    /// Read and verify bodies too.
    #[serde(default)]
    pub deep: bool,
    /// The first key; none for the first that there is.
    #[serde(default)]
    pub from: Option<String>,
    /// The first key behind; none for the end.
    #[serde(default)]
    pub until: Option<String>,
}

/// Where an image was when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct At {
    /// Epoch of the last record in it.
    pub epoch: String,
    /// Seq of the last record in it.
    pub seq: u64,
}

/// Parts of an image, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartsView {
    /// Where the image was.
    pub at: At,
    /// The parts; together they are the range that was asked for.
    pub parts: Vec<PartView>,
}

/// A part in a few numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartView {
    /// The first key behind it; none for the end.
    pub until: Option<String>,
    /// Entries in it.
    pub entries: u64,
    /// Checksum over all of them.
    pub checksum: String,
    /// Bytes of bodies that were read; none where they were not asked for.
    pub body_bytes: Option<u64>,
    /// Checksum over these bytes.
    pub body_checksum: Option<String>,
    /// Entries whose bodies are not whole.
    pub damaged: u64,
}

/// Entries of an image, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntriesView {
    /// Where the image was.
    pub at: At,
    /// The entries.
    pub entries: Vec<EntryView>,
    /// There are more in the range.
    pub more: bool,
}

/// An entry by its name and in a few numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryView {
    /// Its key in the image, which orders it among others.
    pub at: String,
    /// What it is.
    #[serde(flatten)]
    pub name: NameView,
    /// Checksum over it.
    pub checksum: String,
    /// Bytes of its body that were read; none where they were not asked for.
    pub body_bytes: Option<u64>,
    /// Checksum over these bytes.
    pub body_checksum: Option<String>,
    /// What is wrong with its body.
    pub damage: Option<String>,
}

/// What an entry is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum NameView {
    /// A bucket.
    Bucket {
        /// Its name.
        bucket: String,
    },
    /// An object.
    Object {
        /// Its bucket.
        bucket: String,
        /// Its key.
        key: String,
    },
    /// An upload that is not complete.
    Upload {
        /// Its bucket.
        bucket: String,
        /// The key of what it is to become.
        key: String,
        /// Its id.
        upload_id: String,
    },
    /// A part of an upload.
    Part {
        /// The id of its upload.
        upload_id: String,
        /// Its number.
        part_number: u32,
    },
    /// An access key.
    AccessKey {
        /// Its id.
        access_key: String,
    },
    /// A user.
    User {
        /// Its name.
        user: String,
    },
    /// What this version has no name for.
    Unknown,
}

impl From<EntryName> for NameView {
    fn from(name: EntryName) -> Self {
        match name {
            EntryName::Bucket(bucket) => Self::Bucket { bucket },
            EntryName::Object(bucket, key) => Self::Object { bucket, key },
            EntryName::Upload(bucket, key, upload_id) => Self::Upload { bucket, key, upload_id },
            EntryName::Part(upload_id, part_number) => Self::Part { upload_id, part_number },
            EntryName::AccessKey(access_key) => Self::AccessKey { access_key },
            EntryName::User(user) => Self::User { user },
            EntryName::Unknown => Self::Unknown,
        }
    }
}

impl std::fmt::Display for NameView {
    /// On one line, whatever characters a name has.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bucket { bucket } => write!(f, "bucket {}", bucket.escape_debug()),
            Self::Object { bucket, key } => write!(f, "object {}/{}", bucket.escape_debug(), key.escape_debug()),
            Self::Upload { bucket, key, upload_id } => {
                write!(f, "upload {upload_id} of {}/{}", bucket.escape_debug(), key.escape_debug())
            }
            Self::Part { upload_id, part_number } => write!(f, "part {part_number} of upload {upload_id}"),
            Self::AccessKey { access_key } => write!(f, "access key {}", access_key.escape_debug()),
            Self::User { user } => write!(f, "user {}", user.escape_debug()),
            Self::Unknown => f.write_str("an entry without a name"),
        }
    }
}

/// A range and its cuts, taken out of a question.
struct Asked {
    range: KeyRange,
    cut: Cut,
}

impl PartsBody {
    fn asked(&self) -> Result<Asked, AdminError> {
        let range = range(self.from.as_deref(), self.until.as_deref())?;
        let before = self.before.iter().map(|text| key(text)).collect::<Result<Vec<_>, _>>()?;
        let cut = match self.every {
            Some(0) => return Err(bad("a part has at least one entry")),
            Some(_) if !before.is_empty() => return Err(bad("'every' and 'before' are two ways to cut: give one")),
            Some(every) => Cut::Every(every, PARTS_MAX),
            None if before.len() >= PARTS_MAX => return Err(bad(format!("more than {PARTS_MAX} parts"))),
            None if !before.is_sorted() => return Err(bad("the keys do not rise")),
            None => Cut::Before(before),
        };
        Ok(Asked { range, cut })
    }
}

fn bad(reason: impl Into<String>) -> AdminError {
    AdminError(StatusCode::BAD_REQUEST, reason.into())
}

fn key(text: &str) -> Result<Vec<u8>, AdminError> {
    STANDARD.decode(text).map_err(|_| bad("a key is not base64"))
}

fn range(from: Option<&str>, until: Option<&str>) -> Result<KeyRange, AdminError> {
    let end = |text: Option<&str>| text.map_or(Ok(Vec::new()), key);
    Ok(KeyRange { from: end(from)?, until: end(until)? })
}

fn at(view: &View) -> Result<At, ImageError> {
    let applied = view.progress()?.applied;
    Ok(At { epoch: applied.epoch.to_string(), seq: applied.seq.0 })
}

fn end(key: &[u8]) -> Option<String> {
    (!key.is_empty()).then(|| STANDARD.encode(key))
}

fn part(part: &PartDigest) -> PartView {
    PartView {
        until: end(&part.until),
        entries: part.entries,
        checksum: hex(part.checksum),
        body_bytes: part.bodies.map(|bodies| bodies.bytes),
        body_checksum: part.bodies.map(|bodies| hex(bodies.checksum)),
        damaged: part.damaged,
    }
}

fn entry(entry: EntryDigest) -> EntryView {
    EntryView {
        at: STANDARD.encode(&entry.key),
        name: entry.name.into(),
        checksum: hex(entry.checksum),
        body_bytes: entry.bodies.map(|bodies| bodies.bytes),
        body_checksum: entry.bodies.map(|bodies| hex(bodies.checksum)),
        damage: entry.damage,
    }
}

fn look_at_parts(view: &View, asked: &Asked, deep: bool) -> Result<PartsView, ImageError> {
    let parts = view.digest_parts(&asked.range, &asked.cut, deep)?;
    Ok(PartsView { at: at(view)?, parts: parts.iter().map(part).collect() })
}

fn look_at_entries(view: &View, range: &KeyRange, deep: bool) -> Result<EntriesView, ImageError> {
    let mut entries = view.digest_entries(range, ENTRIES_MAX + 1, deep)?;
    let more = entries.len() > ENTRIES_MAX;
    entries.truncate(ENTRIES_MAX);
    Ok(EntriesView { at: at(view)?, entries: entries.into_iter().map(entry).collect(), more })
}

pub(in crate::admin) async fn parts(State(admin): State<Arc<Admin>>, body: Bytes) -> AdminResult {
    let body: PartsBody = body_of(&body)?;
    let (origin, asked) = (verbs::origin(&body.origin)?, body.asked()?);
    let parts = read(&admin, &origin, move |view| look_at_parts(view, &asked, body.deep)).await?;
    Ok(json(StatusCode::OK, &parts))
}

pub(in crate::admin) async fn entries(State(admin): State<Arc<Admin>>, body: Bytes) -> AdminResult {
    let body: EntriesBody = body_of(&body)?;
    let (origin, range) = (verbs::origin(&body.origin)?, range(body.from.as_deref(), body.until.as_deref())?);
    let entries = read(&admin, &origin, move |view| look_at_entries(view, &range, body.deep)).await?;
    Ok(json(StatusCode::OK, &entries))
}

/// What a node with this image answers, for the tests of those who ask.
#[cfg(test)]
pub(crate) mod answers {
    use super::*;

    pub(crate) fn parts(view: &View, body: &PartsBody) -> Result<PartsView, String> {
        let asked = body.asked().map_err(|AdminError(_, reason)| reason)?;
        look_at_parts(view, &asked, body.deep).map_err(|error| error.to_string())
    }

    pub(crate) fn entries(view: &View, body: &EntriesBody) -> Result<EntriesView, String> {
        let range = range(body.from.as_deref(), body.until.as_deref()).map_err(|AdminError(_, reason)| reason)?;
        look_at_entries(view, &range, body.deep).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_that_cannot_be_answered_are_refused() {
        let body = |every, before: &[&str]| PartsBody {
            every,
            before: before.iter().map(|key| (*key).to_owned()).collect(),
            ..PartsBody::default()
        };
        assert!(body(Some(1), &[]).asked().is_ok() && body(None, &["QQ==", "Qg=="]).asked().is_ok());
        let many = vec!["QQ=="; PARTS_MAX];
        for wrong in [body(Some(0), &[]), body(Some(1), &["QQ=="]), body(None, &["Qg==", "QQ=="]), body(None, &many)] {
            assert!(wrong.asked().is_err(), "{wrong:?}");
        }
        assert!(body(None, &["not base64"]).asked().is_err() && range(Some("?"), None).is_err());
    }

    #[test]
    fn a_name_is_one_line_and_survives_json() {
        let name = NameView::Object { bucket: "bk".into(), key: "a\nb\u{7}ü".into() };
        assert_eq!(name.to_string(), "object bk/a\\nb\\u{7}ü");
        let entry = EntryView {
            at: "QQ==".into(),
            name,
            checksum: hex(7),
            body_bytes: None,
            body_checksum: None,
            damage: None,
        };
        let json = serde_json::to_value(&entry).unwrap();
        assert_eq!((&json["kind"], &json["key"]), (&"object".into(), &"a\nb\u{7}ü".into()));
        assert_eq!(serde_json::from_value::<EntryView>(json).unwrap(), entry);
    }
}
