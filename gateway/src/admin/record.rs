//! `record`: one record as the container holds it, for an operator whose node says that it cannot be applied (F42). What can be
//! read of it is shown, and what is wrong with it.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use lockstep_storage::id::{Origin, Seq};
use lockstep_storage::image::{ImageError, Stored, View};
use lockstep_storage::op::Mutation;
use lockstep_storage::record::HEADER_LEN;
use serde::{Deserialize, Serialize};

use super::op::OpView;
use super::{Admin, AdminError, AdminResult, json, query_value, read};

/// A record of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordView {
    /// Whose.
    pub origin: String,
    /// Its place.
    pub seq: u64,
    /// Bytes that the container holds of it; of a chunk without its payload.
    pub stored_bytes: u64,
    /// Is its effect in the image?
    pub applied: bool,
    /// What is wrong with it; none where it can be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
    /// What it says, as far as it can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op: Option<OpView>,
    /// Where it cannot be read: the bytes of its header, in Base64. Those of its op may be a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
}

impl RecordView {
    /// What a view holds of a record; none where it was trimmed or has not come.
    fn look(view: &View, origin: &Origin, seq: Seq) -> Result<Option<Self>, ImageError> {
        let Some(Stored { bytes: stored, record }) = view.stored(seq)? else { return Ok(None) };
        let mut shown = Self {
            origin: origin.to_string(),
            seq: seq.0,
            stored_bytes: stored.len() as u64,
            applied: view.progress()?.applied.seq >= seq,
            ..Self::default()
        };
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                shown.damage = Some(error.to_string());
                shown.header = Some(STANDARD.encode(&stored[..stored.len().min(HEADER_LEN)]));
                return Ok(Some(shown));
            }
        };
        match record.mutation() {
            Ok(mutation) => {
                shown.op = Some(OpView::of(&record, &mutation));
                if let Mutation::Data(data) = &mutation
                    && !shown.applied
                {
                    shown.damage = view.chunk(record.body_of(data), data.index).err().map(|error| error.to_string());
                }
            }
            Err(error) => {
                shown.op = Some(OpView::unknown(&record.header));
                shown.damage = Some(error.to_string());
            }
        }
        Ok(Some(shown))
    }
}

pub(super) async fn record(State(admin): State<Arc<Admin>>, RawQuery(query): RawQuery) -> AdminResult {
    let wrong = |reason: &str| AdminError(StatusCode::BAD_REQUEST, reason.to_owned());
    let origin = query_value(query.as_deref(), "origin").and_then(|name| Origin::new(&name).ok());
    let origin = origin.ok_or_else(|| wrong("origin=NAME is needed"))?;
    let seq = query_value(query.as_deref(), "seq").and_then(|text| text.parse().ok()).map(Seq);
    let seq = seq.ok_or_else(|| wrong("seq=NUMBER is needed"))?;
    let name = origin.clone();
    let found = read(&admin, &origin, move |view| {
        let progress = view.progress()?;
        Ok((RecordView::look(view, &name, seq)?, progress))
    });
    let (found, progress) = found.await?;
    let missing = || {
        let (from, through) = (progress.trimmed.next(), progress.appended.seq);
        let text = format!("record {seq} of {origin} is not here: the container has those from {from} to {through}");
        AdminError(StatusCode::NOT_FOUND, text)
    };
    Ok(json(StatusCode::OK, &found.ok_or_else(missing)?))
}
