//! Consistency points: apply and flush through a committed seq, at both ends. Writers never wait for one.
//!
//! The source flushes its own image, then sends the synchronization request; the destination applies, flushes, and says
//! that it is done. Then both trim what neither needs. One is under way at a time.

use lockstep_storage::id::Seq;

use super::Context;
use super::log::{Log, Side};
use super::stream::Stream;
use crate::event::{Effect, Now, Ticket};
use crate::message::Message;

/// Time between consistency points of an origin without a mirror, in milliseconds.
const LOCAL_INTERVAL_MS: u64 = 10_000;

#[derive(Debug, Clone, Copy)]
struct Point {
    through: Seq,
    local: bool,
    requested: bool,
    mirrored: bool,
    /// The link was lost: it ends as a local one.
    abandoned: bool,
}

/// An origin's consistency points.
#[derive(Debug)]
pub(super) struct Points {
    /// The last one, at both ends where there are two.
    pub(super) last: Seq,
    /// When it was reached, milliseconds since 1970.
    pub(super) last_wall_ms: u64,
    next_ms: u64,
    current: Option<Point>,
    /// Operators who wait for one that holds everything that was committed when they asked.
    tickets: Vec<(Ticket, Seq)>,
}

impl Points {
    pub(super) fn new(now: Now) -> Self {
        Self {
            last: Seq::ZERO,
            last_wall_ms: 0,
            next_ms: now.mono_ms + LOCAL_INTERVAL_MS,
            current: None,
            tickets: Vec::new(),
        }
    }

    /// One has begun and is not done.
    pub(super) fn is_under_way(&self) -> bool {
        self.current.is_some()
    }

    /// The next one begins at the next tick.
    pub(super) fn due(&mut self, now: Now) {
        self.next_ms = now.mono_ms;
    }
}

impl Log {
    /// An operator wants one now.
    pub(super) fn sync(&mut self, ticket: Ticket, cx: &mut Context) {
        let (now, origin, committed) = (cx.now, self.origin.clone(), self.committed);
        let stuck = self.why_stuck();
        let Side::Source(source) = &mut self.side else {
            return cx.reply_error(ticket, format!("this node is not the source of {origin}"));
        };
        if let Some(reason) = stuck {
            return cx.reply_error(ticket, reason);
        }
        if let Some(stream) = &source.stream
            && !stream.is_linked()
        {
            return cx.reply_error(ticket, format!("the mirror of {origin} is not linked: {}", stream.reason));
        }
        source.points.tickets.push((ticket, committed));
        source.points.due(now);
        self.point_tick(cx);
    }

    /// Operators who wait for a consistency point are told why there will be none.
    pub(super) fn refuse_points(&mut self, reason: &str, cx: &mut Context) {
        if let Side::Source(source) = &mut self.side {
            for (ticket, _) in source.points.tickets.drain(..) {
                cx.reply_error(ticket, reason);
            }
        }
    }

    /// No more writes; what is admitted is settled, then a last consistency point.
    pub(super) fn shut_down(&mut self, cx: &mut Context) {
        let now = cx.now;
        match &mut self.side {
            Side::Source(source) => {
                source.stopping = true;
                source.points.due(now);
            }
            Side::Destination(_) => self.flush(cx),
        }
    }

    /// Nothing waits, and what is committed is at a consistency point.
    pub(super) fn is_quiet(&self) -> bool {
        match &self.side {
            Side::Source(source) => {
                let settled = source.is_idle() && source.points.current.is_none();
                settled && self.flushed.applied.seq >= self.committed
            }
            Side::Destination(_) => self.incoming.is_empty() && self.pending.is_empty(),
        }
    }

    pub(super) fn point_tick(&mut self, cx: &mut Context) {
        let (now, committed) = (cx.now, self.committed);
        let Side::Source(source) = &mut self.side else { return };
        let interval_ms = source.stream.as_ref().map_or(LOCAL_INTERVAL_MS, |s| s.plan.sync_interval.as_millis() as u64);
        let points = &mut source.points;
        let stop = source.stopping && committed > points.last;
        if points.current.is_none() && (now.mono_ms >= points.next_ms || stop) {
            points.next_ms = now.mono_ms + interval_ms.max(1);
            if committed > points.last || !points.tickets.is_empty() {
                points.current = Some(Point {
                    through: committed,
                    local: false,
                    requested: false,
                    mirrored: false,
                    abandoned: false,
                });
            }
        }
        self.point_progress(cx);
    }

    /// Flushes, requests, ends: as far as the current one may go.
    pub(super) fn point_progress(&mut self, cx: &mut Context) {
        let (applied, flushed) = (self.applied.seq, self.flushed.applied.seq);
        let Side::Source(source) = &mut self.side else { return };
        let up = source.stream.as_ref().and_then(Stream::up);
        let mirrored = source.stream.is_some();
        let Some(point) = &mut source.points.current else { return };
        if !point.local {
            if applied < point.through {
                return;
            }
            if flushed < point.through {
                return self.flush(cx);
            }
            point.local = true;
        }
        if !mirrored || point.mirrored || point.abandoned || (up.is_none() && !point.requested) {
            return self.point_done(cx);
        }
        if let Some(connection) = up
            && !point.requested
        {
            point.requested = true;
            let through = point.through;
            self.send(connection, Message::SyncRequest { through, flushed }, cx);
        }
    }

    /// The destination has applied and flushed through here.
    pub(super) fn peer_point(&mut self, through: Seq, cx: &mut Context) {
        let applied = self.applied.seq;
        if let Side::Source(source) = &mut self.side {
            if let Some(stream) = &mut source.stream {
                stream.peer.applied = stream.peer.applied.max(through.min(applied));
            }
            if let Some(point) = &mut source.points.current {
                point.mirrored |= point.requested && point.through == through;
            }
        }
        self.point_progress(cx);
    }

    /// The link is gone: the destination will not answer for the current one.
    pub(super) fn abandon_point(&mut self, cx: &mut Context) {
        if let Side::Source(source) = &mut self.side
            && let Some(point) = &mut source.points.current
        {
            point.abandoned = true;
            self.point_progress(cx);
        }
    }

    fn point_done(&mut self, cx: &mut Context) {
        let (flushed, wall_ms, origin) = (self.flushed.applied.seq, cx.now.wall_ms, self.origin.clone());
        let Side::Source(source) = &mut self.side else { return };
        let Some(point) = source.points.current.take() else { return };
        let whole = point.mirrored || source.stream.is_none();
        if whole {
            source.points.last = point.through;
            source.points.last_wall_ms = wall_ms;
            cx.store.change(&origin, |entry| entry.consistency_point = point.through);
        }
        let asked = std::mem::take(&mut source.points.tickets);
        let (tickets, later): (Vec<_>, Vec<_>) = asked.into_iter().partition(|(_, asked)| *asked <= point.through);
        source.points.tickets = later;
        if !source.points.tickets.is_empty() {
            source.points.due(cx.now);
        }
        for (ticket, _) in tickets {
            if whole {
                let report = self.report(format!("consistency point at {}", point.through), cx);
                cx.emit(Effect::Reply { ticket, result: Ok(report) });
            } else {
                cx.reply_error(
                    ticket,
                    format!("{origin} is flushed here through {}, the mirror did not answer", point.through),
                );
            }
        }
        self.trim(self.trimmable(flushed), cx);
        let trimmed = self.trimmed;
        if let Some(stream) = self.stream() {
            stream.backlog.pass(trimmed);
        }
        self.publish(cx);
        self.failback_progress(cx);
    }
}
