//! The state of the node for operators: one structure, as JSON for scripts and as text for people.
//!
//! The structure is the stable form of `mirror::status::Status`; the command line reads it back from the JSON.

use std::fmt::Write;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use lockstep_mirror::client::Role;
use lockstep_mirror::plan::Policy;
use lockstep_mirror::status::{BaselineProgress, DeviceStatus, OriginStatus, Status};
use lockstep_mirror::tail::TailFile;
use serde::{Deserialize, Serialize};

use super::{Admin, json, wall_ms};
use crate::config::units::approximate;
use crate::hook::{HookHandle, HookRun};

macro_rules! view {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $kind:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        pub struct $name { $($(#[$field_doc])* pub $field: $kind,)* }
    )*};
}

view! {
    /// The node.
    NodeView {
        /// Its name.
        node: String,
        /// Version of the program.
        version: String,
        /// Seconds since it started.
        uptime_s: u64,
        /// Counts its NVRAM regions.
        incarnation: u64,
        /// `device` or `memory`.
        persist_class: String,
        /// Batches persisted since it started.
        batches: u64,
        /// Records in them.
        batch_records: u64,
        /// Bytes in them.
        batch_bytes: u64,
        /// Microseconds that their persists took, added up.
        persist_us: u64,
        /// How the log device does.
        #[serde(default)]
        device: DeviceView,
        /// Its own origin first.
        origins: Vec<OriginView>,
        /// What deposed sources had, as files: see [`super::tail`].
        #[serde(default)]
        tails: Vec<TailFileView>,
        /// The last run of the hook of `[failover] on_change` since the node started.
        #[serde(default)]
        hook: Option<HookView>,
    }

    /// How the log device does.
    #[derive(Default)]
    DeviceView {
        /// Persists have been late for a while.
        slow: bool,
        /// For how long, in milliseconds.
        slow_ms: u64,
        /// Times that it became slow.
        slow_times: u64,
        /// The longest persist since then, in milliseconds.
        worst_ms: u64,
        /// How long the oldest persist under way waits, in milliseconds.
        waits_ms: u64,
        /// It waits so long that nobody is answered here.
        stalled: bool,
    }

    /// A tail that was not looked into.
    TailFileView {
        /// Whose records.
        origin: String,
        /// The epoch in which the histories parted.
        epoch: String,
        /// Length in bytes.
        bytes: u64,
        /// When it was set aside, milliseconds since 1970.
        set_aside_ms: u64,
    }

    /// A run of the hook.
    HookView {
        /// The origin that it was told of.
        origin: String,
        /// The role that it was told: `source`, `destination` or `fenced`.
        role: String,
        /// The epoch that it was told.
        epoch: String,
        /// The seq that it was told.
        seq: u64,
        /// Milliseconds since it ended.
        ended_age_ms: u64,
        /// Did it end well? If not, it is tried again while the role is current.
        good: bool,
        /// How it ended.
        outcome: String,
        /// How many times the same was tried so far.
        tries: u32,
    }

    /// An origin at the node.
    OriginView {
        /// Its name.
        origin: String,
        /// `source`, `destination` or `fenced`.
        role: String,
        /// The epoch that the node writes or accepts.
        epoch: String,
        /// State of its stream: `alone`, `unsettled`, `out_of_sync`, `catching_up`, `closing`, `in_sync`, `paused`,
        /// `baseline`, `lost`, `refused`, `fenced`.
        state: String,
        /// Why.
        reason: String,
        /// The other node.
        peer: Option<String>,
        /// `strict`, `sync` or `async`.
        policy: Option<String>,
        /// Last record here.
        last_seq: u64,
        /// Persisted here.
        persisted_seq: u64,
        /// Committed.
        committed_seq: u64,
        /// Applied here.
        applied_seq: u64,
        /// Durable in the engine here.
        flushed_seq: u64,
        /// Persisted at the peer.
        peer_persisted_seq: u64,
        /// Applied at the peer.
        peer_applied_seq: u64,
        /// Last consistency point.
        consistency_point_seq: u64,
        /// Its age in milliseconds; none if there was none since the node started.
        consistency_point_age_ms: Option<u64>,
        /// Bytes that the peer has not persisted.
        behind_bytes: u64,
        /// Age of the oldest of them, in milliseconds.
        behind_ms: u64,
        /// Age of the oldest record not applied, in milliseconds.
        unapplied_ms: u64,
        /// Age of the last message from the peer, in milliseconds; none if there was none since the node started.
        last_contact_age_ms: Option<u64>,
        /// Writes answered that only this node had.
        degraded_acks: u64,
        /// Writes answered that the peer had.
        mirrored_acks: u64,
        /// Connections made.
        connects: u64,
        /// The link stands.
        #[serde(default)]
        linked: bool,
        /// Times that it stood and was lost.
        #[serde(default)]
        link_losses: u64,
        /// It comes and goes.
        #[serde(default)]
        flapping: bool,
        /// Changes of the state.
        #[serde(default)]
        state_changes: u64,
        /// The peer's clock minus this node's, in milliseconds; none before it was measured.
        #[serde(default)]
        skew_ms: Option<i64>,
        /// NVRAM segments free.
        segments_free: u32,
        /// NVRAM segments active.
        segments_active: u32,
        /// NVRAM segments sealed.
        segments_sealed: u32,
        /// Bytes of a segment.
        segment_bytes: u64,
        /// Times that writers waited for a segment.
        segment_waits: u64,
        /// Has the engine's disk too little space for what this node is for the origin?
        disk_full: bool,
        /// The record that cannot be applied; none where all can.
        #[serde(default)]
        stuck_seq: Option<u64>,
        /// Why it cannot.
        #[serde(default)]
        stuck_reason: Option<String>,
        /// Records up to here are gone from the container.
        trimmed_seq: u64,
        /// The baseline that is given or taken.
        baseline: Option<BaselineView>,
        /// What is here is to be replaced by a baseline, and that has not come yet.
        rebuilding: bool,
        /// Damaged chunks that got their bytes from the peer.
        chunks_repaired: u64,
        /// Damaged chunks that could not be had from the peer when they were asked for.
        chunks_unrepaired: u64,
    }

    /// How far a baseline is.
    BaselineView {
        /// The record whose image it is.
        at_seq: u64,
        /// About how many bytes are over.
        bytes: u64,
        /// About how many it is in all.
        total_bytes: u64,
        /// Since it began on this connection, in milliseconds.
        ms: u64,
        /// About how long it will take, in milliseconds; none before anything is over.
        left_ms: Option<u64>,
    }
}

/// A role in one word.
#[must_use]
pub fn role_name(role: Role) -> &'static str {
    role.as_str()
}

/// A policy in one word.
#[must_use]
pub fn policy_name(policy: Policy) -> &'static str {
    match policy {
        Policy::Strict => "strict",
        Policy::Sync => "sync",
        Policy::Async => "async",
    }
}

impl NodeView {
    /// The view of a status at `now_ms`, milliseconds since 1970.
    #[must_use]
    pub fn new(status: &Status, uptime_s: u64, now_ms: u64) -> Self {
        Self {
            node: status.node.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s,
            incarnation: status.incarnation,
            persist_class: status.persist_class.to_owned(),
            batches: status.batches,
            batch_records: status.batch_records,
            batch_bytes: status.batch_bytes,
            persist_us: status.persist_us,
            device: DeviceView::new(&status.device),
            origins: status.origins.iter().map(|origin| OriginView::new(origin, now_ms)).collect(),
            tails: Vec::new(),
            hook: None,
        }
    }

    /// The same with these tails.
    #[must_use]
    pub fn with_tails(mut self, tails: &[TailFile]) -> Self {
        let view = |tail: &TailFile| TailFileView {
            origin: tail.name.origin.to_string(),
            epoch: tail.name.epoch().to_owned(),
            bytes: tail.bytes,
            set_aside_ms: tail.set_aside_ms,
        };
        self.tails = tails.iter().map(view).collect();
        self
    }

    /// The same with the hook's last run, at `now_ms`, milliseconds since 1970.
    #[must_use]
    pub fn with_hook(mut self, last: Option<HookRun>, now_ms: u64) -> Self {
        self.hook = last.map(|run| HookView {
            origin: run.change.origin.to_string(),
            role: role_name(run.change.role).to_owned(),
            epoch: run.change.epoch.to_string(),
            seq: run.change.seq.0,
            ended_age_ms: now_ms.saturating_sub(run.ended_ms),
            good: run.good,
            outcome: run.outcome,
            tries: run.tries,
        });
        self
    }

    /// As text for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = format!(
            "node {}   version {}   up {} s   NVRAM persist class {}\n",
            self.node, self.version, self.uptime_s, self.persist_class
        );
        // Writing to a String cannot fail.
        if self.device.slow {
            let DeviceView { slow_ms, worst_ms, .. } = self.device;
            let _ = writeln!(out, "NVRAM SLOW for {} s: a persist took up to {worst_ms} ms", slow_ms / 1000);
        }
        for origin in &self.origins {
            origin.text(&mut out);
        }
        if !self.tails.is_empty() || self.hook.is_some() {
            out.push('\n');
        }
        if !self.tails.is_empty() {
            let bytes = approximate(self.tails.iter().map(|tail| tail.bytes).sum());
            let _ = writeln!(out, "tails   {} set aside, {bytes}: see `lockstep tail list`", self.tails.len());
        }
        if let Some(hook) = &self.hook {
            let HookView { origin, role, epoch, seq, outcome, tries, .. } = hook;
            let again = if hook.good { String::new() } else { format!(", try {tries}") };
            let ago = hook.ended_age_ms / 1000;
            let _ = writeln!(out, "hook    {origin} {role} ({epoch}, seq {seq}): {outcome} {ago} s ago{again}");
        }
        out
    }
}

impl DeviceView {
    fn new(device: &DeviceStatus) -> Self {
        let DeviceStatus { slow, slow_ms, slow_times, worst_ms, waits_ms, stalled } = *device;
        Self { slow, slow_ms, slow_times, worst_ms, waits_ms, stalled }
    }
}

impl OriginView {
    fn new(origin: &OriginStatus, now_ms: u64) -> Self {
        let age = |then_ms: u64| (then_ms > 0).then(|| now_ms.saturating_sub(then_ms));
        Self {
            origin: origin.origin.to_string(),
            role: role_name(origin.role).to_owned(),
            epoch: origin.epoch.to_string(),
            state: origin.state.to_string(),
            reason: origin.reason.clone(),
            peer: origin.peer.as_ref().map(ToString::to_string),
            policy: origin.policy.map(|policy| policy_name(policy).to_owned()),
            last_seq: origin.last.0,
            persisted_seq: origin.persisted.0,
            committed_seq: origin.committed.0,
            applied_seq: origin.applied.0,
            flushed_seq: origin.flushed.0,
            peer_persisted_seq: origin.peer_persisted.0,
            peer_applied_seq: origin.peer_applied.0,
            consistency_point_seq: origin.consistency_point.0,
            consistency_point_age_ms: age(origin.consistency_point_ms),
            behind_bytes: origin.behind_bytes,
            behind_ms: origin.behind_ms,
            unapplied_ms: origin.unapplied_ms,
            last_contact_age_ms: age(origin.last_contact_ms),
            degraded_acks: origin.degraded_acks,
            mirrored_acks: origin.mirrored_acks,
            connects: origin.connects,
            linked: origin.linked,
            link_losses: origin.link_losses,
            flapping: origin.flapping,
            state_changes: origin.state_changes,
            skew_ms: origin.skew_ms,
            segments_free: origin.segments.0,
            segments_active: origin.segments.1,
            segments_sealed: origin.segments.2,
            segment_bytes: origin.segment_len,
            segment_waits: origin.segment_waits,
            disk_full: origin.full,
            stuck_seq: origin.stuck.as_ref().map(|(seq, _)| seq.0),
            stuck_reason: origin.stuck.as_ref().map(|(_, reason)| reason.clone()),
            trimmed_seq: origin.trimmed.0,
            baseline: origin.baseline.map(|baseline| BaselineView::new(&baseline)),
            rebuilding: origin.rebuilding,
            chunks_repaired: origin.repaired,
            chunks_unrepaired: origin.unrepaired,
        }
    }

    fn text(&self, out: &mut String) {
        let seconds = |ms: u64| format!("{}.{} s", ms / 1000, ms / 100 % 10);
        let ago = |age: Option<u64>| age.map_or_else(|| "none yet".to_owned(), |ms| format!("{} ago", seconds(ms)));
        let peer = self.peer.as_deref().map(|peer| format!("   peer {peer}")).unwrap_or_default();
        let policy = self.policy.as_deref().map(|policy| format!("   policy {policy}")).unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = writeln!(out, "\norigin {}   role {}   epoch {}{peer}{policy}", self.origin, self.role, self.epoch);
        let _ = writeln!(out, "  state              {}{}", self.state, reason(&self.reason));
        let _ = writeln!(
            out,
            "  seq                last {}   persisted {}   committed {}   applied {}   flushed {}",
            self.last_seq, self.persisted_seq, self.committed_seq, self.applied_seq, self.flushed_seq
        );
        if self.peer.is_some() {
            let _ = writeln!(
                out,
                "  at the peer        persisted {}   applied {}   last contact {}",
                self.peer_persisted_seq,
                self.peer_applied_seq,
                ago(self.last_contact_age_ms)
            );
            let _ = writeln!(
                out,
                "  not yet durable    {} in {}   not yet applied for {}",
                approximate(self.behind_bytes),
                seconds(self.behind_ms),
                seconds(self.unapplied_ms)
            );
            let _ =
                writeln!(out, "  answers            mirrored {}   degraded {}", self.mirrored_acks, self.degraded_acks);
            let _ = writeln!(
                out,
                "  link               {}, lost {} times{}   clock of the peer {}",
                if self.linked { "up" } else { "down" },
                self.link_losses,
                if self.flapping { "   FLAPPING" } else { "" },
                self.skew_ms.map_or_else(|| "not known".to_owned(), |ms| format!("{ms:+} ms"))
            );
        }
        if let (Some(seq), Some(reason)) = (self.stuck_seq, &self.stuck_reason) {
            let _ = writeln!(out, "  STUCK              record {seq} cannot be applied: {reason}");
        }
        if let Some(baseline) = &self.baseline {
            baseline.text(out);
        }
        if self.chunks_repaired + self.chunks_unrepaired > 0 {
            let (repaired, not) = (self.chunks_repaired, self.chunks_unrepaired);
            let _ = writeln!(out, "  damaged chunks     repaired {repaired}   not repaired {not}");
        }
        let _ = writeln!(
            out,
            "  consistency point  {} ({})",
            self.consistency_point_seq,
            ago(self.consistency_point_age_ms)
        );
        let _ = writeln!(
            out,
            "  NVRAM              {} free, {} active, {} sealed segments of {}   waits {}{}",
            self.segments_free,
            self.segments_active,
            self.segments_sealed,
            approximate(self.segment_bytes),
            self.segment_waits,
            if self.disk_full { "   DISK FULL" } else { "" }
        );
    }
}

impl BaselineView {
    fn new(baseline: &BaselineProgress) -> Self {
        let BaselineProgress { at, have, bytes, total, ms } = *baseline;
        // The total is an estimate: what is over may pass it.
        let left = total.saturating_sub(have + bytes);
        let left_ms = (bytes > 0 && ms > 0).then(|| left.saturating_mul(ms) / bytes);
        Self { at_seq: at.0, bytes: have + bytes, total_bytes: total, ms, left_ms }
    }

    fn text(&self, out: &mut String) {
        let percent = (100 * self.bytes).checked_div(self.total_bytes).unwrap_or(0).min(100);
        let left = self.left_ms.map(|ms| format!("   about {} s to go", ms.div_ceil(1000))).unwrap_or_default();
        let _ = writeln!(
            out,
            "  baseline           at {}   {} of about {} ({percent} %) in {} s{left}",
            self.at_seq,
            approximate(self.bytes),
            approximate(self.total_bytes),
            self.ms / 1000
        );
    }
}

fn reason(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" ({text})") }
}

pub(super) async fn get_status(State(admin): State<Arc<Admin>>) -> Response {
    let now_ms = wall_ms();
    let view = NodeView::new(&admin.client.status(), admin.started.elapsed().as_secs(), now_ms);
    let tails = admin.client.tails().clone();
    // A directory that cannot be read is said by `tail list`; the rest of the status is wanted all the same.
    let tails = tokio::task::spawn_blocking(move || tails.list()).await;
    let tails = tails.ok().and_then(Result::ok).unwrap_or_default();
    let last = admin.hook.get().and_then(HookHandle::last);
    json(StatusCode::OK, &view.with_tails(&tails).with_hook(last, now_ms))
}

#[cfg(test)]
pub(super) mod samples;
