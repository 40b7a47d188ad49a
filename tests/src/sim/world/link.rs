//! Connections: made, carried, cut, broken, and what is left of old ones.

use lockstep_mirror::event::{Connection, Event};
use lockstep_mirror::message::{Ack, Append, Message, Welcome};
use lockstep_storage::id::Origin;
use lockstep_storage::record::Record;

use super::{Happening, World};
use crate::sim::coverage::Seen;
use crate::sim::mistake::Mistake;
use crate::sim::model::{Checked, broken};
use crate::sim::net::{End, Link, Parcel};
use crate::sim::scenario::Site;
use crate::sim::site::Arrived;

/// Messages of a connection that may turn up again.
const SPENT_MAX: usize = 32;

impl World {
    /// A connection is made, where the other site runs and both ways are open.
    pub(super) fn dial(&mut self, site: Site, origin: Origin, number: Connection) -> Checked {
        let Some(boot) = self.boot(site) else { return Ok(()) };
        if self.given_up.contains(&(site, boot, origin.clone(), number)) {
            return Ok(());
        }
        let Some(peer) = self.pair_of(&origin).map(|pair| pair.other(site)) else { return Ok(()) };
        let open = !self.sites[site.index()].cut && !self.sites[peer.index()].cut;
        let Some(process) = self.sites[peer.index()].process.as_mut().filter(|_| open) else {
            let delay = self.noise.between(1, 300);
            let reason = "no answer".to_owned();
            let event = Event::Disconnected { origin, connection: number, reason };
            self.schedule(delay, Happening::Feed(site, boot, Box::new(event)));
            return Ok(());
        };
        process.accepted += 1;
        let (there, now_there) = (process.boot, process.accepted);
        // The opener counts in even numbers, so these never meet its own.
        let theirs = Connection(2 * now_there - 1);
        let opener = End { site, boot, number, open: true };
        let acceptor = End { site: peer, boot: there, number: theirs, open: true };
        let replaced = self.links.iter().any(|link| {
            link.origin == origin && link.ends.iter().any(|end| (end.site, end.boot, end.open) == (peer, there, true))
        });
        if replaced {
            self.seen.note(Seen::ConnectionReplaced);
        }
        if !self.calm && self.noise.chance(40) {
            let delay = self.noise.between(1, 80);
            self.schedule(delay, Happening::Stale);
        }
        self.links.push(Link::new(origin.clone(), opener, acceptor));
        self.feed(peer, Event::Connected { origin: origin.clone(), connection: theirs })?;
        self.feed(site, Event::Connected { origin, connection: number })
    }

    fn latency(&mut self) -> u64 {
        if !self.calm && self.noise.chance(4) { self.noise.between(20, 250) } else { self.noise.between(1, 9) }
    }

    /// A core sends.
    pub(super) fn sends(
        &mut self,
        site: Site,
        boot: u32,
        origin: &Origin,
        number: Connection,
        mut message: Message,
    ) -> Checked {
        let found = self.links.iter().enumerate().rev().find_map(|(index, link)| {
            let end = link.end(site, boot, number).filter(|_| link.origin == *origin)?;
            Some((index, end))
        });
        let Some((index, end)) = found else { return Ok(()) };
        if !self.links[index].ends[end].open {
            return Ok(());
        }
        if self.mistake == Some(Mistake::AppliedBeforeSourcePersisted) {
            claim_persisted(&mut message, &mut self.links[index]);
        }
        if let Message::Append(append) = &message
            && end == 0
        {
            self.model.sent(site, origin, &append.records)?;
            self.spend(index, append)?;
        }
        self.tampered_chunk(&mut message);
        self.dispatch(index, 1 - end, Parcel::Message(message));
        Ok(())
    }

    /// Rule 7: a source has no more under way than its destination granted, but for the record that used the grant up.
    fn spend(&mut self, index: usize, append: &Append) -> Checked {
        let bytes: usize = append.records.iter().map(Record::len).sum();
        let link = &mut self.links[index];
        let (before, credit) = (link.spent_bytes, link.credit);
        link.spent_bytes += bytes as u64;
        link.sent = append.records.last().map_or(link.sent, |record| record.header.seq);
        if bytes > 0 && before >= credit {
            return broken(7, format!("the source sends {bytes} bytes more where {credit} are granted and used up"));
        }
        if link.spent_bytes >= credit {
            self.seen.note(Seen::CreditUsedUp);
        }
        Ok(())
    }

    fn dispatch(&mut self, index: usize, to: usize, parcel: Parcel) {
        let at = self.now + self.latency();
        let link = &mut self.links[index];
        let at = at.max(link.last_arrival[to]);
        link.last_arrival[to] = at;
        link.queues[to].push_back(parcel);
        self.schedule_at(at, Happening::Arrive(index, to));
    }

    /// Something arrives, unless the way is cut: then it waits, as TCP would send it again.
    pub(super) fn arrive(&mut self, index: usize, to: usize) -> Checked {
        let from = self.links[index].ends[1 - to].site;
        if self.sites[from.index()].cut {
            let both = self.sites[self.links[index].ends[to].site.index()].cut;
            self.seen.note(if both { Seen::CutBothWays } else { Seen::CutOneWay });
            self.links[index].held[to] += 1;
            return Ok(());
        }
        let link = &mut self.links[index];
        let Some(parcel) = link.queues[to].pop_front() else { return Ok(()) };
        let End { site, boot, number, open } = link.ends[to];
        let origin = link.origin.clone();
        if !self.lives(site, boot) {
            // Another process has the address now: it knows nothing of this connection, and says so.
            if self.boot(site).is_some() && self.links[index].ends[1 - to].open {
                self.dispatch(index, 1 - to, Parcel::End);
            }
            return Ok(());
        }
        if !open {
            // Closed here while this was under way: what the link had taken in already reaches the core all the same.
            return match parcel {
                Parcel::Message(message) if !self.calm && self.noise.chance(50) => {
                    self.deliver_stale(index, to, message)
                }
                _ => Ok(()),
            };
        }
        match parcel {
            Parcel::End => {
                self.links[index].ends[to].open = false;
                self.feed(site, Event::Disconnected { origin, connection: number, reason: "closed".into() })
            }
            Parcel::Message(message) => {
                let spent = &mut self.links[index].spent[to];
                if spent.len() == SPENT_MAX {
                    spent.remove(0);
                }
                spent.push(message.clone());
                self.arrived(site, &origin, &message);
                if let Message::Welcome(Welcome { credit, .. }) | Message::Ack(Ack { credit, .. }) = &message {
                    self.links[index].credit = self.links[index].credit.max(*credit);
                }
                let message = self.tampered_message(site, message);
                self.deliver(site, origin, number, message)
            }
        }
    }

    /// Mistakes of what is granted are made to what arrives.
    fn tampered_message(&self, site: Site, mut message: Message) -> Message {
        if self.mistake == Some(Mistake::CreditShared)
            && let Message::Ack(ack) = &mut message
        {
            let here = self.links.iter().filter(|link| link.ends[0].open && link.ends[0].site == site);
            ack.credit = here.map(|link| link.credit).max().unwrap_or_default().max(ack.credit);
        }
        message
    }

    /// What the mirror has claimed to the process on the connection that stands.
    fn arrived(&mut self, site: Site, origin: &Origin, message: &Message) {
        let now = self.now;
        let Some(watch) = self.watched(site, origin) else { return };
        let arrived = &mut watch.arrived;
        match message {
            Message::Welcome(welcome) => {
                let (received, persisted) = (welcome.last.seq, welcome.last.seq);
                *arrived = Arrived { at: now, received, persisted, applied: arrived.applied };
            }
            Message::Ack(ack) => {
                arrived.at = now;
                arrived.received = arrived.received.max(ack.received);
                arrived.persisted = arrived.persisted.max(ack.persisted);
                arrived.applied = arrived.applied.max(ack.applied);
            }
            Message::SyncDone { through } => arrived.applied = arrived.applied.max(*through),
            _ => {}
        }
    }

    /// A message of a connection that is not the process's newest: under its own number, which nobody listens to.
    fn deliver_stale(&mut self, index: usize, to: usize, message: Message) -> Checked {
        let End { site, boot, number, .. } = self.links[index].ends[to];
        let origin = self.links[index].origin.clone();
        self.seen.note(Seen::StaleMessage);
        let number = match self.mistake {
            Some(Mistake::OldConnectionAccepted) => self.newest(site, boot, &origin).unwrap_or(number),
            _ => number,
        };
        self.deliver(site, origin, number, message)
    }

    fn deliver(&mut self, site: Site, origin: Origin, connection: Connection, message: Message) -> Checked {
        if let Message::Append(append) = &message
            && let Some(last) = append.records.last()
        {
            self.model.received(site, &origin, last.header.seq);
        }
        self.feed(site, Event::Received { origin, connection, message })
    }

    /// A core closes a connection: the other end hears of it after everything that was sent before.
    pub(super) fn close(&mut self, site: Site, boot: u32, origin: &Origin, number: Connection) {
        let found = self.links.iter().enumerate().rev().find_map(|(index, link)| {
            let end = link.end(site, boot, number).filter(|_| link.origin == *origin)?;
            Some((index, end))
        });
        match found {
            Some((index, end)) if self.links[index].ends[end].open => {
                self.links[index].ends[end].open = false;
                self.dispatch(index, 1 - end, Parcel::End);
            }
            Some(_) => return,
            // An attempt that has not come to anything yet.
            None => self.given_up.push((site, boot, origin.clone(), number)),
        }
        // As in production, the closing end is told too.
        let event = Event::Disconnected { origin: origin.clone(), connection: number, reason: "closed here".into() };
        self.schedule(1, Happening::Feed(site, boot, Box::new(event)));
    }

    /// The end of what is under way on a connection is lost, and both ends hear of it, where they still are.
    fn break_link(&mut self, index: usize) {
        for to in 0..2 {
            let keep = self.noise.below(self.links[index].queues[to].len() as u64 + 1) as usize;
            self.links[index].queues[to].truncate(keep);
            self.dispatch(index, to, Parcel::End);
        }
    }

    /// Every standing connection breaks.
    pub(super) fn reset_links(&mut self) {
        for index in 0..self.links.len() {
            if self.links[index].ends.iter().any(|end| end.open) {
                self.seen.note(Seen::ConnectionReset);
                self.break_link(index);
            }
        }
    }

    /// The process at a site is gone: so are its ends of its connections. Where its whole machine went, nobody hears of it
    /// before a later process at its address is asked.
    pub(super) fn drop_links(&mut self, site: Site) {
        let unnoticed = !self.calm && self.noise.chance(40);
        for index in 0..self.links.len() {
            for end in 0..2 {
                let gone = self.links[index].ends[end].site == site && self.links[index].ends[end].open;
                if gone {
                    self.links[index].ends[end].open = false;
                    let to = 1 - end;
                    let keep = self.noise.below(self.links[index].queues[to].len() as u64 + 1) as usize;
                    self.links[index].queues[to].truncate(keep);
                    if unnoticed {
                        self.seen.note(Seen::CrashUnnoticed);
                    } else {
                        self.dispatch(index, to, Parcel::End);
                    }
                }
            }
        }
    }

    /// Both ways are open again: what waited arrives.
    pub(super) fn heal(&mut self) {
        self.sites.iter_mut().for_each(|site| site.cut = false);
        for index in 0..self.links.len() {
            for to in 0..2 {
                for _ in 0..std::mem::take(&mut self.links[index].held[to]) {
                    let at = (self.now + 1).max(self.links[index].last_arrival[to]);
                    self.links[index].last_arrival[to] = at;
                    self.schedule_at(at, Happening::Arrive(index, to));
                }
            }
        }
    }

    /// A connection that is gone brings one of its messages once more.
    pub(super) fn replay(&mut self) -> Checked {
        let gone: Vec<(usize, usize)> = (0..self.links.len())
            .flat_map(|index| [(index, 0), (index, 1)])
            .filter(|(index, to)| {
                let link = &self.links[*index];
                !link.ends[*to].open && !link.spent[*to].is_empty()
            })
            .collect();
        if gone.is_empty() {
            return Ok(());
        }
        let (index, to) = gone[self.noise.below(gone.len() as u64) as usize];
        let link = &self.links[index];
        let End { site, boot, .. } = link.ends[to];
        // The last messages are the likeliest to be late.
        let back = self.noise.below(link.spent[to].len().min(6) as u64) as usize;
        let message = link.spent[to][link.spent[to].len() - 1 - back].clone();
        if self.lives(site, boot) { self.deliver_stale(index, to, message) } else { Ok(()) }
    }

    fn newest(&self, site: Site, boot: u32, origin: &Origin) -> Option<Connection> {
        let ends = self.links.iter().rev().filter(|link| link.origin == *origin).flat_map(|link| link.ends);
        ends.into_iter().find(|end| end.site == site && end.boot == boot && end.open).map(|end| end.number)
    }
}

/// The source claims to have persisted all that it has sent; what the destination answers fits what the source asked for.
fn claim_persisted(message: &mut Message, link: &mut Link) {
    match message {
        Message::Append(append) => append.persisted = append.persisted.max(link.sent),
        Message::SyncRequest { through, .. } => {
            link.asked = *through;
            *through = (*through).max(link.sent);
        }
        Message::SyncDone { through } => *through = link.asked,
        _ => {}
    }
}
