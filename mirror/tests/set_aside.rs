//! What a deposed source sets aside, from its container into files and back: above all the chunks of objects that had begun
//! before the histories parted, which lie in the container only until it is cut and collected, or replaced.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use lockstep_mirror::event::{BaselineTask, Effect};
use lockstep_mirror::plan::Limits;
use lockstep_mirror::tail::bodies::{Index, Piece, pieces};
use lockstep_mirror::tail::{TailFile, Tails};
use lockstep_mirror::worker::{Aside, Generations, Worker};
use lockstep_storage::id::{BodyId, Epoch, NodeId, Origin, Position, Seq};
use lockstep_storage::image::memory::MemoryEngine;
use lockstep_storage::image::{Change, Engine, Family, Image, ImageError, keys};
use lockstep_storage::op::{
    self, BeginEpoch, Bucket, CHUNK_LEN, CompleteMultipartUpload, CreateBucket, CreateMultipartUpload, Data,
    DeleteObject, Extent, Mutation, Object, Part, PutObject, Upload, UploadPart,
};
use lockstep_storage::record::{Draft, Place};

const EPOCH: Epoch = Epoch { counter: 3, node: NodeId(0x1234_5678_0000_0000) };
const LATER: Epoch = Epoch { counter: 1 << 32, node: NodeId(0x9999_9999_0000_0000) };
const UPLOAD: &str = "00000000000000000000000000000001";
/// The last chunk of every body is so long.
const REST: u64 = 7;

struct NoOthers;

impl Generations for NoOthers {
    fn open(&mut self, generation: u64) -> Result<Arc<dyn Engine>, ImageError> {
        panic!("nobody asks for generation {generation}")
    }

    fn remove(&mut self, _generation: u64) -> Result<(), ImageError> {
        Ok(())
    }

    fn free_bytes(&mut self) -> Option<u64> {
        None
    }
}

/// A container with a history, and a data directory.
struct Scene {
    dir: tempfile::TempDir,
    engine: Arc<MemoryEngine>,
    image: Image,
    last: Position,
}

fn origin() -> Origin {
    Origin::new("site-a").expect("it works")
}

impl Scene {
    fn new() -> Self {
        let engine = Arc::new(MemoryEngine::new());
        let image = Image::new(Arc::clone(&engine) as Arc<dyn Engine>);
        let mut scene = Self { dir: tempfile::tempdir().expect("it works"), engine, image, last: Position::default() };
        let bucket = CreateBucket { bucket: "b".into(), meta: Bucket::default() };
        scene.append(Mutation::CreateBucket(bucket));
        scene
    }

    fn tails(&self) -> Tails {
        Tails::new(self.dir.path().to_owned())
    }

    fn add(&mut self, epoch: Epoch, mutation: Mutation, payload: Vec<u8>) -> Seq {
        let known = self.last.seq;
        let place = Place { parent: self.last, epoch, committed: known, persisted: known, time_ms: 1000 };
        let record = Draft::new(mutation, payload.into()).expect("it works").place(&place);
        self.last = self.image.append(&[record]).expect("it works");
        self.last.seq
    }

    fn append(&mut self, mutation: Mutation) -> Seq {
        self.add(EPOCH, mutation, Vec::new())
    }

    /// A whole chunk of a body, the first where there is none yet; filled with its number and one more.
    fn chunk(&mut self, body: Option<BodyId>, index: u32) -> BodyId {
        let data = Data { body: body.map(Into::into), index };
        let seq = self.add(EPOCH, Mutation::Data(data), vec![index as u8 + 1; CHUNK_LEN]);
        body.unwrap_or(BodyId { epoch: EPOCH, seq })
    }

    /// The last one.
    fn rest(&mut self, body: BodyId, index: u32) {
        let data = Data { body: Some(body.into()), index };
        self.add(EPOCH, Mutation::Data(data), vec![index as u8 + 1; REST as usize]);
    }

    fn put(&mut self, key: &str, object: Object) -> Seq {
        self.append(Mutation::PutObject(PutObject { bucket: "b".into(), key: key.into(), object }))
    }

    fn part(&mut self, number: u32, body: BodyId, len: u64) -> Seq {
        let part = Part { len, extents: object(&[(body, len)]).extents, ..Part::default() };
        let (bucket, key, upload_id) = ("b".into(), "parts".into(), UPLOAD.into());
        self.append(Mutation::UploadPart(UploadPart { bucket, key, upload_id, part_number: number, part }))
    }

    fn begin_upload(&mut self) {
        let (bucket, key, upload_id) = ("b".into(), "parts".into(), UPLOAD.into());
        let op = CreateMultipartUpload { bucket, key, upload_id, upload: Upload::default() };
        self.append(Mutation::CreateMultipartUpload(op));
    }

    fn complete(&mut self, object: Object) -> Seq {
        let (bucket, key, upload_id) = ("b".into(), "parts".into(), UPLOAD.into());
        self.append(Mutation::CompleteMultipartUpload(CompleteMultipartUpload { bucket, key, upload_id, object }))
    }

    fn apply(&self, through: Seq) {
        while self.image.apply(through, 100).expect("it works").seq < through {}
    }

    /// A worker whose disk is full after so many steps of a cut.
    fn worker(&self, steps: usize) -> Worker {
        let mut tail = self.tails().writer();
        let left = AtomicUsize::new(steps);
        let set_aside = Box::new(move |origin: &Origin, epoch, step: Aside<'_>| {
            let more = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            more.map_err(|_| ImageError::NoSpace)?;
            tail.take(origin, epoch, step)
        });
        Worker::new(origin(), self.image.clone(), Limits::default(), set_aside, Box::new(NoOthers))
    }

    fn cut(&self, last: Position) {
        let cut = Effect::Cut { origin: origin(), last, epoch: EPOCH, generation: 1 };
        self.worker(usize::MAX).carry_out(cut).expect("it works");
    }

    fn give_way(&self, common: Seq, after: Seq) {
        let task = BaselineTask::SetAside { common, after, epoch: EPOCH };
        self.worker(usize::MAX).carry_out(Effect::Baseline { origin: origin(), task }).expect("it works");
    }

    /// The history that goes on begins: what an epoch before it left open is collected.
    fn collect(&mut self) {
        let begun = BeginEpoch { node: "site-b".into() };
        self.last = self.image.progress().expect("it works").appended;
        let last = self.add(LATER, Mutation::BeginEpoch(begun), Vec::new());
        self.apply(last);
        while self.image.collect(last, 100).expect("it works") > 0 {}
    }

    fn the_tail(&self) -> TailFile {
        let mut tails = self.tails().list().expect("it works");
        assert_eq!(tails.len(), 1, "{tails:?}");
        tails.remove(0)
    }

    fn beside(&self) -> std::path::PathBuf {
        self.dir.path().join("tail-bodies.site-a.3-12345678")
    }

    /// Where the bytes of the object are that the op at `seq` put; every chunk with the byte that it is full of.
    fn exported(&self, seq: Seq) -> Vec<String> {
        let (tails, name) = (self.tails(), self.the_tail().name);
        let view = self.image.view();
        let container = |body, index| view.chunk(body, index).ok();
        let (mut index, mut reader, mut shown) = (Index::default(), tails.open(&name).expect("it works"), Vec::new());
        while let Some(head) = reader.next_head().expect("it works") {
            index.note(&head);
            let object = match head.record().mutation() {
                Ok(Mutation::PutObject(op)) if head.header.seq == seq => op.object,
                Ok(Mutation::CompleteMultipartUpload(op)) if head.header.seq == seq => op.object,
                _ => continue,
            };
            pieces((&tails, &name, &index), &head, &object, &container, &mut |piece| {
                shown.push(match piece {
                    Piece::Tail(bytes) => format!("tail {}", fill(&bytes)),
                    Piece::Beside(bytes) => format!("beside {}", fill(&bytes)),
                    Piece::Container(bytes) => format!("container {}", fill(&bytes)),
                    Piece::Missing(len) => format!("missing {len}"),
                });
                Ok(())
            })
            .expect("it works");
        }
        assert_eq!(reader.damage(), None);
        shown
    }
}

fn fill(bytes: &Bytes) -> u8 {
    assert!(bytes.iter().all(|byte| *byte == bytes[0]));
    bytes[0]
}

fn object(bodies: &[(BodyId, u64)]) -> Object {
    let extent = |(body, len): &(BodyId, u64)| Extent {
        body: op::BodyId::from(*body),
        len: *len,
        chunk_len: CHUNK_LEN as u32,
        part_number: 0,
    };
    let len = bodies.iter().map(|(_, len)| len).sum();
    Object { len, extents: bodies.iter().map(extent).collect(), ..Object::default() }
}

/// The length of so many chunks and the rest.
fn len(chunks: u64) -> u64 {
    chunks * CHUNK_LEN as u64 + REST
}

/// Everything in a directory, by name.
fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("it works") {
        let path = entry.expect("it works").path();
        let name = path.file_name().expect("it works").to_str().expect("it works").to_owned();
        if path.is_dir() {
            found.extend(contents(&path).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else {
            found.push((name, std::fs::read(path).expect("it works")));
        }
    }
    found.sort();
    found
}

/// An object whose first two chunks the peer has; one that it has all chunks of; and the last record that it has.
fn begun() -> (Scene, [BodyId; 2], Position) {
    let mut scene = Scene::new();
    let one = scene.chunk(None, 0);
    let other = scene.chunk(None, 0);
    scene.chunk(Some(one), 1);
    scene.rest(other, 1);
    let common = scene.last;
    (scene, [one, other], common)
}

/// The rest of both.
fn ended() -> (Scene, [BodyId; 2], [Seq; 2], Position) {
    let (mut scene, bodies, common) = begun();
    scene.chunk(Some(bodies[0]), 2);
    let other = scene.put("other", object(&[(bodies[1], len(1))]));
    scene.rest(bodies[0], 3);
    let one = scene.put("one", object(&[(bodies[0], len(3))]));
    (scene, bodies, [one, other], common)
}

const WHOLE: [&str; 4] = ["beside 1", "beside 2", "tail 3", "tail 4"];

#[test]
fn an_object_that_had_begun_before_the_cut_is_whole_when_its_body_is_collected() {
    let (mut scene, bodies, [one, other], common) = ended();
    scene.apply(common.seq);
    scene.cut(common);
    assert_eq!(scene.exported(one), WHOLE);
    scene.collect();
    for body in bodies {
        assert!(scene.image.view().chunk(body, 0).is_err(), "{body:?} is still there");
    }
    assert_eq!(
        (scene.exported(one), scene.exported(other)),
        (WHOLE.map(String::from).into(), vec!["beside 1".to_owned(), "beside 2".to_owned()])
    );
}

#[test]
fn it_is_whole_too_when_a_baseline_replaces_the_engine_that_had_applied_it() {
    let (mut scene, _, [one, other], common) = ended();
    let last = scene.append(Mutation::DeleteObject(DeleteObject { bucket: "b".into(), key: "other".into() }));
    scene.apply(last);
    scene.give_way(common.seq, common.seq);
    scene.image = Image::new(Arc::new(MemoryEngine::new()));
    assert_eq!((scene.exported(one), scene.exported(other).len()), (WHOLE.map(String::from).into(), 2));
}

#[test]
fn what_the_common_history_refers_to_stays_where_it_is() {
    for applied in [true, false] {
        let mut scene = Scene::new();
        let body = scene.chunk(None, 0);
        scene.put("source", object(&[(body, CHUNK_LEN as u64)]));
        scene.begin_upload();
        let first = scene.chunk(None, 0);
        scene.part(1, first, CHUNK_LEN as u64);
        let second = scene.chunk(None, 0);
        let common = scene.last;
        scene.apply(common.seq);
        scene.rest(second, 1);
        scene.part(2, second, len(1));
        let copy = scene.put("copy", object(&[(body, CHUNK_LEN as u64)]));
        let whole = scene.complete(object(&[(first, CHUNK_LEN as u64), (second, len(1))]));
        if applied {
            scene.apply(whole);
            scene.give_way(common.seq, common.seq);
            // Whether the copy's source is its own body cannot be told any more.
            assert_eq!(scene.exported(copy), ["beside 1"]);
        } else {
            scene.cut(common);
            assert_eq!(scene.exported(copy), ["container 1"]);
        }
        // The first part is with the peer, in the open upload.
        assert_eq!(scene.exported(whole), ["container 1", "beside 1", "tail 2"], "applied: {applied}");
    }
}

#[test]
fn a_part_that_the_peer_never_had_is_set_aside_with_the_object_that_it_became() {
    let mut scene = Scene::new();
    scene.begin_upload();
    let common = scene.last.seq;
    let body = scene.chunk(None, 0);
    let trimmed = scene.part(1, body, CHUNK_LEN as u64);
    let whole = scene.complete(object(&[(body, CHUNK_LEN as u64)]));
    scene.apply(whole);
    scene.image.trim(trimmed).expect("it works");
    scene.give_way(common, trimmed);
    assert_eq!(scene.exported(whole), ["beside 1"]);
}

#[test]
fn of_what_the_source_has_too_only_the_records_are_set_aside_when_all_is_given_up_by_order() {
    let (mut scene, bodies, common) = begun();
    let shared = scene.put("shared", object(&[(bodies[1], len(1))]));
    scene.chunk(Some(bodies[0]), 2);
    let behind = scene.last.seq;
    let own = scene.put("own", object(&[(bodies[0], CHUNK_LEN as u64 * 3)]));
    scene.apply(own);
    scene.give_way(behind, common.seq);
    assert_eq!(scene.exported(shared), ["container 1", "container 2"]);
    assert_eq!(scene.exported(own), ["beside 1", "beside 2", "tail 3"]);
}

#[test]
fn a_copy_of_what_an_earlier_epoch_wrote_moves_no_bytes() {
    let mut scene = Scene::new();
    let body = scene.chunk(None, 0);
    scene.put("source", object(&[(body, CHUNK_LEN as u64)]));
    let common = scene.last.seq;
    scene.add(LATER, Mutation::BeginEpoch(BeginEpoch { node: "site-a".into() }), Vec::new());
    let copy = PutObject { bucket: "b".into(), key: "copy".into(), object: object(&[(body, CHUNK_LEN as u64)]) };
    let copy = scene.add(LATER, Mutation::PutObject(copy), Vec::new());
    scene.apply(copy);
    scene.give_way(common, common);
    assert_eq!((scene.exported(copy), scene.beside().exists()), (vec!["container 1".to_owned()], false));
}

#[test]
fn a_cut_that_is_interrupted_anywhere_leaves_nothing_out_and_nothing_twice() {
    let (scene, _, _, common) = ended();
    scene.cut(common);
    let whole = contents(scene.dir.path());
    // The tail, and two bodies beside it.
    assert_eq!(whole.len(), 3);
    let cut = || Effect::Cut { origin: origin(), last: common, epoch: EPOCH, generation: 1 };
    let mut steps = 0;
    loop {
        let (scene, ..) = ended();
        if scene.worker(steps).carry_out(cut()).is_ok() {
            break;
        }
        // A crash between two steps, or a full disk and another try of the same worker.
        let mut worker = scene.worker(usize::MAX);
        worker.carry_out(cut()).expect("it works");
        assert!(contents(scene.dir.path()) == whole, "interrupted after {steps} steps");
        steps += 1;
    }
    assert!(steps >= 4, "{steps} steps");
}

#[test]
fn a_body_whose_file_was_torn_is_written_again_from_there() {
    let (scene, _, _, common) = ended();
    scene.cut(common);
    let whole = contents(scene.dir.path());
    let torn = scene.beside().join(Path::new(&whole[0].0).file_name().expect("it works"));
    let len = whole[0].1.len();
    for left in [0, 1, 90, len / 2, len - 1] {
        for rest in [&b""[..], &[0; 700]] {
            let (again, ..) = ended();
            std::fs::create_dir(again.beside()).expect("it works");
            let path = again.beside().join(torn.file_name().expect("it works"));
            std::fs::write(path, [&whole[0].1[..left], rest].concat()).expect("it works");
            again.cut(common);
            assert!(contents(again.dir.path()) == whole, "torn at {left}");
        }
    }
}

#[test]
fn damage_beside_a_tail_is_said_and_costs_only_what_is_damaged() {
    let (mut scene, bodies, [one, other], common) = ended();
    scene.cut(common);
    scene.collect();
    let name = scene.the_tail().name;
    assert_eq!(scene.tails().damaged_bodies(&name).expect("it works"), 0);
    let path = scene.beside().join(format!("3-1234567800000000-{}", bodies[0].seq));
    let sound = std::fs::read(&path).expect("it works");
    let damaged = |at: usize| {
        let mut bytes = sound.clone();
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).expect("it works");
    };
    let missing = format!("missing {CHUNK_LEN}");
    // In a payload: one chunk. In a head: what follows it.
    damaged(1000);
    assert_eq!(scene.exported(one), [&missing, "beside 2", "tail 3", "tail 4"]);
    assert_eq!(scene.tails().damaged_bodies(&name).expect("it works"), 1);
    damaged(20);
    assert_eq!(scene.exported(one), [&missing, &missing, "tail 3", "tail 4"]);
    assert_eq!(scene.tails().damaged_bodies(&name).expect("it works"), 1);
    assert_eq!(scene.exported(other), ["beside 1", "beside 2"]);
}

#[test]
fn a_chunk_that_cannot_be_read_is_left_out_and_the_cut_goes_on() {
    let (mut scene, bodies, common) = begun();
    let other = Bytes::from_static(b"other bytes");
    scene.engine.commit(vec![Change::Put(Family::Body, keys::chunk(bodies[0], 0), other)]).expect("it works");
    // What an op claims beyond what there is holds nothing up either.
    scene.chunk(Some(bodies[0]), 2);
    let damaged = scene.put("damaged", object(&[(bodies[0], CHUNK_LEN as u64 * 3)]));
    scene.put("claims", object(&[(bodies[1], u64::MAX / 2)]));
    scene.cut(common);
    assert_eq!(scene.exported(damaged), [&format!("missing {CHUNK_LEN}"), "beside 2", "tail 3"]);
}

#[test]
fn what_lies_beside_a_tail_is_counted_and_discarded_with_it() {
    let (scene, _, _, common) = ended();
    scene.cut(common);
    let tail = scene.the_tail();
    let bytes: usize = contents(scene.dir.path()).iter().map(|(_, bytes)| bytes.len()).sum();
    assert_eq!(tail.bytes, bytes as u64);
    scene.tails().discard(&tail.name).expect("it works");
    assert!(contents(scene.dir.path()).is_empty() && !scene.beside().exists());
    assert!(scene.tails().discard(&tail.name).is_err());
}
