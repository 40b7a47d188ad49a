//! Two nodes as they are in a healthy pair, for the tests of this module, and the tests of the view itself.

use lockstep_mirror::client::{Role, RoleChange};
use lockstep_mirror::plan::Policy;
use lockstep_mirror::status::{DeviceStatus, OriginStatus, Status, StreamState};
use lockstep_mirror::tail::{TailFile, TailName};
use lockstep_storage::id::{Epoch, Origin, Seq};

use super::NodeView;
use crate::hook::HookRun;

fn origin(name: &str, role: Role, state: StreamState, peer: Option<&str>) -> OriginStatus {
    let name = Origin::new(name).unwrap();
    OriginStatus {
        epoch: Epoch::default().next(name.node_id()),
        origin: name,
        role,
        state,
        reason: String::new(),
        alone: false,
        peer: peer.map(|peer| Origin::new(peer).unwrap()),
        policy: (role == Role::Source && peer.is_some()).then_some(Policy::Sync),
        last: Seq(12),
        persisted: Seq(12),
        committed: Seq(12),
        applied: Seq(12),
        flushed: Seq(10),
        peer_persisted: Seq(12),
        peer_applied: Seq(10),
        consistency_point: Seq(10),
        consistency_point_ms: 999_000,
        behind_bytes: 0,
        behind_ms: 0,
        unapplied_ms: 0,
        last_contact_ms: 999_900,
        degraded_acks: 0,
        mirrored_acks: 12,
        connects: 1,
        linked: peer.is_some(),
        link_losses: 0,
        flapping: false,
        state_changes: 2,
        skew_ms: peer.map(|_| -12),
        segments: (3, 1, 0),
        segment_len: 16 << 20,
        segment_waits: 0,
        full: false,
        stuck: None,
        trimmed: Seq(9),
        baseline: None,
        rebuilding: false,
        repaired: 0,
        unrepaired: 0,
    }
}

fn node(name: &str, origins: Vec<OriginStatus>) -> Status {
    Status {
        node: Origin::new(name).unwrap(),
        incarnation: 1,
        persist_class: "device",
        origins,
        batches: 6,
        batch_records: 12,
        batch_bytes: 49_152,
        persist_us: 3_000,
        device: DeviceStatus::default(),
    }
}

/// The node whose clients write.
pub(in crate::admin) fn source() -> Status {
    node("site-a", vec![origin("site-a", Role::Source, StreamState::InSync, Some("site-b"))])
}

/// The node that mirrors it, and has no mirror of its own.
pub(in crate::admin) fn standby() -> Status {
    let own = origin("site-b", Role::Source, StreamState::Alone, None);
    node("site-b", vec![own, origin("site-a", Role::Destination, StreamState::InSync, Some("site-a"))])
}

#[test]
fn the_view_survives_json_and_says_what_matters() {
    let name = TailName::new(Origin::new("site-a").unwrap(), "1-4796d49f").unwrap();
    let tail = TailFile { name, bytes: 3 << 20, set_aside_ms: 900_000 };
    let (origin, epoch) = (Origin::new("site-a").unwrap(), Epoch::default());
    let change = RoleChange { origin, role: Role::Source, began: Role::Destination, epoch, seq: Seq(7), number: 1 };
    let run = HookRun { change, ended_ms: 990_000, good: false, outcome: "exit status: 1".into(), tries: 3 };
    let view = NodeView::new(&source(), 60, 1_000_000).with_tails(&[tail]).with_hook(Some(run), 1_000_000);
    let json = serde_json::to_string(&view).unwrap();
    assert_eq!(serde_json::from_str::<NodeView>(&json).unwrap(), view);
    let text = view.text();
    for expected in [
        "node site-a",
        "in_sync",
        "link               up, lost 0 times   clock of the peer -12 ms",
        "policy sync",
        "peer site-b",
        "10 (1.0 s ago)",
        "3 free, 1 active",
        "1 set aside, 3",
        "site-a source (0-00000000, seq 7): exit status: 1 10 s ago, try 3",
    ] {
        assert!(text.contains(expected), "missing '{expected}' in:\n{text}");
    }
    assert!(!text.contains("SLOW") && !text.contains("FLAPPING"), "{text}");
    let mut status = source();
    status.device = DeviceStatus { slow: true, slow_ms: 4_200, worst_ms: 1_300, ..DeviceStatus::default() };
    status.origins[0].flapping = true;
    let text = NodeView::new(&status, 60, 1_000_000).text();
    assert!(text.contains("NVRAM SLOW for 4 s: a persist took up to 1300 ms"), "{text}");
    assert!(text.contains("lost 0 times   FLAPPING"), "{text}");
}
