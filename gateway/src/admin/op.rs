//! A record's op for people and scripts: what an export of a tail and the `record` command show. Secrets of access keys and
//! the bytes of bodies are not in it.

use lockstep_storage::image::body_name;
use lockstep_storage::op::{Mutation, Object};
use lockstep_storage::record::{Header, Record};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Most runs of missing bytes that are named.
const MISSING_MAX: usize = 1000;

/// An op. What it does not have is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OpView {
    /// Its seq.
    pub seq: u64,
    /// The epoch that it was written under.
    pub epoch: String,
    /// Milliseconds since 1970.
    pub time_ms: u64,
    /// The same for people, in UTC.
    pub time: String,
    /// `put_object`, `delete_object`, and so on; `data` for a chunk of a body.
    pub kind: String,
    /// Bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
    /// Key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Length of the object, part or chunk in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub len: Option<u64>,
    /// `ETag`, without quotes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// Headers that a reader would have got back, and metadata with their `x-amz-meta-`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    /// Upload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upload_id: Option<String>,
    /// Number of a part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part_number: Option<u32>,
    /// Name of a user, an access key, or the node that begins an epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The body that a chunk belongs to, or that is given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_id: Option<String>,
    /// Number of the chunk, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk: Option<u32>,
    /// An object's bytes: where they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<BodyView>,
    /// What is wrong with the record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remark: Option<String>,
    /// The file with the object's bytes; filled in by who writes them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

/// Where the bytes of an object are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BodyView {
    /// Bytes that stand in the tail.
    pub tail_bytes: u64,
    /// Bytes that came before its first record, and were set aside beside it.
    pub beside_bytes: u64,
    /// Bytes that only the container of this node has.
    pub container_bytes: u64,
    /// Bytes that are in neither: 0 for a whole object.
    pub missing_bytes: u64,
    /// Offset and length of the first 1000 runs of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<(u64, u64)>,
}

impl BodyView {
    /// So many bytes from there on are nowhere.
    pub(super) fn miss(&mut self, offset: u64, len: u64) {
        self.missing_bytes += len;
        let runs = self.missing.len();
        match self.missing.last_mut() {
            Some((at, run)) if at.saturating_add(*run) == offset => *run += len,
            _ if len > 0 && runs < MISSING_MAX => self.missing.push((offset, len)),
            _ => {}
        }
    }
}

impl OpView {
    /// The op of a record, which says `mutation`. Of a `Data` record the payload is not needed.
    pub(super) fn of(record: &Record, mutation: &Mutation) -> Self {
        let mut view = op_of(record, mutation);
        place(&mut view, &record.header);
        view
    }

    /// One that is not understood.
    pub(super) fn unknown(header: &Header) -> Self {
        let mut view = Self { kind: "unknown".into(), ..Self::default() };
        place(&mut view, header);
        view
    }
}

fn place(op: &mut OpView, header: &Header) {
    (op.seq, op.epoch, op.time_ms) = (header.seq.0, header.epoch.to_string(), header.time_ms);
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(header.time_ms) * 1_000_000);
    op.time = time.ok().and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default();
}

/// What an op says, by kind. Lists of parts and secrets are left out.
fn op_of(record: &Record, mutation: &Mutation) -> OpView {
    let named = |kind: &str, name: &str| OpView { kind: kind.into(), name: Some(name.into()), ..OpView::default() };
    let at = |kind: &str, bucket: &str, key: &str| OpView {
        kind: kind.into(),
        bucket: Some(bucket.into()),
        key: Some(key.into()),
        ..OpView::default()
    };
    let in_upload = |op: OpView, id: &str| OpView { upload_id: Some(id.into()), ..op };
    match mutation {
        Mutation::Data(data) => OpView {
            kind: "data".into(),
            body_id: Some(body_name(record.body_of(data))),
            chunk: Some(data.index),
            len: Some(u64::from(record.header.payload_len)),
            ..OpView::default()
        },
        Mutation::PutObject(op) => with_object(at("put_object", &op.bucket, &op.key), &op.object),
        Mutation::DeleteObject(op) => at("delete_object", &op.bucket, &op.key),
        Mutation::CreateBucket(op) => OpView { key: None, ..at("create_bucket", &op.bucket, "") },
        Mutation::DeleteBucket(op) => OpView { key: None, ..at("delete_bucket", &op.bucket, "") },
        Mutation::CreateMultipartUpload(op) => {
            in_upload(at("create_multipart_upload", &op.bucket, &op.key), &op.upload_id)
        }
        Mutation::UploadPart(op) => OpView {
            part_number: Some(op.part_number),
            len: Some(op.part.len),
            etag: Some(op.part.etag.clone()),
            ..in_upload(at("upload_part", &op.bucket, &op.key), &op.upload_id)
        },
        Mutation::CompleteMultipartUpload(op) => {
            let view = with_object(at("complete_multipart_upload", &op.bucket, &op.key), &op.object);
            in_upload(view, &op.upload_id)
        }
        Mutation::AbortMultipartUpload(op) => {
            in_upload(at("abort_multipart_upload", &op.bucket, &op.key), &op.upload_id)
        }
        Mutation::PutAccessKey(op) => named("put_access_key", &op.access_key),
        Mutation::DeleteAccessKey(op) => named("delete_access_key", &op.access_key),
        Mutation::PutUser(op) => named("put_user", &op.name),
        Mutation::DeleteUser(op) => named("delete_user", &op.name),
        Mutation::AbandonBody(op) => {
            OpView { kind: "abandon_body".into(), body_id: Some(body_name(op.body.into())), ..OpView::default() }
        }
        Mutation::BeginEpoch(op) => named("begin_epoch", &op.node),
    }
}

fn with_object(view: OpView, object: &Object) -> OpView {
    let stored = object.headers.iter().map(|header| (header.name.clone(), header.value.clone()));
    let meta = object.metadata.iter().map(|header| (format!("x-amz-meta-{}", header.name), header.value.clone()));
    OpView { len: Some(object.len), etag: Some(object.etag.clone()), headers: stored.chain(meta).collect(), ..view }
}
