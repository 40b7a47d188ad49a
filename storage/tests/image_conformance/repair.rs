//! Chunks that a disk has damaged, and the bytes that a peer sends for them.

use std::sync::Arc;

use bytes::Bytes;
use lockstep_storage::id::{BodyId, ChunkId, Seq};
use lockstep_storage::image::{Change, Family, ImageError, Mended, keys};
use lockstep_storage::record::payload_crc;

use super::bed::{Bed, body_of, create_bucket, delete_object, put_object};

fn damage(bed: &Bed, chunk: ChunkId) {
    let key = keys::chunk(chunk.body, chunk.index);
    let bad = Change::Put(Family::Body, key, vec![0xdd; 50_000].into());
    bed.engine().commit(vec![bad]).expect("commits");
}

fn forget_checksum(bed: &Bed, chunk: ChunkId) {
    let key = keys::chunk_crc(chunk.body, chunk.index);
    bed.engine().commit(vec![Change::Delete(Family::Body, key)]).expect("commits");
}

pub(crate) fn a_damaged_chunk_gets_its_bytes_back(mut bed: Bed) {
    bed.write(create_bucket("bk"), b"");
    let right = Bytes::from(vec![1; 50_000]);
    let wrong = Bytes::from(vec![2; 50_000]);
    let extent = bed.write_body(&[&right, &[2; 9]]);
    bed.write(put_object("bk", "k", &[extent]), b"");
    let chunk = ChunkId { body: body_of(extent), index: 0 };
    let read = |bed: &Bed| bed.image.view().chunk(chunk.body, 0);
    let repair = |bed: &Bed, bytes: &Bytes| bed.image.repair(chunk, bytes, Some(payload_crc(&right))).expect("works");
    assert_eq!(repair(&bed, &right), Mended::Sound);
    damage(&bed, chunk);
    assert_eq!(repair(&bed, &wrong), Mended::Wrong);
    assert!(matches!(read(&bed), Err(ImageError::Chunk { chunk: found, .. }) if found == chunk));
    assert!(bed.image.read_log(Seq(2), 0).is_err());
    assert_eq!(bed.image.view().header(Seq(2)).expect("needs no chunk").map(|header| header.seq), Some(Seq(2)));
    assert_eq!(repair(&bed, &right), Mended::Done);
    assert_eq!(read(&bed).expect("repaired"), right);
    // Its record still says what it is.
    forget_checksum(&bed, chunk);
    assert_eq!(repair(&bed, &wrong), Mended::Wrong);
    assert_eq!(bed.image.repair(chunk, &right, None).expect("works"), Mended::Done);
    // Nothing here says so any more: the peer's word counts, if it has the same history.
    bed.image.trim(Seq(4)).expect("trims");
    forget_checksum(&bed, chunk);
    assert_eq!(bed.image.repair(chunk, &right, None).expect("works"), Mended::Unknown);
    assert_eq!(repair(&bed, &wrong), Mended::Wrong, "spoilt since it was vouched for");
    assert_eq!(repair(&bed, &right), Mended::Done);
    assert_eq!(read(&bed).expect("repaired"), right);
    let elsewhere = BodyId { seq: Seq(99), ..chunk.body };
    for foreign in [ChunkId { index: 2, ..chunk }, ChunkId { body: elsewhere, index: 0 }] {
        assert_eq!(
            bed.image.repair(foreign, &right, Some(payload_crc(&right))).expect("works"),
            Mended::Unknown,
            "{foreign}"
        );
    }
    bed.image.flush().expect("flushes");
    bed = bed.crash(usize::MAX);
    assert_eq!(bed.image.view().chunk(chunk.body, 0).expect("for good"), right);
}

pub(crate) fn a_repair_of_what_is_collected_leaves_nothing(mut bed: Bed) {
    bed.write(create_bucket("bk"), b"");
    let right = Bytes::from(vec![1; 50_000]);
    let extent = bed.write_body(&[&right]);
    bed.write(put_object("bk", "k", &[extent]), b"");
    let chunk = ChunkId { body: body_of(extent), index: 0 };
    damage(&bed, chunk);
    let dropped = bed.write(delete_object("bk", "k"), b"");
    while bed.image.collect(dropped, 100).expect("collects") > 0 {}
    assert_eq!(bed.image.repair(chunk, &right, Some(payload_crc(&right))).expect("works"), Mended::Unknown);
    assert_eq!(bed.chunks(), 0);
}

pub(crate) fn bytes_from_elsewhere_are_checked_too(mut bed: Bed) {
    bed.write(create_bucket("bk"), b"");
    let right = Bytes::from(vec![1; 50_000]);
    let extent = bed.write_body(&[&right]);
    bed.write(put_object("bk", "k", &[extent]), b"");
    let chunk = ChunkId { body: body_of(extent), index: 0 };
    damage(&bed, chunk);
    for (given, taken) in [(Bytes::from(vec![2; 50_000]), false), (right.clone(), true)] {
        let view = bed.image.view().with_mend(Arc::new(move |wanted| (wanted == chunk).then(|| given.clone())));
        assert_eq!(view.chunk(chunk.body, 0).is_ok_and(|bytes| bytes == right), taken);
    }
    let none = bed.image.view().with_mend(Arc::new(|_| None));
    assert!(matches!(none.chunk(chunk.body, 0), Err(ImageError::Chunk { .. })));
}
