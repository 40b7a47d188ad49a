//! The search over images in memory: what it names is what differs, and it asks little.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use lockstep_storage::id::{BodyId, Epoch, NodeId, Seq};
use lockstep_storage::image::memory::MemoryEngine;
use lockstep_storage::image::view::parts::{Cut, KeyRange};
use lockstep_storage::image::{Change, Engine, Family, Image, View, keys};
use lockstep_storage::op::{Extent, Object};
use lockstep_storage::record::payload_crc;

use super::*;
use crate::admin::verify::parts::{PartView, answers};
use crate::demo::workload::Random;

const ID: &str = "0123456789abcdef0123456789abcdef";

type Entries = BTreeMap<Vec<u8>, Bytes>;

/// A node with an image, which counts what it is asked.
struct Site {
    view: View,
    asked: Cell<usize>,
    /// What is added to its seq at every question.
    moves: u64,
}

impl Site {
    fn new(entries: &Entries) -> Self {
        let engine = Arc::new(MemoryEngine::new());
        let put = |(key, value): (&Vec<u8>, &Bytes)| Change::Put(Family::Image, key.clone(), value.clone());
        engine.commit(entries.iter().map(put).collect()).expect("commits");
        Self::of(engine)
    }

    fn of(engine: Arc<MemoryEngine>) -> Self {
        Self { view: Image::new(engine).view(), asked: Cell::new(0), moves: 0 }
    }

    fn at(&self, mut at: At) -> At {
        self.asked.set(self.asked.get() + 1);
        at.seq += self.moves * self.asked.get() as u64;
        at
    }

    fn digest(&self, node: &str, deep: bool) -> DigestView {
        let whole = self.view.digest_parts(&KeyRange::default(), &Cut::Every(1, 1), deep).expect("reads");
        DigestView {
            origin: "site-a".into(),
            node: node.into(),
            epoch: Epoch::default().to_string(),
            seq: 0,
            entries: whole[0].entries,
            checksum: format!("{:016x}", whole[0].checksum),
            body_bytes: None,
            body_checksum: None,
            damaged: deep.then_some(whole[0].damaged),
            chunks_damaged: None,
            chunks_repaired: None,
        }
    }
}

impl Looked for Site {
    async fn parts(&self, body: &PartsBody) -> Result<PartsView, String> {
        let view = answers::parts(&self.view, body)?;
        Ok(PartsView { at: self.at(view.at), parts: view.parts })
    }

    async fn entries(&self, body: &EntriesBody) -> Result<EntriesView, String> {
        let view = answers::entries(&self.view, body)?;
        Ok(EntriesView { at: self.at(view.at), ..view })
    }
}

/// What is named of one site, or of two.
async fn named(sites: &[&Site], deep: bool) -> Result<Named, String> {
    let nodes: Vec<_> = ["site-a", "site-b"].iter().zip(sites).map(|(name, site)| site.digest(name, deep)).collect();
    let body = VerifyBody { origin: "site-a".into(), deep, repair: false };
    let mut walk = Walk::new(&body, &nodes);
    walk.run_through(sites).await?;
    Ok(walk.named)
}

fn objects(count: usize) -> Entries {
    (0..count).map(|number| (keys::object("bk", &format!("k{number:06}")), Bytes::from(number.to_string()))).collect()
}

#[tokio::test]
async fn every_kind_is_named_with_who_lacks_it() {
    let (mut here, mut there) = (objects(1000), objects(1000));
    here.remove(&keys::object("bk", "k000500"));
    there.remove(&keys::object("bk", "k000000"));
    there.insert(keys::object("bk", "k000999"), Bytes::from_static(b"another"));
    here.insert(keys::object("bk", "odd\n\u{7}"), Bytes::new());
    for key in [keys::bucket("one"), keys::upload("bk", "a\0b", ID), keys::access_key("AK")] {
        here.insert(key, Bytes::new());
    }
    for key in [keys::bucket("two"), keys::part(ID, 7), keys::user("alice")] {
        there.insert(key, Bytes::new());
    }
    let found = named(&[&Site::new(&here), &Site::new(&there)], false).await.expect("named");
    let expected = format!(
        "  bucket one: missing at site-b\n\
         \x20 bucket two: missing at site-a\n\
         \x20 object bk/k000000: missing at site-b\n\
         \x20 object bk/k000500: missing at site-a\n\
         \x20 object bk/k000999: differs\n\
         \x20 object bk/odd\\n\\u{{7}}: missing at site-b\n\
         \x20 upload {ID} of bk/a\\0b: missing at site-b\n\
         \x20 part 7 of upload {ID}: missing at site-a\n\
         \x20 access key AK: missing at site-b\n\
         \x20 user alice: missing at site-a\n"
    );
    assert_eq!(found.text(), expected);
    let json = serde_json::to_value(&found.differences[2]).expect("JSON");
    let expected = json!({
        "kind": "object", "bucket": "bk", "key": "k000000", "found": "missing", "at": "site-b"
    });
    assert_eq!(json, expected);
}

#[tokio::test]
async fn what_is_named_is_what_differs() {
    let mut random = Random::new(7);
    for round in 0..60 {
        let count = random.below(3000) as usize;
        let (mut here, mut there) = (objects(count), objects(count));
        for _ in 0..random.below(90) {
            let key = keys::object("bk", &format!("k{:06}", random.below(4000)));
            let entries = if random.below(2) == 0 { &mut here } else { &mut there };
            if random.below(2) == 0 {
                entries.remove(&key);
            } else {
                entries.insert(key, Bytes::from_static(b"changed"));
            }
        }
        let found = named(&[&Site::new(&here), &Site::new(&there)], false).await.expect("named");
        let all = here.keys().chain(there.keys()).collect::<std::collections::BTreeSet<_>>();
        let expected = all.into_iter().filter(|key| here.get(*key) != there.get(*key)).map(|key| {
            let name = String::from_utf8_lossy(&key[4..]).into_owned();
            let at = match (here.get(key), there.get(key)) {
                (None, _) => Some("site-a".to_owned()),
                (_, None) => Some("site-b".to_owned()),
                _ => None,
            };
            (NameView::Object { bucket: "bk".into(), key: name }, at)
        });
        let found: Vec<_> = found.differences.into_iter().map(|found| (found.name, found.at)).collect();
        assert_eq!(found, expected.collect::<Vec<_>>(), "round {round}");
    }
}

#[tokio::test]
async fn one_difference_among_many_costs_few_questions() {
    let (here, mut there) = (objects(40_000), objects(40_000));
    there.insert(keys::object("bk", "k031415"), Bytes::from_static(b"another"));
    let (here, there) = (Site::new(&here), Site::new(&there));
    assert_eq!(named(&[&here, &there], false).await.expect("named").differences.len(), 1);
    // Cut into sixteenths until 64 are left, then named.
    assert!(here.asked.get() <= 4 && there.asked.get() <= 4, "{} and {}", here.asked.get(), there.asked.get());
}

#[tokio::test]
async fn no_more_are_named_than_the_most() {
    for (differ, named_too, more) in [(99, 99, false), (100, 100, false), (101, 100, true), (5000, 100, true)] {
        let (here, mut there) = (objects(5000), objects(5000));
        there.values_mut().take(differ).for_each(|value| *value = Bytes::from_static(b"another"));
        let found = named(&[&Site::new(&here), &Site::new(&there)], false).await.expect("named");
        assert_eq!((found.differences.len(), found.more), (named_too, more), "{differ} differ");
    }
    // A site that has nothing at all.
    let found = named(&[&Site::new(&Entries::new()), &Site::new(&objects(5000))], false).await.expect("named");
    assert!(found.more && found.differences.iter().all(|one| one.at.as_deref() == Some("site-a")));
}

#[tokio::test]
async fn images_that_move_meanwhile_are_not_compared() {
    let (here, mut there) = (objects(1000), objects(1000));
    there.insert(keys::object("bk", "k000700"), Bytes::from_static(b"another"));
    let (here, mut there) = (Site::new(&here), Site::new(&there));
    there.moves = 1;
    let refused = named(&[&here, &there], false).await.expect_err("it moves");
    assert!(refused.starts_with("the image at site-b went on from"), "{refused}");
}

/// Answers that lead nowhere: every range can be cut in two, and nothing is ever the same or less.
struct Endless(&'static str, Cell<usize>);

impl Looked for Endless {
    async fn parts(&self, body: &PartsBody) -> Result<PartsView, String> {
        self.1.set(self.1.get() + 1);
        let cut = body.before.first().cloned().unwrap_or_else(|| STANDARD.encode(self.1.get().to_string()));
        let part = |until| PartView {
            until,
            entries: 1000,
            checksum: self.0.into(),
            body_bytes: None,
            body_checksum: None,
            damaged: 0,
        };
        let at = At { epoch: Epoch::default().to_string(), seq: 0 };
        Ok(PartsView { at, parts: vec![part(Some(cut)), part(body.until.clone())] })
    }

    async fn entries(&self, _body: &EntriesBody) -> Result<EntriesView, String> {
        Err("never so few".into())
    }
}

#[tokio::test]
async fn nodes_that_answer_without_end_are_not_asked_without_end() {
    let (one, other) = (Endless("1", Cell::new(0)), Endless("2", Cell::new(0)));
    let many = Site::new(&objects(1000));
    let nodes = [many.digest("site-a", false), many.digest("site-b", false)];
    let body = VerifyBody { origin: "site-a".into(), deep: false, repair: false };
    let refused = Walk::new(&body, &nodes).run_through(&[&one, &other]).await.expect_err("no end");
    assert!(refused.contains("no end") && one.1.get() == RANGES_MAX, "{} questions: {refused}", one.1.get());
}

#[tokio::test]
async fn bodies_are_compared_and_damage_is_named_in_the_deep_one() {
    let body = |seq| BodyId { epoch: Epoch { counter: 1, node: NodeId(2) }, seq: Seq(seq) };
    let site = |damage: &[u64], other: &[u64]| {
        let engine = Arc::new(MemoryEngine::new());
        let mut changes = Vec::new();
        for seq in 0..300_u64 {
            let extent = Extent { body: body(seq).into(), len: 5, chunk_len: 8, part_number: 0 };
            let object = keys::encode_object(Object { extents: vec![extent], ..Object::default() });
            let chunk: &[u8] = if other.contains(&seq) { b"BYTES" } else { b"bytes" };
            let crc = Bytes::copy_from_slice(&payload_crc(chunk).to_be_bytes());
            changes.push(Change::Put(Family::Image, keys::object("bk", &format!("{seq:03}")), object));
            changes.push(Change::Put(Family::Body, keys::chunk_crc(body(seq), 0), crc));
            if !damage.contains(&seq) {
                changes.push(Change::Put(Family::Body, keys::chunk(body(seq), 0), Bytes::copy_from_slice(chunk)));
            }
        }
        engine.commit(changes).expect("commits");
        Site::of(engine)
    };
    let (here, there) = (site(&[200], &[]), site(&[10, 200], &[299]));
    assert!(named(&[&here, &there], false).await.expect("named").differences.is_empty(), "bodies were not asked for");
    let chunk = |seq| format!("corrupt: chunk 0 of body {}/{seq}: missing", body(seq).epoch);
    let expected = format!(
        "  object bk/010: damaged at site-b: {}\n  object bk/200: damaged at site-a: {}\n  object bk/200: damaged at \
         site-b: {}\n  object bk/299: the bytes of its body differ\n",
        chunk(10),
        chunk(200),
        chunk(200)
    );
    assert_eq!(named(&[&here, &there], true).await.expect("named").text(), expected);
    // One node by itself.
    let expected = format!("  object bk/200: damaged at site-a: {}\n", chunk(200));
    assert_eq!(named(&[&here], true).await.expect("named").text(), expected);
}
