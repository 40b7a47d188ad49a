//! What the core shows: status, and answers to commands.

use lockstep_storage::id::Seq;

use super::destination::Destination;
use super::log::{Log, Side};
use super::source::Source;
use super::{Context, Node};
use crate::event::{Now, Report};
use crate::status::{OriginStatus, Status, StreamState};

impl Node {
    /// The node at this moment. Figures of the device are the runtime's to add.
    #[must_use]
    pub fn status(&self, now: Now) -> Status {
        Status {
            node: self.name.clone(),
            incarnation: self.store.superblock().incarnation,
            persist_class: "",
            origins: self.logs.iter().map(|log| log.status(self, now)).collect(),
            batches: 0,
            batch_records: 0,
            batch_bytes: 0,
            persist_us: 0,
            device: self.device.show(self.persists.oldest_ms(), now.mono_ms, self.slow_persist_ms),
        }
    }

    pub(super) fn own_report(&self, text: &str) -> Report {
        let own = self.logs.iter().find(|log| log.origin == self.name);
        Report { text: text.into(), at: own.map(|log| log.last), verdict: None }
    }
}

impl Log {
    pub(super) fn report(&self, text: String, _cx: &Context) -> Report {
        Report { text, at: Some(self.last), verdict: None }
    }

    fn status(&self, node: &Node, now: Now) -> OriginStatus {
        let entry = node.store.entry(&self.origin);
        let mut status = OriginStatus {
            origin: self.origin.clone(),
            role: self.role(),
            epoch: entry.epoch(),
            state: self.state(entry.in_sync),
            reason: "no mirror".into(),
            alone: false,
            peer: None,
            policy: None,
            last: self.last.seq,
            persisted: self.persisted,
            committed: self.committed,
            applied: self.applied.seq,
            flushed: self.flushed.applied.seq,
            peer_persisted: Seq::ZERO,
            peer_applied: Seq::ZERO,
            consistency_point: entry.consistency_point,
            consistency_point_ms: 0,
            behind_bytes: 0,
            behind_ms: 0,
            unapplied_ms: 0,
            last_contact_ms: 0,
            degraded_acks: 0,
            mirrored_acks: 0,
            connects: 0,
            linked: false,
            link_losses: self.watch.flaps.total,
            flapping: self.watch.flaps.is_flapping(),
            state_changes: self.watch.changes,
            skew_ms: self.skew.ms(),
            segments: self.partition.counts(),
            segment_len: self.partition.extent().segment_len,
            segment_waits: self.segment_waits,
            full: self.full,
            stuck: self.stuck.clone(),
            trimmed: self.trimmed,
            baseline: None,
            rebuilding: entry.rebuild,
            repaired: self.repairs.done,
            unrepaired: self.repairs.failed,
        };
        match &self.side {
            Side::Source(source) => source.show(&mut status, now),
            Side::Destination(destination) => {
                destination.show(&mut status, now);
                status.peer.clone_from(&self.peer);
            }
        }
        status
    }
}

impl Source {
    fn show(&self, status: &mut OriginStatus, now: Now) {
        status.consistency_point_ms = self.points.last_wall_ms;
        status.degraded_acks = self.degraded_acks;
        status.mirrored_acks = self.mirrored_acks;
        let Some(stream) = &self.stream else { return };
        status.linked = stream.stands();
        status.reason.clone_from(&stream.reason);
        status.alone = stream.alone;
        status.peer = Some(stream.plan.destination.clone());
        status.policy = Some(stream.plan.policy);
        status.peer_persisted = stream.peer.persisted;
        status.peer_applied = stream.peer.applied;
        status.behind_bytes = stream.backlog.bytes();
        status.behind_ms = stream.unacked.oldest_ms(now.mono_ms);
        status.last_contact_ms = stream.last_contact_wall_ms;
        status.connects = stream.connects;
        status.baseline = stream.giving.as_ref().and_then(|giving| giving.progress(now.mono_ms));
    }
}

impl Destination {
    /// The stream's state here, where the in-sync mark stands or does not.
    pub(super) fn state(&self, in_sync: bool) -> StreamState {
        match (self.is_open(), in_sync) {
            _ if self.lost.is_some() => StreamState::Lost,
            _ if self.taking.is_some() => StreamState::Baseline,
            _ if self.damaged.is_some() => StreamState::Lost,
            _ if self.fenced => StreamState::Fenced,
            (true, true) => StreamState::InSync,
            (true, false) => StreamState::CatchingUp,
            (false, true) => StreamState::Unsettled,
            (false, false) => StreamState::OutOfSync,
        }
    }

    fn show(&self, status: &mut OriginStatus, now: Now) {
        status.linked = self.stands();
        status.reason.clone_from(&self.reason);
        status.peer_persisted = self.source_committed();
        status.unapplied_ms = self.unapplied.oldest_ms(now.mono_ms);
        status.last_contact_ms = self.last_contact.map_or(0, |contact| contact.wall_ms);
        status.connects = self.connects;
        status.baseline = self.taking.as_ref().and_then(|taking| taking.progress(now.mono_ms));
    }
}
