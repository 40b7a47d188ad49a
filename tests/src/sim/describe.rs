//! Events and effects in few words, for a trace that people read.

use lockstep_mirror::event::{BaselineStep, BaselineTask, Effect, Event, RepairStep, RepairTask};
use lockstep_mirror::message::{Baseline, Mending, Message};
use lockstep_mirror::note::Note;
use lockstep_storage::image::baseline::Bookmark;
use lockstep_storage::op::Mutation;
use lockstep_storage::record::Record;
use lockstep_storage::superblock::PARTITIONS_AT;

/// An event in one line.
#[must_use]
pub(super) fn event(event: &Event) -> String {
    match event {
        Event::Received { origin, connection, message: m } => format!("{origin}#{} {}", connection.0, message(m)),
        Event::Fetched { origin, records: r, .. } => format!("Fetched {origin} {}", records(r)),
        Event::Submit { ticket, origin, draft, require, .. } => {
            let asked = require.map_or(String::new(), |level| format!(", {level:?} is required"));
            format!("Submit {origin} t{} kind {}{asked}", ticket.0, draft.kind())
        }
        Event::Flushed { origin, progress } => format!(
            "Flushed {origin} appended {} applied {} trimmed {}",
            progress.appended, progress.applied, progress.trimmed
        ),
        Event::Applied { origin, at } => format!("Applied {origin} {at}"),
        Event::Cut { origin, at } => format!("Cut {origin} {at}"),
        Event::Baseline { origin, step } => format!("Baseline {origin} {}", self::step(step)),
        Event::Persisted { id } => format!("Persisted p{id}"),
        Event::PersistFailed { reason } => format!("PersistFailed: {reason}"),
        Event::Connected { origin, connection } => format!("Connected {origin}#{}", connection.0),
        Event::Disconnected { origin, connection, reason } => {
            format!("Disconnected {origin}#{}: {reason}", connection.0)
        }
        Event::Stuck { origin, at, reason } => format!("Stuck {origin} at {at}: {reason}"),
        Event::Full { origin, full } => format!("Full {origin}: {full}"),
        Event::EngineFailed { origin, reason, damaged } => {
            format!("EngineFailed {origin}, damaged {damaged}: {reason}")
        }
        Event::FetchFailed { origin, seq, reason, .. } => format!("FetchFailed {origin} {seq}: {reason}"),
        Event::Repair { origin, step: RepairStep::Read { chunk, bytes, .. } } => {
            format!("Repair {origin} {chunk} is here: {}", bytes.is_some())
        }
        Event::Repair { origin, step: RepairStep::Put { chunk, mended } } => {
            format!("Repair {origin} {chunk} {mended:?}")
        }
        Event::Command { ticket, command } => format!("Command t{} {command:?}", ticket.0),
        Event::Batch => "Batch".into(),
        Event::Idle => "Idle".into(),
    }
}

/// An effect in one line.
#[must_use]
pub(super) fn effect(effect: &Effect) -> String {
    match effect {
        Effect::Write { offset, pieces } => {
            let heads = pieces.iter().filter(|p| p.starts_with(b"LSR1"));
            let seqs: Vec<String> = heads
                .filter_map(|head| lockstep_storage::record::Header::decode(head).ok())
                .map(|header| format!("{}/{}", header.epoch, header.seq))
                .collect();
            let what = if *offset < PARTITIONS_AT { "superblock".into() } else { format!("[{}]", seqs.join(" ")) };
            format!("Write at {offset} {what}")
        }
        Effect::Send { origin, connection, message: m } => format!("Send {origin}#{} {}", connection.0, message(m)),
        Effect::Append { origin, records: r } => format!("Append {origin} {}", records(r)),
        Effect::Cut { origin, last, .. } => format!("Cut {origin} to {last}"),
        Effect::Baseline { origin, task } => format!("Baseline {origin} {}", self::task(task)),
        Effect::Repair { origin, task: RepairTask::Read { chunk, .. } } => format!("Repair {origin} reads {chunk}"),
        Effect::Repair { origin, task: RepairTask::Put { chunk, .. } } => format!("Repair {origin} puts {chunk}"),
        Effect::Persist { id } => format!("Persist p{id}"),
        Effect::Apply { origin, through } => format!("Apply {origin} through {through}"),
        Effect::Flush { origin } => format!("Flush {origin}"),
        Effect::Trim { origin, through } => format!("Trim {origin} through {through}"),
        Effect::Collect { origin, through } => format!("Collect {origin} through {through}"),
        Effect::Fetch { origin, from, .. } => format!("Fetch {origin} from {from}"),
        Effect::Connect { origin, connection, delay_ms } => {
            format!("Connect {origin}#{} in {delay_ms} ms", connection.0)
        }
        Effect::Close { origin, connection } => format!("Close {origin}#{}", connection.0),
        Effect::Placed { ticket, epoch, seq } => format!("Placed t{} as {epoch}/{seq}", ticket.0),
        Effect::Done { ticket, result: Ok(r) } => format!("Done t{} {}/{} {:?}", ticket.0, r.epoch, r.seq, r.ack),
        Effect::Done { ticket, result: Err(refusal) } => format!("Done t{} refused: {refusal}", ticket.0),
        Effect::Settled { ticket } => format!("Settled t{}", ticket.0),
        Effect::Reply { ticket, result: Ok(report) } => format!("Reply t{}: {}", ticket.0, report.text),
        Effect::Reply { ticket, result: Err(sentence) } => format!("Reply t{} refused: {sentence}", ticket.0),
        Effect::Publish(state) => {
            let readable = if state.readable { "" } else { ", not readable yet" };
            format!("Publish {} {:?}, point {}{readable}", state.origin, state.role, state.consistency_point.1)
        }
        Effect::Note { origin, note: n } => format!("Note {origin}: {}", note(n)),
        Effect::Stop { reason } => format!("Stop: {reason}"),
    }
}

fn note(note: &Note) -> String {
    let change = note.to.map_or(String::new(), |to| format!(" {} -> {to}", note.from.unwrap_or("")));
    let reason = note.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
    format!("{}{change}{reason}", note.what.as_str())
}

fn place(next: Option<&Bookmark>) -> String {
    next.map_or("the end".into(), |next| format!("{:?} chunk {}", next.key, next.chunks))
}

fn step(step: &BaselineStep) -> String {
    match step {
        BaselineStep::Read { at, portion, .. } => {
            format!("Read at {at}: {} pieces, then {}", portion.pieces.len(), place(portion.next.as_ref()))
        }
        other => format!("{other:?}"),
    }
}

fn task(task: &BaselineTask) -> String {
    match task {
        BaselineTask::Take { at, pieces, next } => {
            format!("Take at {at}: {} pieces, then {}", pieces.len(), place(next.as_ref()))
        }
        other => format!("{other:?}"),
    }
}

fn message(message: &Message) -> String {
    match message {
        Message::Hello(h) => {
            format!("Hello last {} trimmed {} in_sync {} epochs {}", h.last, h.trimmed, h.in_sync, epochs(&h.epochs))
        }
        Message::Welcome(w) => format!("Welcome last {} epochs {}", w.last, epochs(&w.epochs)),
        Message::Refused { reason, epochs: e } => format!("Refused {reason}; epochs {}", epochs(e)),
        Message::Append(a) => {
            format!("Append committed {} persisted {} {}", a.committed, a.persisted, records(&a.records))
        }
        Message::SyncRequest { through, flushed } => format!("SyncRequest through {through} flushed {flushed}"),
        Message::SyncDone { through } => format!("SyncDone through {through}"),
        Message::Adopt { after } => format!("Adopt after {after}"),
        Message::Ack(a) => format!("Ack received {} persisted {} applied {}", a.received, a.persisted, a.applied),
        Message::Baseline(Baseline::Pieces { pieces, next }) => {
            format!("Pieces: {}, then {}", pieces.len(), place(next.as_ref()))
        }
        Message::Mending(Mending::Want(chunk)) => format!("Want {chunk}"),
        Message::Mending(Mending::Have { chunk, bytes, .. }) => format!("Have {chunk}: {}", bytes.is_some()),
        other => format!("{other:?}"),
    }
}

fn epochs(epochs: &[lockstep_storage::superblock::EpochEntry]) -> String {
    let each: Vec<String> = epochs.iter().map(|e| format!("{} from {}", e.epoch, e.first)).collect();
    format!("[{}]", each.join(", "))
}

fn records(records: &[Record]) -> String {
    let each = records.iter().map(|record| {
        let what = match record.mutation() {
            Ok(Mutation::Data(data)) => format!("Data {:?} {}", data.body.map(|b| b.seq), data.index),
            Ok(Mutation::PutObject(put)) => {
                let bodies: Vec<u64> = put.object.extents.iter().map(|e| e.body.seq).collect();
                format!("Put {}/{} {bodies:?}", put.bucket, put.key)
            }
            Ok(Mutation::DeleteObject(delete)) => format!("Delete {}/{}", delete.bucket, delete.key),
            Ok(Mutation::AbandonBody(abandon)) => format!("Abandon {}", abandon.body.seq),
            Ok(other) => format!("kind {}", other.kind()),
            Err(error) => error.to_string(),
        };
        format!("{}:{what}", record.header.seq)
    });
    format!("[{}]", each.collect::<Vec<_>>().join(", "))
}
