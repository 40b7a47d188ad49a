//! What is kept of what happens: the trace that people read and two runs are compared by, and what the run has covered.

use std::fmt::Write;

use lockstep_mirror::client::Role;
use lockstep_mirror::event::{Effect, Event, Report};
use lockstep_mirror::message::Message;
use lockstep_mirror::node::{IN_SYNC_AT_LAST_CONTACT, PROVED};
use lockstep_mirror::note::Noted;
use lockstep_mirror::plan::Policy;
use lockstep_mirror::status::{OriginStatus, StreamState};
use lockstep_storage::id::Origin;

use super::World;
use crate::sim::coverage::Seen;
use crate::sim::describe;
use crate::sim::scenario::{Order, Site};
use crate::sim::topology::Pair;

/// So long, in milliseconds, writers wait for a segment at least where engines are slow.
const WAIT_MS: u64 = 50;

/// Could the stream be in sync, and waits for its link to stand?
fn held_off(status: &OriginStatus) -> bool {
    status.state == StreamState::CatchingUp && status.reason.contains("when its link has stood")
}

impl World {
    pub(super) fn trace_event(&mut self, site: Site, event: &Event) {
        let kind = match event {
            Event::Batch | Event::Idle => 0,
            Event::Submit { .. } => 1,
            Event::Command { .. } => 2,
            Event::Persisted { id } => 0x100 + id,
            Event::PersistFailed { .. } => 4,
            Event::Applied { at, .. } => 0x1_0000 + at.seq.0,
            Event::Flushed { progress, .. } => 0x2_0000 + progress.appended.seq.0,
            Event::Full { .. } => 7,
            Event::EngineFailed { .. } => 8,
            Event::Stuck { .. } => 12,
            Event::Fetched { records, .. } => 0x3_0000 + records.len() as u64,
            Event::Cut { at, .. } => 0x4_0000 + at.seq.0,
            Event::Baseline { .. } => 9,
            Event::FetchFailed { .. } => 10,
            Event::Repair { .. } => 11,
            Event::Connected { connection, .. } => 0x5_0000 + connection.0,
            Event::Disconnected { connection, .. } => 0x6_0000 + connection.0,
            Event::Received { connection, .. } => 0x7_0000 + connection.0,
        };
        self.trace.note([self.now, site.index() as u64, kind, 1], |line| {
            // Most idles do nothing: what they do is seen by its effects.
            if kind != 0 {
                let _infallible = write!(line, "{site:?} <- {}", describe::event(event));
            }
        });
    }

    pub(super) fn trace_effect(&mut self, site: Site, effect: &Effect) {
        let kind = match effect {
            Effect::Write { offset, .. } => 0x1_0000_0000 + offset,
            Effect::Persist { id } => 0x100 + id,
            Effect::Append { records, .. } => 0x1_0000 + records.len() as u64,
            Effect::Apply { through, .. } => 0x2_0000 + through.0,
            Effect::Flush { .. } => 5,
            Effect::Trim { through, .. } => 0x3_0000 + through.0,
            Effect::Collect { through, .. } => 0x4_0000 + through.0,
            Effect::Cut { last, .. } => 0x5_0000 + last.seq.0,
            Effect::Fetch { from, .. } => 0x6_0000 + from.0,
            Effect::Baseline { .. } => 19,
            Effect::Repair { .. } => 20,
            Effect::Connect { connection, .. } => 0x7_0000 + connection.0,
            Effect::Send { connection, .. } => 0x8_0000 + connection.0,
            Effect::Close { connection, .. } => 0x9_0000 + connection.0,
            Effect::Placed { seq, .. } => 0xa_0000 + seq.0,
            Effect::Done { result, .. } => 0xb_0000 + u64::from(result.is_ok()),
            Effect::Reply { result, .. } => 0xc_0000 + u64::from(result.is_ok()),
            Effect::Settled { ticket } => 0xd_0000 + ticket.0,
            Effect::Publish(_) => 16,
            Effect::Note { note, .. } => 0xe_0000 + note.what as u64,
            Effect::Stop { .. } => 18,
        };
        self.trace.note([self.now, site.index() as u64, kind, 2], |line| {
            let _infallible = write!(line, "{site:?} -> {}", describe::effect(effect));
        });
    }

    /// Counts what an effect tells.
    pub(super) fn cover_effect(&mut self, site: Site, effect: &Effect) {
        let seen = match effect {
            Effect::Fetch { origin, .. }
                if self.pair_of(origin).is_some_and(|pair| site == self.model.holder(pair)) =>
            {
                Seen::ReadBack
            }
            Effect::Cut { .. } => Seen::CutBack,
            Effect::Trim { .. } => Seen::Trimmed,
            Effect::Note { origin, note } => match note.what {
                Noted::RecordsRepaired => Seen::Repaired,
                Noted::ChunkRepaired => Seen::ChunkRepaired,
                Noted::ChunkUnrepaired => Seen::ChunkUnrepaired,
                Noted::EngineRefilled => Seen::FilledAnew,
                Noted::BacklogDropped => {
                    self.model.bounds_backlog(site, origin);
                    Seen::BacklogDropped
                }
                Noted::LinkFlapping => Seen::LinkFlapping,
                Noted::LinkSteady => Seen::LinkSteady,
                Noted::DeviceSlow => Seen::DeviceSlow,
                Noted::DeviceSteady => Seen::DeviceSteady,
                Noted::ClocksApart => Seen::ClocksApart,
                Noted::ClocksClose => Seen::ClocksClose,
                _ => return,
            },
            Effect::Publish(state) if state.role == Role::Fenced => Seen::Deposed,
            Effect::Send { message: Message::SyncDone { .. }, .. } => Seen::PointAtMirror,
            Effect::Send { origin, message: Message::Adopt { .. }, .. } => {
                self.adopts(site, origin, true);
                Seen::Adopted
            }
            Effect::Send { message: Message::HandOver { .. }, .. } => Seen::Offered,
            Effect::Send { message: Message::Refused { reason, .. }, .. } if reason.contains("are free") => {
                Seen::BaselineRefused
            }
            Effect::Send { origin, message: Message::Welcome(_), .. } if *origin == site.origin() => {
                Seen::WayBackLinked
            }
            Effect::Connect { origin, .. } => return self.adopts(site, origin, false),
            _ => return,
        };
        self.seen.note(seen);
    }

    fn adopts(&mut self, site: Site, origin: &Origin, adopting: bool) {
        if let Some(watch) = self.watched(site, origin) {
            watch.adopting = adopting;
        }
    }

    /// Counts what a source's stream has come to since the event before.
    pub(super) fn cover_status(&mut self, before: &OriginStatus, now: &OriginStatus) {
        let waits = now.segment_waits > before.segment_waits;
        let both = waits && self.another_waits(&now.origin);
        let point = now.consistency_point > before.consistency_point && now.state == StreamState::InSync;
        let silent = now.reason.contains("is silent") && !before.reason.contains("is silent");
        let changed = now.state != before.state;
        let in_sync = changed && now.state == StreamState::InSync && now.policy == Some(Policy::Async);
        let late = changed && now.policy == Some(Policy::Strict) && now.reason.contains("did not answer");
        for (seen, met) in [
            (Seen::SegmentWait, waits),
            (Seen::BothWait, both),
            (Seen::PointMirrored, point),
            (Seen::MirrorSilent, silent),
            (Seen::InSyncAsync, in_sync),
            (Seen::StrictLate, late),
            (Seen::BaselineNeeded, changed && now.state == StreamState::Baseline),
            (Seen::HeldOff, held_off(now) && !held_off(before)),
        ] {
            if met {
                self.seen.note(seen);
            }
        }
    }

    /// A source's writers wait for a segment: do another one's?
    fn another_waits(&mut self, origin: &Origin) -> bool {
        let (now, mut both) = (self.now, false);
        for (pair, waited) in self.topology.pairs().iter().zip(&mut self.waited) {
            if pair.origin() == *origin {
                *waited = Some(now);
            } else {
                both |= waited.is_some_and(|at| at + WAIT_MS > now);
            }
        }
        both
    }

    /// Counts what an operator is told.
    pub(super) fn cover_reply(&mut self, order: Order, result: &Result<Report, String>) {
        let promote = matches!(order, Order::Promote | Order::PromoteLossy);
        let seen = match (order, result) {
            (Order::Pause, Ok(_)) => Seen::Paused,
            (Order::Resume, Ok(_)) => Seen::Resumed,
            (Order::Alone, Ok(_)) => Seen::ResumedAlone,
            (Order::DryRun, Ok(_)) => Seen::DryRun,
            (Order::Shutdown, Ok(_)) => Seen::ShutDown,
            (Order::Rebuild | Order::RebuildLossy, Ok(_)) => Seen::RebuildOrdered,
            (Order::Rebuild, Err(_)) => Seen::RebuildRefused,
            (Order::Failback, Ok(_)) => Seen::HandedOver,
            (Order::Failback, Err(_)) => Seen::FailbackRefused,
            (Order::PromoteLossy, Ok(report)) if report.text.contains("again under epoch") => Seen::Reclaimed,
            (Order::Promote, Err(_)) => Seen::PromoteRefused,
            (_, Ok(report)) if promote => match report.verdict {
                Some(PROVED) => Seen::PromotedProved,
                Some(IN_SYNC_AT_LAST_CONTACT) => Seen::PromotedInSync,
                _ => Seen::PromotedWithLoss,
            },
            _ => return,
        };
        self.seen.note(seen);
    }

    /// Counts what a crash falls into.
    pub(super) fn cover_crash(&mut self, site: Site) {
        let Some(process) = &self.sites[site.index()].process else { return };
        let flushing = process.workers.iter().any(|worker| worker.flushing.is_some());
        let met = [(Seen::CrashInPersist, process.persisting), (Seen::CrashInFlush, flushing)];
        met.into_iter().filter(|(_, met)| *met).for_each(|(seen, _)| self.seen.note(seen));
        for pair in self.topology.pairs() {
            if pair.has(site) {
                self.cover_crash_of(site, *pair);
            }
        }
    }

    fn cover_crash_of(&mut self, site: Site, pair: Pair) {
        let origin = pair.origin();
        let mut orders = self.orders.iter().filter(|(_, _, of, _)| *of == pair);
        let promoting = orders
            .clone()
            .any(|(_, at, _, order)| *at == site && matches!(order, Order::Promote | Order::PromoteLossy));
        let failing_back = orders.any(|(.., order)| *order == Order::Failback);
        let other_down = self.boot(pair.other(site)).is_none();
        let unapplied = self.model.log(site, &origin).is_some_and(|log| log.applied < log.last().seq);
        let log = self.status(site, &origin);
        let (source, baseline) = log.map_or((false, false), |log| (log.role == Role::Source, log.baseline.is_some()));
        let Some(watch) = self.watched(site, &origin) else { return };
        let state = watch.status.as_ref().map(|status| status.state);
        let adopting = watch.adopting;
        for (seen, met) in [
            (if site == pair.home { Seen::SourceCrashed } else { Seen::DestinationCrashed }, true),
            (Seen::BothDown, other_down),
            (Seen::CrashBeforeApplied, unapplied),
            (Seen::CrashWhileUnsettled, state == Some(StreamState::Unsettled)),
            (Seen::CrashWhileCatchingUp, state == Some(StreamState::CatchingUp)),
            (Seen::CrashWhileClosing, state == Some(StreamState::Closing)),
            (Seen::CrashWhileOutOfSync, state == Some(StreamState::OutOfSync)),
            (Seen::CrashWhileAdopting, adopting),
            (Seen::CrashWhileGiving, source && baseline),
            (Seen::CrashWhileTaking, !source && baseline),
            (Seen::CrashWhilePromoting, promoting),
            (Seen::CrashWhileFailingBack, failing_back),
        ] {
            if met {
                self.seen.note(seen);
            }
        }
    }
}
