//! What clients get: answers held against what had arrived from the mirror, and reads held against what was answered.

use lockstep_mirror::client::{Answered, Receipt, Refusal, Role};
use lockstep_mirror::plan::{AckLevel, Policy};
use lockstep_mirror::status::StreamState;
use lockstep_storage::id::{BodyId, Origin, Seq};
use lockstep_storage::image::{ImageError, View};

use super::{Stage, bucket_name, bucket_of, key_name};
use crate::sim::coverage::Seen;
use crate::sim::mistake::Mistake;
use crate::sim::model::{Checked, broken};
use crate::sim::scenario::{Site, Write};
use crate::sim::topology::Pair;
use crate::sim::world::World;

/// Longest time that a source without a mirror may take to apply what a start has found, in milliseconds: engines are slow.
const READABLE_MS: u64 = 3_000;
/// Chunks that are more than a segment holds.
const LONG_CHUNKS: u8 = 14;

impl World {
    /// Rule 1: whoever says that the mirror has a record has heard so from it, on the connection that stood.
    pub(super) fn claimed(&mut self, site: Site, pair: Pair, receipt: &Receipt) -> Checked {
        let Answered::Mirrored(level) = receipt.ack else { return Ok(()) };
        let Some(process) = &mut self.sites[site.index()].process else { return Ok(()) };
        let waking = process.waking;
        let arrived = process.worker(&pair.origin()).map(|worker| worker.watch.arrived).unwrap_or_default();
        let heard = match level {
            AckLevel::Received => arrived.received,
            AckLevel::Durable => arrived.persisted,
            AckLevel::Applied => arrived.applied,
        };
        // Of what waited in a paused process's inbox the last is counted already, and the first is answered for now.
        if receipt.seq <= heard || waking {
            return Ok(());
        }
        broken(1, format!("{site:?} answers {level:?} for record {}, its mirror has acknowledged {heard}", receipt.seq))
    }

    /// Counts an answer.
    pub(super) fn cover_answer(&mut self, site: Site, flight: u64, result: &Result<Receipt, Refusal>) {
        let Some(flight) = self.clients.flights.get(&flight) else { return };
        let seen = match result {
            Ok(Receipt { ack: Answered::Local, .. }) if site == flight.pair.mirror => Seen::AnsweredByPromoted,
            Ok(Receipt { ack: Answered::Local, .. }) => Seen::AnsweredLocal,
            Ok(Receipt { ack: Answered::Mirrored(AckLevel::Received), .. }) => Seen::AnsweredReceived,
            Ok(Receipt { ack: Answered::Mirrored(AckLevel::Applied), .. }) => Seen::AnsweredApplied,
            Ok(Receipt { ack: Answered::Mirrored(_), .. }) => Seen::AnsweredDurable,
            Err(Refusal::Unknown { .. }) => Seen::OutcomeUnknown,
            Err(Refusal::Unavailable { .. } | Refusal::Gone(_)) => Seen::RefusedUnavailable,
            Err(Refusal::NotWritable { .. }) => Seen::RefusedNotWritable,
            Err(Refusal::NoSpace { .. }) => Seen::RefusedNoSpace,
        };
        self.seen.note(seen);
        if matches!(result, Err(Refusal::Unknown { reason, .. }) if reason.contains("of this node did not persist")) {
            self.seen.note(Seen::OwnEndLate);
        }
        if result.is_err() || !matches!(flight.stage, Stage::Final | Stage::Abandon) {
            return;
        }
        let seen = match flight.write {
            _ if flight.stage == Stage::Abandon => Seen::BodyAbandoned,
            Write::CreateBucket { .. } => Seen::BucketCreated,
            Write::DeleteBucket { .. } => Seen::BucketDeleted,
            Write::Put { chunks: 0, .. } => Seen::InlinePut,
            Write::Put { chunks: LONG_CHUNKS.., .. } => Seen::LongPut,
            Write::Put { .. } => Seen::ChunkedPut,
            Write::PutIf { .. } => Seen::ConditionalPut,
            Write::Delete { .. } => Seen::Deleted,
            Write::Copy { .. } => Seen::Copied,
            Write::CreateUpload { .. } => Seen::UploadCreated,
            Write::Part { .. } => Seen::PartPut,
            Write::Complete { .. } => Seen::UploadCompleted,
            Write::Abort { .. } => Seen::UploadAborted,
            Write::Abandon { .. } => return,
        };
        self.seen.note(seen);
    }

    /// Rules 1 and 6: a source that takes readers shows everything that it ever showed or answered for, a mirror what it
    /// had at the consistency point that it names.
    fn is_not_older(&self, site: Site, origin: &Origin, view: &View, point: Option<Seq>) -> Checked {
        let (Some(log), Ok(progress)) = (self.model.log(site, origin), view.progress()) else { return Ok(()) };
        let (shown, least) = (progress.applied.seq, point.unwrap_or(log.shown));
        if shown >= least {
            return Ok(());
        }
        broken(1, format!("a reader at {site:?} is shown {origin} as of record {shown}, it was shown {least} before"))
    }

    /// Rule 1: a source that answers alone needs nobody to know what it answered; it is readable soon after that.
    fn may_refuse_readers(&mut self, site: Site, origin: &Origin) -> Checked {
        let now = self.now;
        let source = self.sites[site.index()].is_source(origin);
        let unmarked = source && self.model.stored(site, origin).is_some_and(|stored| !stored.in_sync);
        // One that is new waits until it has met its mirror.
        let alone = unmarked && self.status(site, origin).is_some_and(|status| status.state != StreamState::Unsettled);
        let stalled = self.sites[site.index()].process.as_ref().is_some_and(|process| process.stalled);
        let Some(watch) = self.watched(site, origin) else { return Ok(()) };
        if !alone {
            watch.refuses_since = None;
            return Ok(());
        }
        let since = *watch.refuses_since.get_or_insert(now);
        if now > since + READABLE_MS && !stalled && self.model.policy() != Policy::Strict {
            return broken(1, format!("{site:?} refuses readers of {origin} and answers writers alone"));
        }
        Ok(())
    }

    /// Rule 6: a reader finds a whole object, of a record of this site's history.
    pub(in crate::sim) fn client_reads(&mut self, pair: Pair, site: Site, key: u8) -> Checked {
        let origin = pair.origin();
        let Some(state) = self.sites[site.index()].state(&origin) else { return Ok(()) };
        let (source, readable, point) = (state.role == Role::Source, state.readable, state.consistency_point.1);
        if !readable && self.mistake != Some(Mistake::ReadBeforeRecovered) {
            self.seen.note(Seen::ReadRefused);
            return self.may_refuse_readers(site, &origin);
        }
        let Some(worker) = self.worker(site, &origin) else { return Ok(()) };
        worker.watch.refuses_since = None;
        let view = worker.engine.image().view();
        self.seen.note(if source { Seen::ReadAtSource } else { Seen::ReadAtMirror });
        self.is_not_older(site, &origin, &view, if source { None } else { Some(point) })?;
        let Ok(Some(object)) = view.object(&bucket_name(bucket_of(key)), &key_name(key)) else { return Ok(()) };
        let made = self.model.log(site, &origin).map(|log| log.at(Seq(object.seq)));
        if made.is_none_or(|made| made.seq.0 != object.seq) {
            return broken(
                6,
                format!("a reader at {site:?} sees a version of record {}, which is not there", object.seq),
            );
        }
        for extent in &object.extents {
            let body = BodyId::from(extent.body);
            for index in 0..extent.len.div_ceil(u64::from(extent.chunk_len.max(1))) as u32 {
                let chunk = view.chunk(body, index);
                if let Err(ImageError::Chunk { chunk, .. }) = chunk
                    && self.model.rotten.contains(&(origin.clone(), chunk))
                {
                    self.ask_to_mend(site, &origin, chunk)?;
                    continue;
                }
                if chunk.as_ref().ok() != self.model.chunk(&origin, body, index) {
                    let at = object.seq;
                    return broken(
                        6,
                        format!("a reader at {site:?} cannot read chunk {index} of the object of record {at}"),
                    );
                }
            }
        }
        Ok(())
    }
}
