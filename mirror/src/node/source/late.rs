//! Writers who wait too long, or who will not be answered by what they wait for: they are told so. Called when time is
//! judged, and by whatever ends a source or its mirror's part in it.
//!
//! Always true: who has no place is refused without effect; who has one hears "outcome unknown", and is settled later.

use std::collections::VecDeque;

use lockstep_storage::id::Seq;

use super::Waiting;
use crate::client::Refusal;
use crate::event::Effect;
use crate::node::Context;
use crate::node::log::{Log, Side};

impl Log {
    /// What was given up through here is in the image, or will never be here.
    pub(in crate::node) fn settle_doubtful(&mut self, through: Seq, cx: &mut Context) {
        let Side::Source(source) = &mut self.side else { return };
        while let Some((_, ticket)) = source.doubtful.front().copied().filter(|(seq, _)| *seq <= through) {
            source.doubtful.pop_front();
            cx.emit(Effect::Settled { ticket });
        }
    }

    /// Answers "outcome unknown" to the writes that `which` picks: they may yet become visible.
    pub(in crate::node) fn give_up(&mut self, reason: &str, oldest_ms: u64, required_only: bool, cx: &mut Context) {
        let now_ms = cx.now.mono_ms;
        let Side::Source(source) = &mut self.side else { return };
        let mut kept = VecDeque::with_capacity(source.waiting.len());
        for waiting in source.waiting.drain(..) {
            let picked = !required_only || waiting.require.is_some();
            if picked && now_ms.saturating_sub(waiting.since_ms) >= oldest_ms {
                let Waiting { ticket, epoch, seq, .. } = waiting;
                cx.refuse(ticket, Refusal::Unknown { epoch, seq, reason: reason.into() });
                source.doubtful.push_back((seq, ticket));
            } else {
                kept.push_back(waiting);
            }
        }
        source.waiting = kept;
        source.doubtful.make_contiguous().sort_unstable_by_key(|(seq, _)| *seq);
        self.settle_doubtful(self.applied.seq, cx);
    }

    /// Refuses what was admitted and has no place yet: no effect.
    pub(in crate::node) fn refuse_submissions(&mut self, reason: &str, cx: &mut Context) {
        let Side::Source(source) = &mut self.side else { return };
        // The core's own begin an epoch: they wait for their turn.
        source.submissions.retain(|submission| {
            if let Some(ticket) = submission.ticket {
                cx.refuse(ticket, Refusal::Unavailable { reason: reason.into(), retry_after_s: 1 });
            }
            submission.ticket.is_none()
        });
    }

    /// No client waits without a limit for this node's own device or engine: those who have no place are refused without
    /// effect, those who have one hear "outcome unknown", as with a late mirror under `strict` (F47).
    pub(super) fn own_end_is_late(&mut self, cx: &mut Context) {
        let (now_ms, persisted) = (cx.now.mono_ms, self.persisted);
        let Side::Source(source) = &self.side else { return };
        // A late mirror is judged by its own limit first, and what follows from that may need the device.
        let link_ms = source.stream.as_ref().map_or(0, |stream| stream.plan.link_timeout.as_millis() as u64);
        let limit_ms = self.limits.write_timeout_ms.max(2 * link_ms);
        let is_late = |since_ms: u64| now_ms.saturating_sub(since_ms) >= limit_ms;
        let oldest = source.waiting.front().filter(|waiting| is_late(waiting.since_ms));
        let text = oldest.map(|waiting| {
            let what = if waiting.seq > persisted {
                "the NVRAM of this node did not persist"
            } else {
                "this node did not finish"
            };
            format!("{what} it in {limit_ms} ms")
        });
        if let Some(text) = text {
            self.give_up(&text, limit_ms, false, cx);
        }
        let Side::Source(source) = &mut self.side else { return };
        // The core's own begin an epoch: they wait for their turn.
        let first = source.submissions.iter().find(|submission| submission.ticket.is_some());
        if first.is_some_and(|submission| is_late(submission.since_ms)) {
            let reason = format!("the NVRAM of this node had no room for it in {limit_ms} ms");
            source.submissions.retain(|submission| match submission.ticket.filter(|_| is_late(submission.since_ms)) {
                Some(ticket) => {
                    cx.refuse(ticket, Refusal::Unavailable { reason: reason.clone(), retry_after_s: 1 });
                    false
                }
                None => true,
            });
        }
    }
}
