//! The operator's verbs: JSON in, the core's report out.
//!
//! A refusal of the core is 409 with its one sentence; nothing is decided here.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use http::StatusCode;
use lockstep_mirror::event::{Command, Report};
use lockstep_storage::id::Origin;
use serde::{Deserialize, Serialize};

use super::{Admin, AdminError, AdminResult, body_of, json};

/// What `POST /v1/sync` takes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncBody {
    /// Which origin; the node's own where it is missing.
    #[serde(default)]
    pub origin: Option<String>,
}

/// What `POST /v1/promote` takes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromoteBody {
    /// Which origin.
    pub origin: String,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
    /// Even where writes may be missing.
    #[serde(default)]
    pub accept_loss: bool,
}

/// What `POST /v1/failback` takes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailbackBody {
    /// Which origin.
    pub origin: String,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// What `POST /v1/rebuild` takes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RebuildBody {
    /// Which origin.
    pub origin: String,
    /// Even where records of it are here.
    #[serde(default)]
    pub accept_loss: bool,
}

/// What `POST /v1/pause` takes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PauseBody {
    /// Which origin.
    pub origin: String,
}

/// What `POST /v1/resume` takes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResumeBody {
    /// Which origin.
    pub origin: String,
    /// Without the peer.
    #[serde(default)]
    pub alone: bool,
}

/// What every verb answers with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportView {
    /// One or a few sentences.
    pub text: String,
    /// Where the origin stands then.
    pub epoch: Option<String>,
    /// Where the origin stands then.
    pub seq: Option<u64>,
    /// For promote: `proved`, `in_sync_at_last_contact`, `may_lack_writes`.
    pub verdict: Option<String>,
}

impl From<Report> for ReportView {
    fn from(report: Report) -> Self {
        Self {
            text: report.text,
            epoch: report.at.map(|at| at.epoch.to_string()),
            seq: report.at.map(|at| at.seq.0),
            verdict: report.verdict.map(str::to_owned),
        }
    }
}

pub(super) async fn sync(State(admin): State<Arc<Admin>>, body: Bytes) -> AdminResult {
    let body: SyncBody = body_of(&body)?;
    let origin = body.origin.as_deref().map(origin).transpose()?;
    give(&admin, Command::Sync { origin }).await
}

pub(super) async fn promote(State(admin): State<Arc<Admin>>, body: Bytes) -> AdminResult {
    let body: PromoteBody = body_of(&body)?;
    let origin = origin(&body.origin)?;
    give(&admin, Command::Promote { origin, dry_run: body.dry_run, accept_loss: body.accept_loss }).await
}

pub(super) async fn failback(State(admin): State<Arc<Admin>>, body: Bytes) -> AdminResult {
    let body: FailbackBody = body_of(&body)?;
    give(&admin, Command::Failback { origin: origin(&body.origin)?, dry_run: body.dry_run }).await
}

pub(super) async fn rebuild(State(admin): State<Arc<Admin>>, body: Bytes) -> AdminResult {
    let body: RebuildBody = body_of(&body)?;
    give(&admin, Command::Rebuild { origin: origin(&body.origin)?, accept_loss: body.accept_loss }).await
}

pub(super) async fn pause(State(admin): State<Arc<Admin>>, body: Bytes) -> AdminResult {
    let body: PauseBody = body_of(&body)?;
    give(&admin, Command::Pause { origin: origin(&body.origin)? }).await
}

pub(super) async fn resume(State(admin): State<Arc<Admin>>, body: Bytes) -> AdminResult {
    let body: ResumeBody = body_of(&body)?;
    give(&admin, Command::Resume { origin: origin(&body.origin)?, alone: body.alone }).await
}

/// An origin by its name.
pub(super) fn origin(name: &str) -> Result<Origin, AdminError> {
    Origin::new(name).map_err(|error| AdminError(StatusCode::BAD_REQUEST, error.to_string()))
}

async fn give(admin: &Admin, command: Command) -> AdminResult {
    tracing::info!(?command, "an operator asks");
    match admin.client.command(command).await {
        Ok(report) => Ok(json(StatusCode::OK, &ReportView::from(report))),
        Err(reason) => Err(AdminError(StatusCode::CONFLICT, reason)),
    }
}
