//! What readers are shown and clients are told, held against what is true: rules 1, 2, 4 and 6.

use lockstep_mirror::client::{Answered, Receipt};
use lockstep_mirror::plan::{AckLevel, Policy};
use lockstep_storage::id::{Origin, Position, Seq};
use lockstep_storage::op::Mutation;
use lockstep_storage::superblock::StoredRole;

use super::{Checked, Model, broken};
use crate::sim::scenario::Site;

impl Model {
    /// Rule 2: everything that was answered as mirrored is in the history of whoever goes on.
    pub fn keeps_mirrored(&self, site: Site, origin: &Origin, doing: &str) -> Checked {
        let (Some(log), Some(known)) = (self.log(site, origin), self.mirrored(origin)) else { return Ok(()) };
        let mirrored = known.at_both;
        if site != known.holder.0 || log.holds(mirrored) {
            return Ok(());
        }
        broken(2, format!("{site:?} {doing} for {origin} without record {mirrored}, which was answered as mirrored"))
    }

    /// At level `received` a mirror that has run since has what it said.
    pub fn keeps_received(&mut self, site: Site, origin: &Origin) -> Checked {
        let Some(mirrored) = self.mirrored_mut(origin) else { return Ok(()) };
        let received = std::mem::take(&mut mirrored.received[site.index()]);
        let held = self.log(site, origin).is_none_or(|log| log.holds(received));
        if held {
            return Ok(());
        }
        broken(2, format!("{site:?} takes {origin} without record {received}, which it said that it had received"))
    }

    /// Under `proved` nothing at all is missing.
    pub fn keeps_answered(&self, at: Site, origin: &Origin) -> Checked {
        let (Some(a), Some(b)) = (self.peer_log(at, origin), self.log(at, origin)) else { return Ok(()) };
        if b.holds(a.answered) {
            return Ok(());
        }
        broken(
            2,
            format!("the verdict of {origin} is 'proved', record {} was answered and is not at {at:?}", a.answered),
        )
    }

    /// The image shows everything up to here. Rules 2, 3 and 4.
    pub fn applied(&mut self, site: Site, origin: &Origin, at: Position) -> Checked {
        let Some(log) = self.log_mut(site, origin) else { return Ok(()) };
        if at.seq < log.applied {
            return broken(4, format!("the image of {origin} at {site:?} goes back from {} to {at}", log.applied));
        }
        log.applied = at.seq;
        log.shown = log.shown.max(at.seq);
        let Some(log) = self.log(site, origin) else { return Ok(()) };
        if !log.holds(at) {
            return broken(
                4,
                format!("{site:?} applied record {at} of {origin}, its log has {} there", log.at(at.seq)),
            );
        }
        if at.seq > log.durable() {
            return broken(
                3,
                format!("{site:?} applied record {at} of {origin}, only {} is durable here", log.durable()),
            );
        }
        let Some(other) = self.peer_log(site, origin) else { return Ok(()) };
        let destination = self.stored(site, origin).is_some_and(|entry| entry.role == StoredRole::Destination);
        if destination && !self.peer_is_lost(site, origin) && at.seq > other.claimed() {
            return broken(
                3,
                format!("{site:?} applied record {at} of {origin}, only {} is durable at its source", other.claimed()),
            );
        }
        self.in_sync_is_true(site, origin, at)
    }

    /// While the in-sync mark stands, what a source shows is durable at its mirror too.
    fn in_sync_is_true(&mut self, site: Site, origin: &Origin, at: Position) -> Checked {
        let waits = self.policy != Policy::Async && self.ack != AckLevel::Received;
        let marked = self.stored(site, origin).is_some_and(|e| e.in_sync && e.role == StoredRole::Source);
        if !waits || !marked {
            return Ok(());
        }
        let Some(other) = self.peer_log(site, origin) else { return Ok(()) };
        if other.has_claimed(at) {
            // Whoever reads it now must find it at whoever goes on.
            self.is_at_both(origin, at);
            return Ok(());
        }
        broken(
            2,
            format!("{site:?} shows record {at} of {origin} and is marked in sync, its mirror has not persisted it"),
        )
    }

    /// A client is told that its write is done. Rules 1 and 2.
    pub fn answered(
        &mut self,
        site: Site,
        origin: &Origin,
        receipt: &Receipt,
        require: Option<AckLevel>,
        chunk: bool,
    ) -> Checked {
        self.answers += 1;
        let seq = receipt.seq;
        let Some(log) = self.log(site, origin) else { return broken(1, "an answer of a log that is not there") };
        let at = log.at(seq);
        if at.seq != seq || at.epoch != receipt.epoch {
            return broken(
                1,
                format!("{site:?} answers for record {}/{seq} of {origin}, it holds {at}", receipt.epoch),
            );
        }
        if seq > log.durable() {
            return broken(
                1,
                format!("{site:?} answers for record {at} of {origin}, only {} is durable here", log.durable()),
            );
        }
        if !chunk && seq > log.applied {
            return broken(
                1,
                format!("{site:?} answers for record {at} of {origin}, its image shows only {}", log.applied),
            );
        }
        if log.anew {
            return broken(2, format!("{site:?} is new, and answers for record {at} of {origin} beside its mirror"));
        }
        let entry = self.stored(site, origin);
        if entry.is_none_or(|entry| entry.role != StoredRole::Source) {
            return broken(2, format!("{site:?} answers for record {at} of {origin} and is not its source"));
        }
        if self.mirrored(origin).is_some_and(|mirrored| mirrored.given_up[site.index()].is_some()) {
            return broken(2, format!("{site:?} answers for record {at} of {origin}, which it had given up"));
        }
        let level = match receipt.ack {
            Answered::Local => None,
            Answered::Mirrored(level) => Some(level),
        };
        if require > level {
            return broken(1, format!("record {at} of {origin}: {require:?} was required, {level:?} is answered"));
        }
        match level {
            None => self.may_answer_alone(site, origin, at)?,
            Some(level) => self.is_mirrored(site, origin, at, level)?,
        }
        if let Some(log) = self.log_mut(site, origin)
            && at.seq > log.answered.seq
        {
            log.answered = at;
        }
        Ok(())
    }

    /// Out of sync is stored before the first answer that only this site has; never under `strict`.
    fn may_answer_alone(&self, site: Site, origin: &Origin, at: Position) -> Checked {
        if self.mirrored(origin).is_none() || self.has_no_stream(site, origin) {
            return Ok(());
        }
        let stored = self.stored(site, origin);
        let (marked, promoted) = stored.map_or((false, false), |entry| (entry.in_sync, entry.promoted));
        match self.policy {
            Policy::Strict if promoted && !marked => Ok(()),
            Policy::Strict => broken(1, format!("{site:?} answers alone for record {at} of {origin} under strict")),
            Policy::Sync if marked => {
                broken(2, format!("{site:?} answers alone for record {at} of {origin}, its superblock says in sync"))
            }
            _ => Ok(()),
        }
    }

    fn is_mirrored(&mut self, site: Site, origin: &Origin, at: Position, level: AckLevel) -> Checked {
        let Some(other) = self.peer_log(site, origin) else {
            return broken(1, format!("record {at} of {origin} is answered as mirrored, there is no mirror"));
        };
        if level == AckLevel::Received {
            if at.seq > other.received {
                return broken(1, format!("record {at} of {origin} is answered as received, it never arrived"));
            }
            // An ack may outlive the process that sent it.
            let (peer, held) = (other.site, at.seq <= other.held.max(other.durable()));
            if let Some(mirrored) = self.mirrored_mut(origin).filter(|_| held) {
                let received = &mut mirrored.received[peer.index()];
                *received = if at.seq > received.seq { at } else { *received };
            }
            return Ok(());
        }
        if !other.has_claimed(at) {
            return broken(
                1,
                format!("record {at} of {origin} is answered as mirrored, the mirror has not persisted it"),
            );
        }
        let shown = other.shown.max(other.showed);
        if level == AckLevel::Applied && shown < at.seq {
            return broken(1, format!("record {at} of {origin} is answered as applied, the mirror has shown {shown}"));
        }
        self.is_at_both(origin, at);
        Ok(())
    }

    /// Committed in sync: no later history may lack it.
    fn is_at_both(&mut self, origin: &Origin, at: Position) {
        let Some(pair) = self.mirrored(origin).map(|mirrored| mirrored.pair) else { return };
        if pair.sites().iter().any(|site| self.log(*site, origin).is_none_or(|log| !log.holds(at))) {
            return;
        }
        if let Some(mirrored) = self.mirrored_mut(origin).filter(|mirrored| at.seq > mirrored.at_both.seq) {
            mirrored.at_both = at;
        }
    }

    /// Rule 6: between what a client read and the record that it made of it, nobody else changed the object.
    pub fn unchanged(&self, site: Site, origin: &Origin, key: (&str, &str), read: Seq, placed: Seq) -> Checked {
        let Some(log) = self.log(site, origin) else { return Ok(()) };
        let between = log.line.iter().skip(read.0 as usize).take_while(|at| at.seq < placed).copied();
        for record in self.records(&between.collect::<Vec<_>>()) {
            let changes = match record.mutation() {
                Ok(Mutation::PutObject(op)) => (op.bucket.as_str(), op.key.as_str()) == key,
                Ok(Mutation::DeleteObject(op)) => (op.bucket.as_str(), op.key.as_str()) == key,
                Ok(Mutation::CompleteMultipartUpload(op)) => (op.bucket.as_str(), op.key.as_str()) == key,
                _ => false,
            };
            if changes {
                let (other, name) = (record.header.seq, key.1);
                return broken(
                    6,
                    format!("record {placed} of {origin} is made of {name} as of {read}, record {other} changed it"),
                );
            }
        }
        Ok(())
    }
}
