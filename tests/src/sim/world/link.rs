//! Connections: made, carried, cut, broken, and what is left of old ones.

use lockstep_mirror::event::{Connection, Event};
use lockstep_mirror::message::Message;
use lockstep_storage::id::Origin;

use super::{Happening, World};
use crate::sim::mistake::Mistake;
use crate::sim::model::Checked;
use crate::sim::net::{End, Link, Parcel};
use crate::sim::scenario::Site;

impl World {
    /// A connection is made, where the other site runs and both ways are open.
    pub(super) fn dial(&mut self, site: Site, origin: Origin, number: Connection) -> Checked {
        let Some(boot) = self.boot(site) else { return Ok(()) };
        let peer = site.peer();
        let open = !self.sites[0].cut && !self.sites[1].cut;
        let Some(process) = self.sites[peer.index()].process.as_mut().filter(|_| open) else {
            let delay = self.noise.between(1, 300);
            let reason = "no answer".to_owned();
            let event = Event::Disconnected { origin, connection: number, reason };
            self.schedule(delay, Happening::Feed(site, boot, Box::new(event)));
            return Ok(());
        };
        process.accepted += 1;
        // The opener counts in even numbers, so these never meet its own.
        let theirs = Connection(2 * process.accepted - 1);
        let opener = End { site, boot, number, open: true };
        let acceptor = End { site: peer, boot: process.boot, number: theirs, open: true };
        self.links.push(Link::new(origin.clone(), opener, acceptor));
        self.feed(peer, Event::Connected { origin: origin.clone(), connection: theirs })?;
        self.feed(site, Event::Connected { origin, connection: number })
    }

    fn latency(&mut self) -> u64 {
        if self.noise.chance(4) { self.noise.between(20, 250) } else { self.noise.between(1, 9) }
    }

    /// A core sends.
    pub(super) fn send(&mut self, site: Site, boot: u32, origin: &Origin, number: Connection, mut message: Message) {
        let found = self.links.iter().enumerate().rev().find_map(|(index, link)| {
            let end = link.end(site, boot, number).filter(|_| link.origin == *origin)?;
            Some((index, end))
        });
        let Some((index, end)) = found else { return };
        if !self.links[index].ends[end].open {
            return;
        }
        if self.mistake == Some(Mistake::AppliedBeforeSourcePersisted) {
            claim_persisted(&mut message);
        }
        self.dispatch(index, 1 - end, Parcel::Message(message));
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
            self.links[index].held[to] += 1;
            return Ok(());
        }
        let link = &mut self.links[index];
        let Some(parcel) = link.queues[to].pop_front() else { return Ok(()) };
        let End { site, boot, number, open } = link.ends[to];
        let origin = link.origin.clone();
        if !open || !self.lives(site, boot) {
            return Ok(());
        }
        match parcel {
            Parcel::End => {
                self.links[index].ends[to].open = false;
                self.feed(site, Event::Disconnected { origin, connection: number, reason: "closed".into() })
            }
            Parcel::Message(message) => {
                if self.links[index].spent[to].len() < 32 {
                    self.links[index].spent[to].push(message.clone());
                }
                self.deliver(site, origin, number, message)
            }
        }
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
        if let Some((index, end)) = found
            && std::mem::replace(&mut self.links[index].ends[end].open, false)
        {
            self.dispatch(index, 1 - end, Parcel::End);
        }
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
                self.break_link(index);
            }
        }
    }

    /// The process at a site is gone: so are its ends of its connections.
    pub(super) fn drop_links(&mut self, site: Site) {
        for index in 0..self.links.len() {
            for end in 0..2 {
                let gone = self.links[index].ends[end].site == site && self.links[index].ends[end].open;
                if gone {
                    self.links[index].ends[end].open = false;
                    let to = 1 - end;
                    let keep = self.noise.below(self.links[index].queues[to].len() as u64 + 1) as usize;
                    self.links[index].queues[to].truncate(keep);
                    self.dispatch(index, to, Parcel::End);
                }
            }
        }
    }

    /// Both ways are open again: what waited arrives.
    pub(super) fn heal(&mut self) {
        self.sites[0].cut = false;
        self.sites[1].cut = false;
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

    /// A connection that is gone brings one of its messages once more: under its own number, which nobody listens to.
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
        let End { site, boot, number, .. } = link.ends[to];
        let origin = link.origin.clone();
        let message = link.spent[to][self.noise.below(link.spent[to].len() as u64) as usize].clone();
        if !self.lives(site, boot) {
            return Ok(());
        }
        let number = match self.mistake {
            Some(Mistake::OldConnectionAccepted) => self.newest(site, boot, &origin).unwrap_or(number),
            _ => number,
        };
        self.deliver(site, origin, number, message)
    }

    fn newest(&self, site: Site, boot: u32, origin: &Origin) -> Option<Connection> {
        let ends = self.links.iter().rev().filter(|link| link.origin == *origin).flat_map(|link| link.ends);
        ends.into_iter().find(|end| end.site == site && end.boot == boot && end.open).map(|end| end.number)
    }
}

/// The source claims to have persisted all that it sends.
fn claim_persisted(message: &mut Message) {
    if let Message::Append(append) = message
        && let Some(last) = append.records.last()
    {
        append.persisted = append.persisted.max(last.header.seq);
        append.committed = append.committed.max(last.header.seq);
    }
}
