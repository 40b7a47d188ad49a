//! Events and effects in few words, for a trace that people read.

use lockstep_mirror::event::{Effect, Event};
use lockstep_mirror::message::Message;
use lockstep_storage::op::Mutation;
use lockstep_storage::record::Record;

/// An event in one line.
#[must_use]
pub(super) fn event(event: &Event) -> String {
    match event {
        Event::Received { origin, connection, message: m } => format!("{origin}#{} {}", connection.0, message(m)),
        Event::Fetched { origin, records: r, .. } => format!("Fetched {origin} {}", records(r)),
        Event::Submit { ticket, origin, require, .. } => format!("Submit {origin} t{} {require:?}", ticket.0),
        Event::Flushed { origin, progress } => format!(
            "Flushed {origin} appended {} applied {} trimmed {}",
            progress.appended, progress.applied, progress.trimmed
        ),
        Event::Applied { origin, at } => format!("Applied {origin} {at}"),
        Event::Cut { origin, at } => format!("Cut {origin} {at}"),
        other => format!("{other:?}"),
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
            format!("Write at {offset} [{}]", seqs.join(" "))
        }
        Effect::Send { origin, connection, message: m } => format!("Send {origin}#{} {}", connection.0, message(m)),
        Effect::Append { origin, records: r } => format!("Append {origin} {}", records(r)),
        Effect::Cut { origin, last, .. } => format!("Cut {origin} to {last}"),
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
        Message::Ack(a) => format!("Ack received {} persisted {} applied {}", a.received, a.persisted, a.applied),
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
