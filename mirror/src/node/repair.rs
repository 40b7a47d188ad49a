//! A chunk of a body that is damaged at one end gets its bytes back from the other (F10). Called by whoever meets the damage:
//! readers, by their command; a baseline that is given; and by the link with what the peer asks and answers.
//!
//! Always true: one chunk at a time is asked for, and no more than one in [`INTERVAL_MS`]; what waits is bounded, and so is
//! how often it is tried and how long a reader waits. What the peer sends is checked by the worker before it is put in place.

use std::collections::VecDeque;

use bytes::Bytes;
use lockstep_storage::id::ChunkId;
use lockstep_storage::image::Mended;

use super::Context;
use super::log::{Log, Side};
use crate::event::{Connection, Effect, RepairStep, RepairTask, Report, Ticket};
use crate::message::{Mending, Message};
use crate::note::{Note, Noted};

/// Most chunks that wait: what a dying disk has more is found again by the next reader.
const WANTED_MAX: usize = 64;
/// Most readers that wait, over all chunks.
const READERS_MAX: usize = 256;
/// Times that a chunk is asked for.
const TRIES_MAX: u32 = 3;
/// Time for an answer, in milliseconds.
const ANSWER_MS: u64 = 5_000;
/// Longest time that a reader waits, in milliseconds.
const PATIENCE_MS: u64 = 10_000;
/// Least time between two questions, in milliseconds.
const INTERVAL_MS: u64 = 25;
/// Questions of the peer that may be under way: one that it asked for too long is asked again.
const LENT_MAX: u32 = 4;

/// A damaged chunk.
#[derive(Debug)]
struct Wanted {
    chunk: ChunkId,
    /// Who waits, and since when.
    readers: Vec<(Ticket, u64)>,
    tries: u32,
}

/// How far the chunk at hand is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Asked { connection: Connection, since_ms: u64, same_history: bool },
    Storing,
}

/// Damaged chunks of one origin at this node, and what its peer asks for.
#[derive(Debug, Default)]
pub(super) struct Repairs {
    wanted: VecDeque<Wanted>,
    current: Option<(Wanted, Stage)>,
    next_ms: u64,
    /// Questions of the peer that the worker has, by the connection.
    lent: Option<(Connection, u32)>,
    /// Chunks that got their bytes back since the start, and chunks that did not when they were asked for.
    pub(super) done: u64,
    pub(super) failed: u64,
}

impl Repairs {
    fn find(&mut self, chunk: ChunkId) -> Option<&mut Wanted> {
        let current = self.current.as_mut().map(|(wanted, _)| wanted);
        current.into_iter().chain(&mut self.wanted).find(|wanted| wanted.chunk == chunk)
    }

    fn all(&self) -> impl Iterator<Item = &Wanted> {
        self.current.iter().map(|(wanted, _)| wanted).chain(&self.wanted)
    }
}

impl Log {
    /// A reader has met a damaged chunk.
    pub(super) fn repair(&mut self, ticket: Ticket, chunk: ChunkId, cx: &mut Context) {
        let has_peer = match &self.side {
            Side::Source(source) => source.stream.is_some(),
            Side::Destination(_) => self.peer.is_some(),
        };
        if !has_peer {
            return cx.reply_error(ticket, format!("{chunk} is damaged, and {} has no other node", self.origin));
        }
        let readers: usize = self.repairs.all().map(|wanted| wanted.readers.len()).sum();
        if readers >= READERS_MAX || !self.want(chunk) {
            return cx.reply_error(ticket, format!("{chunk} is damaged, and too many others wait to be repaired"));
        }
        let now_ms = cx.now.mono_ms;
        if let Some(wanted) = self.repairs.find(chunk) {
            wanted.readers.push((ticket, now_ms));
        }
        self.repair_progress(cx);
    }

    /// Has a chunk asked for, as soon as there is a link; false where too many wait.
    pub(super) fn want(&mut self, chunk: ChunkId) -> bool {
        if self.repairs.find(chunk).is_none() {
            if self.repairs.wanted.len() >= WANTED_MAX {
                return false;
            }
            self.repairs.wanted.push_back(Wanted { chunk, readers: Vec::new(), tries: 0 });
        }
        true
    }

    /// The connection that the peer may be asked on, and whether both ends are known to hold one history.
    fn asks_on(&self) -> Option<(Connection, bool)> {
        match &self.side {
            Side::Source(source) => {
                let stream = source.stream.as_ref()?;
                let giving = || stream.giving.as_ref().map(|giving| (giving.connection(), false));
                stream.up().map(|up| (up, true)).or_else(giving)
            }
            Side::Destination(destination) => {
                let connection = destination.connection().filter(|_| destination.listens())?;
                Some((connection, destination.is_open()))
            }
        }
    }

    /// Asks for the next chunk, gives up on what takes too long.
    pub(super) fn repair_progress(&mut self, cx: &mut Context) {
        if self.repairs.wanted.is_empty() && self.repairs.current.is_none() {
            return;
        }
        let (now_ms, link) = (cx.now.mono_ms, self.asks_on());
        self.refuse_readers(link.is_none(), cx);
        if let Some((_, Stage::Asked { connection, since_ms, .. })) = &self.repairs.current {
            let gone = link.is_none_or(|(up, _)| up != *connection);
            if gone || now_ms.saturating_sub(*since_ms) >= ANSWER_MS {
                self.try_again("its peer did not answer", cx);
            }
        }
        let Some((connection, same_history)) = link else { return };
        if self.repairs.current.is_some() || now_ms < self.repairs.next_ms {
            return;
        }
        let Some(mut wanted) = self.repairs.wanted.pop_front() else { return };
        wanted.tries += 1;
        let chunk = wanted.chunk;
        self.repairs.next_ms = now_ms + INTERVAL_MS;
        self.repairs.current = Some((wanted, Stage::Asked { connection, since_ms: now_ms, same_history }));
        self.send(connection, Message::Mending(Mending::Want(chunk)), cx);
    }

    /// Readers wait for so long, and not for a link that is not there.
    fn refuse_readers(&mut self, unlinked: bool, cx: &mut Context) {
        let (now_ms, origin) = (cx.now.mono_ms, &self.origin);
        let current = self.repairs.current.as_mut().map(|(wanted, _)| wanted);
        for wanted in current.into_iter().chain(&mut self.repairs.wanted) {
            let chunk = wanted.chunk;
            wanted.readers.retain(|(ticket, since_ms)| {
                let late = now_ms.saturating_sub(*since_ms) >= PATIENCE_MS;
                if unlinked || late {
                    let why =
                        if unlinked { "no other node is linked that may have it" } else { "its repair takes long" };
                    cx.reply_error(*ticket, format!("{chunk} of {origin} is damaged, and {why}"));
                }
                !(unlinked || late)
            });
        }
    }

    fn try_again(&mut self, why: &str, cx: &mut Context) {
        let Some((wanted, _)) = self.repairs.current.take() else { return };
        if wanted.tries < TRIES_MAX {
            self.repairs.wanted.push_back(wanted);
        } else {
            self.repair_failed(wanted, why, cx);
        }
    }

    fn repair_failed(&mut self, wanted: Wanted, why: &str, cx: &mut Context) {
        self.repairs.failed += 1;
        let text = format!("{} is damaged here, and {why}", wanted.chunk);
        self.note(Note::new(Noted::ChunkUnrepaired).reason(text.clone()), cx);
        for (ticket, _) in wanted.readers {
            cx.reply_error(ticket, text.clone());
        }
        self.mended_for_baseline(wanted.chunk, false, cx);
    }

    /// The peer asks for a chunk, or answers.
    pub(super) fn on_mending(&mut self, connection: Connection, message: Mending, cx: &mut Context) {
        match message {
            Mending::Want(chunk) => self.lend_chunk(connection, chunk, cx),
            Mending::Have { chunk, bytes, crc } => {
                self.chunk_came(connection, chunk, bytes.map(|bytes| (bytes, crc)), cx);
            }
        }
    }

    fn lend_chunk(&mut self, connection: Connection, chunk: ChunkId, cx: &mut Context) {
        let lent = self.repairs.lent.filter(|(on, _)| *on == connection).map_or(0, |(_, lent)| lent);
        if lent >= LENT_MAX {
            let what = "too many damaged chunks are asked for at once";
            return match &self.side {
                Side::Source(_) => self.protocol_error(what, cx),
                Side::Destination(_) => self.hang_up(what, cx),
            };
        }
        self.repairs.lent = Some((connection, lent + 1));
        cx.emit(Effect::Repair { origin: self.origin.clone(), task: RepairTask::Read { connection, chunk } });
    }

    fn chunk_came(&mut self, connection: Connection, chunk: ChunkId, sent: Option<(Bytes, u32)>, cx: &mut Context) {
        let Some((wanted, stage)) = &mut self.repairs.current else { return };
        let Stage::Asked { connection: asked, same_history, .. } = *stage else { return };
        // An answer to a question that was given up.
        if asked != connection || wanted.chunk != chunk {
            return;
        }
        let Some((bytes, crc)) = sent else {
            let Some((wanted, _)) = self.repairs.current.take() else { return };
            self.repair_failed(wanted, "its peer does not have it either", cx);
            return self.repair_progress(cx);
        };
        *stage = Stage::Storing;
        let task = RepairTask::Put { chunk, bytes, vouched: same_history.then_some(crc) };
        cx.emit(Effect::Repair { origin: self.origin.clone(), task });
    }

    /// The worker has done what was asked of it.
    pub(super) fn on_repair_step(&mut self, step: RepairStep, cx: &mut Context) {
        match step {
            RepairStep::Read { connection, chunk, bytes, crc } => {
                if let Some((on, lent)) = &mut self.repairs.lent
                    && *on == connection
                {
                    *lent = lent.saturating_sub(1);
                }
                self.send(connection, Message::Mending(Mending::Have { chunk, bytes, crc }), cx);
            }
            RepairStep::Put { chunk, mended } => self.chunk_put(chunk, mended, cx),
        }
    }

    fn chunk_put(&mut self, chunk: ChunkId, mended: Mended, cx: &mut Context) {
        let here = |(wanted, stage): &mut (Wanted, Stage)| wanted.chunk == chunk && *stage == Stage::Storing;
        let Some((wanted, stage)) = self.repairs.current.take_if(here) else { return };
        match mended {
            Mended::Done | Mended::Sound => self.repair_done(wanted, mended, cx),
            Mended::Unknown => self.repair_failed(wanted, "nothing refers to it any more", cx),
            Mended::Barred => self.repair_failed(wanted, "so is the engine where it stands", cx),
            Mended::Wrong => {
                self.repairs.current = Some((wanted, stage));
                self.try_again("the bytes that its peer sent do not fit its checksum", cx);
            }
        }
        self.repair_progress(cx);
    }

    fn repair_done(&mut self, wanted: Wanted, mended: Mended, cx: &mut Context) {
        let from = self.peer.clone().map_or_else(String::new, |peer| format!(" from {peer}"));
        let text = format!("{} has its bytes{from} again", wanted.chunk);
        if mended == Mended::Done {
            self.repairs.done += 1;
            self.note(Note::new(Noted::ChunkRepaired).reason(text.clone()), cx);
        }
        for (ticket, _) in wanted.readers {
            cx.reply(ticket, Report { text: text.clone(), ..Report::default() });
        }
        self.mended_for_baseline(wanted.chunk, true, cx);
    }
}
