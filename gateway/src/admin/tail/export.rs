//! A tail as a stream of JSON lines: for every op one line, before it the bytes of its body in pieces where they were asked
//! for, at the end what was read and where reading ended. A stream without that last line is not whole.
//!
//! One record or chunk is in memory at a time, and a few lines wait for the client. Secrets of access keys stay here.

use std::io;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream::unfold;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use lockstep_mirror::client::Client;
use lockstep_mirror::tail::TailFile;
use lockstep_mirror::tail::bodies::{Index, Piece, pieces};
use lockstep_mirror::tail::reader::Head;
use lockstep_storage::id::BodyId;
use lockstep_storage::image::body_name;
use lockstep_storage::op::{Mutation, Object};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::mpsc;

use super::super::{Admin, AdminError, AdminResult};
use super::{DamageView, TailView};

/// Lines that wait for the client.
const LINES_MAX: usize = 4;
/// Most runs of missing bytes that are named.
const MISSING_MAX: usize = 1000;

/// A line of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// Bytes of the body of the op that comes next.
    Piece(PieceView),
    /// An op.
    Op(Box<OpView>),
    /// What was read; the last line.
    End(Box<TailView>),
}

/// Bytes of a body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PieceView {
    /// Seq of the op.
    pub seq: u64,
    /// Where they stand in the body.
    pub offset: u64,
    /// In Base64.
    pub data: String,
}

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
    /// Bytes that are nowhere: 0 for a whole object.
    pub missing_bytes: u64,
    /// Offset and length of the first 1000 runs of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<(u64, u64)>,
}

impl BodyView {
    fn miss(&mut self, offset: u64, len: u64) {
        self.missing_bytes += len;
        let runs = self.missing.len();
        match self.missing.last_mut() {
            Some((at, run)) if at.saturating_add(*run) == offset => *run += len,
            _ if len > 0 && runs < MISSING_MAX => self.missing.push((offset, len)),
            _ => {}
        }
    }
}

/// Starts an export. The client's going away ends it.
pub(super) fn start(admin: &Admin, file: TailFile, bodies: bool) -> AdminResult {
    let busy = || AdminError(StatusCode::SERVICE_UNAVAILABLE, "other tails are being exported: try again later".into());
    let permit = Arc::clone(&admin.exports).try_acquire_owned().map_err(|_| busy())?;
    let (lines, waiting) = mpsc::channel(LINES_MAX);
    let client = admin.client.clone();
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let failed = lines.clone();
        if let Err(error) = (Export { client, file, bodies, lines }).run()
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            tracing::warn!(%error, "an export of a tail has ended early");
            let _client_gone = failed.blocking_send(Err(error));
        }
    });
    let stream = unfold(waiting, |mut waiting| async move { Some((waiting.recv().await?, waiting)) });
    let mut response = Response::new(Body::from_stream(stream));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    Ok(response)
}

struct Export {
    client: Client,
    file: TailFile,
    bodies: bool,
    lines: mpsc::Sender<io::Result<Bytes>>,
}

impl Export {
    fn run(&self) -> io::Result<()> {
        let mut view = TailView::new(&self.file);
        let mut index = Index::default();
        let mut reader = self.client.tails().open(&self.file.name)?;
        while let Some(head) = reader.next_head()? {
            let payload = reader.payload(&head)?;
            index.note(&head);
            let decoded = head.record().mutation();
            view.note(&head, decoded.as_ref().ok(), payload.is_ok());
            let mut op = match &decoded {
                Ok(mutation) => op_of(&head, mutation),
                Err(_) => OpView { kind: "unknown".into(), ..OpView::default() },
            };
            place(&mut op, &head);
            op.remark = remark(&head, decoded.is_err(), payload.is_err());
            if let Ok(Mutation::PutObject(put)) = &decoded {
                op.body = Some(self.body(&head, &put.object, payload.ok(), &index)?);
            } else if let Ok(Mutation::CompleteMultipartUpload(done)) = &decoded {
                op.body = Some(self.body(&head, &done.object, payload.ok(), &index)?);
            }
            self.send(&Line::Op(Box::new(op)))?;
        }
        view.damage = reader.damage().map(DamageView::from);
        view.damaged_bodies = self.client.tails().damaged_bodies(&self.file.name)?;
        self.send(&Line::End(Box::new(view)))
    }

    /// Sends the bytes of an object, as far as they are there.
    fn body(&self, head: &Head, object: &Object, payload: Option<Bytes>, index: &Index) -> io::Result<BodyView> {
        let (mut view, mut offset) = (BodyView::default(), 0);
        let mut send = |piece: Piece| {
            let (bytes, count) = match piece {
                Piece::Tail(bytes) => (bytes, &mut view.tail_bytes),
                Piece::Beside(bytes) => (bytes, &mut view.beside_bytes),
                Piece::Container(bytes) => (bytes, &mut view.container_bytes),
                Piece::Missing(len) => {
                    view.miss(offset, len);
                    offset += len;
                    // A client that is gone is found out here too.
                    return if self.lines.is_closed() { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) };
                }
            };
            *count += bytes.len() as u64;
            let piece = PieceView { seq: head.header.seq.0, offset, data: String::new() };
            offset += bytes.len() as u64;
            if !self.bodies {
                return if self.lines.is_closed() { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) };
            }
            self.send(&Line::Piece(PieceView { data: STANDARD.encode(&bytes), ..piece }))
        };
        if object.extents.is_empty() {
            // A small object's bytes came with its op.
            match payload.filter(|bytes| bytes.len() as u64 == object.len) {
                Some(bytes) if bytes.is_empty() => {}
                Some(bytes) => send(Piece::Tail(bytes))?,
                None => send(Piece::Missing(object.len))?,
            }
            return Ok(view);
        }
        let image = self.client.image(&self.file.name.origin);
        let container = |body: BodyId, number: u32| image?.view().chunk(body, number).ok();
        pieces((self.client.tails(), &self.file.name, index), head, object, &container, &mut send)?;
        Ok(view)
    }

    fn send(&self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.lines.blocking_send(Ok(text.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

fn place(op: &mut OpView, head: &Head) {
    let header = head.header;
    (op.seq, op.epoch, op.time_ms) = (header.seq.0, header.epoch.to_string(), header.time_ms);
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(header.time_ms) * 1_000_000);
    op.time = time.ok().and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default();
}

fn remark(head: &Head, undecoded: bool, damaged: bool) -> Option<String> {
    let remarks = [
        (!head.follows).then_some("it does not follow the record before it"),
        undecoded.then_some("its op is not understood"),
        damaged.then_some("its payload is damaged"),
    ];
    let remarks: Vec<&str> = remarks.into_iter().flatten().collect();
    (!remarks.is_empty()).then(|| remarks.join("; "))
}

/// What an op says, by kind. Lists of parts and secrets are left out.
fn op_of(head: &Head, mutation: &Mutation) -> OpView {
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
            body_id: Some(body_name(head.record().body_of(data))),
            chunk: Some(data.index),
            len: Some(u64::from(head.header.payload_len)),
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
