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
use lockstep_storage::op::{Mutation, Object};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::super::op::{BodyView, OpView};
use super::super::{Admin, AdminError, AdminResult};
use super::{DamageView, TailView};

/// Lines that wait for the client.
const LINES_MAX: usize = 4;

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
                Ok(mutation) => OpView::of(&head.record(), mutation),
                Err(_) => OpView::unknown(&head.header),
            };
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

fn remark(head: &Head, undecoded: bool, damaged: bool) -> Option<String> {
    let remarks = [
        (!head.follows).then_some("it does not follow the record before it"),
        undecoded.then_some("its op is not understood"),
        damaged.then_some("its payload is damaged"),
    ];
    let remarks: Vec<&str> = remarks.into_iter().flatten().collect();
    (!remarks.is_empty()).then(|| remarks.join("; "))
}
