//! What a deposed source set aside, held against what clients were told. Every acknowledged write that the change of the
//! source lost must be in it, in its place, and besides these only writes whose clients had no answer; all with every byte.

use bytes::Bytes;
use serde_json::Value as Json;

use super::{ORIGIN, Round};
use crate::history::loss::Change;
use crate::history::{Action, Operation, Outcome, Place};
use crate::process::clients::promotes;
use crate::process::clients::record::Record;
use crate::process::figures::Figures;

/// A tail, exported.
pub(super) struct Tail {
    /// Of the node's name and the epoch in which the histories parted.
    name: String,
    /// After which change it was found.
    change: Change,
    ops: Vec<TailOp>,
    /// What is wrong with the export itself, in a sentence each.
    wrong: Vec<String>,
}

/// A write in a tail.
struct TailOp {
    place: Place,
    key: String,
    /// Its bytes; none for a delete.
    body: Option<Body>,
}

/// An object's bytes.
struct Body {
    bytes: Bytes,
    /// So many of them are not there.
    missing: u64,
    /// So many came before the first record of the tail.
    beside: u64,
}

impl Round {
    /// Exports the tails of the deposed source that were not there before.
    pub(super) async fn collect_tails(&mut self) -> Result<(), String> {
        let Some(change) = self.changes.last().copied() else { return Ok(()) };
        let site = self.destination();
        let said = site.operate(&["tail", "list", ORIGIN, "--json"]).await?;
        let list: Json = serde_json::from_str(&said).map_err(|error| format!("{error}: {said}"))?;
        let found = list["tails"].as_array().cloned().unwrap_or_default();
        let mut new = Vec::new();
        for view in found {
            let epoch = view["epoch"].as_str().unwrap_or_default().to_owned();
            let name = format!("{} {epoch}", self.destination().name);
            if self.tails.iter().any(|tail| tail.name == name) {
                continue;
            }
            let site = self.destination();
            let to = site.dir.with_extension(format!("tail-{epoch}"));
            let words = ["tail", "export", ORIGIN, "--epoch", &epoch, "--to", &to.display().to_string(), "--json"];
            site.operate(&words).await?;
            new.push(Tail::read(name, change, &view, &to)?);
        }
        self.tails.extend(new);
        Ok(())
    }
}

impl Tail {
    fn read(name: String, change: Change, view: &Json, dir: &std::path::Path) -> Result<Self, String> {
        let mut wrong = Vec::new();
        for (what, sound) in [("damage", Json::Null), ("breaks", 0.into()), ("damaged_payloads", 0.into())] {
            if view[what] != sound {
                wrong.push(format!("the tail {name} has {what} {}", view[what]));
            }
        }
        let file = dir.join("ops.jsonl");
        let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let (mut ops, mut next) = (Vec::new(), change.last_seq + 1);
        for line in text.lines() {
            let op: Json = serde_json::from_str(line).map_err(|error| format!("{error}: {line}"))?;
            let seq = op["seq"].as_u64().unwrap_or_default();
            if seq != next {
                wrong.push(format!("the tail {name} has record {seq} where {next} was to come"));
            }
            next = seq + 1;
            let is_put = op["kind"] == "put_object";
            let Some(key) = op["key"].as_str().filter(|_| is_put || op["kind"] == "delete_object") else { continue };
            let promotes = op["epoch"].as_str().and_then(promotes).unwrap_or_default();
            let read = |file: &str| std::fs::read(dir.join(file)).map_err(|error| format!("{file}: {error}"));
            let bytes = match op["file"].as_str() {
                Some(file) => Some(read(file)?),
                // Where nothing of it is there, there is no file.
                None => is_put.then(Vec::new),
            };
            let count = |bytes: &str| op["body"][bytes].as_u64().unwrap_or_default();
            let (missing, beside) = (count("missing_bytes"), count("beside_bytes"));
            let body = bytes.map(|bytes| Body { bytes: bytes.into(), missing, beside });
            ops.push(TailOp { place: Place { promotes, seq }, key: key.to_owned(), body });
        }
        Ok(Self { name, change, ops, wrong })
    }
}

/// Holds every list of what is lost against the other one.
pub(super) fn judge(figures: &mut Figures, record: &Record, changes: &[Change], tails: &[Tail]) {
    for change in changes {
        let lost = lost_by(record, change);
        let mut found: Vec<&Tail> = tails.iter().filter(|tail| tail.change == *change).collect();
        let Some(tail) = found.pop() else {
            figures
                .check(lost.is_empty(), format!("{} acknowledged writes are lost, and no tail has them", lost.len()));
            continue;
        };
        figures.check(found.is_empty(), format!("one change of the source left {} tails", found.len() + 1));
        let wrong = tail.judge(record, &lost);
        figures.set_aside += tail.ops.len() as u64;
        let began_before = tail.ops.iter().filter(|op| op.body.as_ref().is_some_and(|body| body.beside > 0)).count();
        let remark = format!(
            "a tail of {} writes, {} acknowledged ones were lost, {began_before} had begun before it",
            tail.ops.len(),
            lost.len()
        );
        figures.remarks.push(remark);
        figures.different.extend(wrong);
    }
}

/// Every acknowledged write that a change of the source lost, with its key.
fn lost_by<'a>(record: &'a Record, change: &Change) -> Vec<(String, &'a Operation)> {
    record.writes().filter(|(_, operation)| change.loses(operation)).collect()
}

impl Tail {
    fn judge(&self, record: &Record, lost: &[(String, &Operation)]) -> Vec<String> {
        let mut wrong = self.wrong.clone();
        let mut unanswered: Vec<(String, &Operation)> =
            record.writes().filter(|(_, operation)| operation.outcome == Outcome::Unknown).collect();
        for op in &self.ops {
            if let Some(body) = op.body.as_ref().filter(|body| body.missing > 0) {
                let (name, key, place, missing) = (&self.name, &op.key, op.place, body.missing);
                wrong.push(format!("the tail {name} lacks {missing} bytes of a write of {key} at {place:?}"));
                continue;
            }
            let value = op.body.as_ref().map(|body| record.value(&op.key, &body.bytes));
            let is_it = |(key, operation): &(String, &Operation)| {
                *key == op.key
                    && match (operation.action, value) {
                        (Action::Delete, None) => true,
                        (Action::Put { value, .. }, Some(Some(found))) => value == found,
                        _ => false,
                    }
            };
            if lost.iter().any(|entry| is_it(entry) && entry.1.place == Some(op.place)) {
                continue;
            }
            // Each operation stands for one record.
            match unanswered.iter().position(is_it) {
                Some(index) => drop(unanswered.swap_remove(index)),
                None => wrong.push(format!(
                    "the tail {} has a write of {} at {:?} that nobody lost: {value:?}, {:?} bytes",
                    self.name,
                    op.key,
                    op.place,
                    op.body.as_ref().map(|body| body.bytes.len())
                )),
            }
        }
        for (key, operation) in lost {
            if !self.ops.iter().any(|op| op.key == *key && operation.place == Some(op.place)) {
                wrong.push(format!("the tail {} lacks an acknowledged write of {key}: {operation}", self.name));
            }
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::history::{Condition, Value};
    use crate::process::clients::record::ELEMENT;

    const CHANGE: Change = Change { at: Duration::from_secs(9), promotes: 1, last_seq: 100 };

    /// An addition to the set; acknowledged in this place, or not answered.
    fn addition(value: Value, seq: Option<u64>) -> Operation {
        Operation {
            client: 0,
            action: Action::Put { value, when: Condition::Always },
            outcome: if seq.is_some() { Outcome::Done } else { Outcome::Unknown },
            began: Duration::from_secs(value),
            ended: Duration::from_secs(value + 1),
            place: seq.map(|seq| Place { promotes: 0, seq }),
            local: true,
            note: String::new(),
        }
    }

    fn op(value: Value, seq: u64) -> TailOp {
        TailOp {
            place: Place { promotes: 0, seq },
            key: format!("set/{value}"),
            body: Some(Body { bytes: Bytes::from_static(ELEMENT), missing: 0, beside: 0 }),
        }
    }

    /// What is said of a tail where v1 was acknowledged and kept, v2 and v4 acknowledged and lost, and v3 not answered.
    fn said(ops: Vec<TailOp>) -> Vec<String> {
        let mut record = Record::default();
        record.additions =
            vec![addition(1, Some(100)), addition(2, Some(101)), addition(3, None), addition(4, Some(103))];
        let lost = lost_by(&record, &CHANGE);
        Tail { name: "t".into(), change: CHANGE, ops, wrong: Vec::new() }.judge(&record, &lost)
    }

    #[test]
    fn a_tail_is_what_was_lost_and_what_had_no_answer() {
        assert_eq!(said(vec![op(2, 101), op(3, 102), op(4, 103)]), Vec::<String>::new());
        assert_eq!(said(vec![op(2, 101), op(4, 103)]), Vec::<String>::new());
    }

    #[test]
    fn what_a_tail_lacks_or_has_too_much_is_said() {
        let one = |ops: Vec<TailOp>, words: &str| {
            let said = said(ops);
            assert!(said.len() == 1 && said[0].contains(words), "{said:?}");
        };
        one(vec![op(2, 101)], "lacks an acknowledged write of set/4");
        one(vec![op(1, 100), op(2, 101), op(4, 103)], "has a write of set/1");
        one(vec![op(2, 101), op(3, 102), op(3, 104), op(4, 103)], "has a write of set/3");
        one(vec![op(2, 101), op(5, 102), op(4, 103)], "has a write of set/5");
        let with = |value, seq, bytes, missing| {
            let body = Some(Body { bytes: Bytes::from_static(bytes), missing, beside: 0 });
            TailOp { body, ..op(value, seq) }
        };
        one(vec![op(2, 101), with(3, 102, b"Element", 0), op(4, 103)], "has a write of set/3");
        // Whether a client was told of it or not.
        one(vec![op(2, 101), with(3, 102, b"elemen\0", 1), op(4, 103)], "lacks 1 bytes of a write of set/3");
        one(vec![op(2, 101), with(4, 103, b"elemen\0", 1)], "lacks 1 bytes of a write of set/4");
    }
}
