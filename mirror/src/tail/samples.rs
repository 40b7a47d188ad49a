//! Records for the tests of this module.

use bytes::Bytes;
use lockstep_storage::id::{Epoch, NodeId, Position, Seq};
use lockstep_storage::op::{DeleteObject, Mutation};
use lockstep_storage::record::{Draft, Place, Record};

/// The epoch of [`history`].
pub(super) const EPOCH: Epoch = Epoch { counter: 3, node: NodeId(0x1234_5678_0000_0000) };

/// `count` records after the seq `after`, the same at every call with the same `flavour`.
pub(super) fn history(after: u64, count: u64, flavour: u8) -> Vec<Record> {
    let parent = Position { epoch: EPOCH, seq: Seq(after), checksum: after };
    let delete = |seq| {
        let key = format!("key-{seq}-{flavour}");
        Draft::new(Mutation::DeleteObject(DeleteObject { bucket: "b".into(), key }), Bytes::from(vec![flavour; 40]))
    };
    chain(parent, (1..=count).map(|n| delete(after + n).expect("a small one")))
}

/// Drafts as a history after `parent`.
pub(super) fn chain(mut parent: Position, drafts: impl IntoIterator<Item = Draft>) -> Vec<Record> {
    let place = |draft: Draft| {
        let known = parent.seq;
        let record = draft.place(&Place { parent, epoch: EPOCH, committed: known, persisted: known, time_ms: 1000 });
        parent = record.position();
        record
    };
    drafts.into_iter().map(place).collect()
}

/// As they lie in a file.
pub(super) fn bytes(records: &[Record]) -> Vec<u8> {
    records.iter().flat_map(|record| [&record.head[..], &record.payload[..]].concat()).collect()
}
