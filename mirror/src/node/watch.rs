//! What an operator sees of an origin at this node, looked at after every event: so each change of role, state and link is
//! told once, in one line, whichever way it came about. While the link flaps, changes are only told when they last (F16).
//!
//! What is noted elsewhere in the core passes [`Log::note`] here, which knows what has been said already.

use std::collections::BTreeMap;

use super::Context;
use super::flaps::Flaps;
use super::log::{Log, Side};
use crate::client::Role;
use crate::event::Effect;
use crate::note::{Note, Noted};
use crate::plan::Policy;
use crate::status::StreamState;

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    role: Role,
    state: StreamState,
    /// The link stands, and both ends hold one history or a baseline is on its way.
    linked: bool,
    /// Writes are answered alone that should have a mirror.
    degraded: bool,
}

/// What was seen and what was told of it.
#[derive(Debug, Default)]
pub(super) struct Watch {
    seen: Option<Look>,
    told: Option<Look>,
    /// When what is seen changed last, and since when the link stands, in milliseconds.
    changed_ms: u64,
    linked_ms: u64,
    /// When writes began to be answered alone, and how many had been.
    degraded_from: (u64, u64),
    /// Changes of the stream's state in this process.
    pub(super) changes: u64,
    pub(super) flaps: Flaps,
    /// Why the link was lost last.
    pub(super) link_reason: String,
    /// Why the role is about to change.
    pub(super) role_reason: Option<String>,
    /// What may recur with every attempt to connect: what was said of it last, and when.
    said: BTreeMap<Noted, (String, u64)>,
}

/// Does it come and go with the link? These states are not told while that flaps.
fn follows_the_link(state: StreamState) -> bool {
    match state {
        StreamState::Unsettled
        | StreamState::OutOfSync
        | StreamState::CatchingUp
        | StreamState::Closing
        | StreamState::InSync
        | StreamState::Baseline => true,
        StreamState::Alone
        | StreamState::Paused
        | StreamState::Lost
        | StreamState::Refused
        | StreamState::Fenced
        | StreamState::HandingOver => false,
    }
}

/// May it come with every attempt to connect?
fn recurs(what: Noted) -> bool {
    matches!(
        what,
        Noted::StreamRefused
            | Noted::ProtocolError
            | Noted::MirrorLostRecords
            | Noted::AdoptBegun
            | Noted::BaselineOffered
            | Noted::BaselineBegun
            | Noted::BaselineResumed
            | Noted::BaselineRefused
    )
}

impl Watch {
    /// Was that said, and is it too early to say it again?
    fn is_said(&mut self, note: &Note, again_ms: u64, now_ms: u64) -> bool {
        let reason = note.reason.clone().unwrap_or_default();
        let said = self.said.get(&note.what);
        if said.is_some_and(|(before, at)| *before == reason || now_ms.saturating_sub(*at) < again_ms) {
            return true;
        }
        self.said.insert(note.what, (reason, now_ms));
        false
    }
}

impl Log {
    /// One line in the log of events.
    pub(super) fn note(&mut self, note: Note, cx: &mut Context) {
        if recurs(note.what) {
            if self.watch.flaps.is_flapping() {
                self.watch.flaps.untold += 1;
                return;
            }
            if self.watch.is_said(&note, self.limits.flap_window_ms, cx.now.mono_ms) {
                return;
            }
        }
        let note = Note { peer: self.peer.clone(), role: Some(self.role()), ..note };
        cx.emit(Effect::Note { origin: self.origin.clone(), note: Box::new(note) });
    }

    /// The stream's state at this node, where the in-sync mark stands or does not.
    pub(super) fn state(&self, in_sync: bool) -> StreamState {
        match &self.side {
            Side::Source(source) => source.stream.as_ref().map_or(StreamState::Alone, |stream| stream.state),
            Side::Destination(destination) => destination.state(in_sync),
        }
    }

    fn look(&self, cx: &Context) -> Look {
        let (linked, degraded) = match &self.side {
            Side::Source(source) => source.stream.as_ref().map_or((false, false), |stream| {
                let mirrored = stream.plan.policy != Policy::Async;
                (stream.stands(), mirrored && stream.alone && !source.is_fenced())
            }),
            Side::Destination(destination) => (destination.stands(), false),
        };
        let state = self.state(cx.store.entry(&self.origin).in_sync);
        Look { role: self.role(), state, linked, degraded }
    }

    /// What is seen now is held against what was seen before the event, and told.
    pub(super) fn watch(&mut self, cx: &mut Context) {
        let (look, now_ms, limits) = (self.look(cx), cx.now.mono_ms, self.limits);
        let (Some(seen), Some(told)) = (self.watch.seen, self.watch.told) else {
            return self.opened(look, cx);
        };
        let flapped = self.watch.flaps.is_flapping();
        let lost = seen.linked && !look.linked && seen.role == look.role;
        let flaps = if lost { self.watch.flaps.lost(&limits, now_ms) } else { None };
        if look != seen {
            self.watch.changed_ms = now_ms;
            self.watch.changes += u64::from(look.state != seen.state);
            self.watch.flaps.untold += u64::from(flapped);
        }
        if look.linked && !seen.linked {
            self.watch.linked_ms = now_ms;
            self.watch.said.clear();
        }
        self.watch.seen = Some(look);
        if look != told {
            let matters = look.role != told.role || ![look, told].iter().all(|l| follows_the_link(l.state));
            // As long as the losses of a link that just flaps are apart.
            let lasts_ms = limits.flap_window_ms / limits.flap_losses as u64;
            let lasts = now_ms.saturating_sub(self.watch.changed_ms) >= lasts_ms;
            if !flapped || matters || lasts {
                self.tell(told, look, cx);
            }
        }
        if let Some(losses) = flaps {
            let text = "the link comes and goes: its changes are not told one by one until it is steady";
            let note = Note::new(Noted::LinkFlapping).reason(text).count(losses).ms(limits.flap_window_ms);
            self.note(note, cx);
        }
        if let Some(losses) = self.watch.flaps.tick(&limits, now_ms) {
            let text = format!("{} changes were not told", self.watch.flaps.untold);
            let note = Note::new(Noted::LinkSteady).reason(text).count(losses).ms(limits.flap_window_ms);
            self.note(Note { to: Some(look.state.as_str()), ..note }, cx);
            self.tell(self.watch.told.unwrap_or(look), look, cx);
        }
    }

    /// The first look since the start.
    fn opened(&mut self, look: Look, cx: &mut Context) {
        (self.watch.seen, self.watch.told) = (Some(look), Some(look));
        let reason = self.state_reason();
        let note = Note { to: Some(look.state.as_str()), ..Note::new(Noted::OriginOpened) };
        let (epoch, last) = (self.epoch(cx), self.last.seq);
        self.note(note.reason(reason.clone()).epoch(epoch).seq(last), cx);
        if look.degraded {
            self.degraded(&reason, cx);
        }
    }

    /// One line for each thing that differs.
    fn tell(&mut self, told: Look, look: Look, cx: &mut Context) {
        self.watch.told = Some(look);
        let (epoch, last, reason) = (self.epoch(cx), self.last.seq, self.state_reason());
        let retry_ms = self.stream().and_then(|stream| stream.retry_ms());
        if look.role != told.role {
            let why = self.watch.role_reason.take().unwrap_or_else(|| reason.clone());
            let note = Note::new(Noted::RoleChanged).between(told.role.as_str(), look.role.as_str());
            self.note(note.reason(why).epoch(epoch).seq(last), cx);
        }
        if look.linked && !told.linked {
            let has = match &self.side {
                Side::Source(source) => source.stream.as_ref().map_or(last, |stream| stream.peer.persisted),
                Side::Destination(_) => last,
            };
            let text = format!("the destination has records up to {has}");
            self.note(Note::new(Noted::LinkUp).reason(text).epoch(epoch).seq(last), cx);
        }
        if told.linked && !look.linked {
            let stood_ms = cx.now.mono_ms.saturating_sub(self.watch.linked_ms);
            let note = Note::new(Noted::LinkLost).reason(self.watch.link_reason.clone()).retry_ms(retry_ms);
            self.note(note.ms(stood_ms), cx);
        }
        if look.state != told.state {
            let note = Note::new(Noted::StreamState).between(told.state.as_str(), look.state.as_str());
            self.note(note.reason(reason.clone()).retry_ms(retry_ms).epoch(epoch).seq(last), cx);
        }
        match (told.degraded, look.degraded) {
            (false, true) => self.degraded(&reason, cx),
            (true, false) => {
                let (since_ms, before) = self.watch.degraded_from;
                let count = self.degraded_acks().saturating_sub(before);
                let ms = cx.now.mono_ms.saturating_sub(since_ms);
                self.note(Note::new(Noted::DegradedEnded).count(count).ms(ms).seq(last), cx);
            }
            _ => {}
        }
    }

    fn degraded(&mut self, reason: &str, cx: &mut Context) {
        self.watch.degraded_from = (cx.now.mono_ms, self.degraded_acks());
        let last = self.last.seq;
        self.note(Note::new(Noted::DegradedBegun).reason(reason).seq(last), cx);
    }

    fn degraded_acks(&self) -> u64 {
        match &self.side {
            Side::Source(source) => source.degraded_acks,
            Side::Destination(_) => 0,
        }
    }

    /// Why the stream is in its state.
    fn state_reason(&self) -> String {
        match &self.side {
            Side::Source(source) => {
                source.stream.as_ref().map_or_else(|| "no mirror".into(), |stream| stream.reason.clone())
            }
            Side::Destination(destination) => destination.reason.clone(),
        }
    }
}
