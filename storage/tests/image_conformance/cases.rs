//! What every engine must do: container, bodies and their counts, crashes.

use lockstep_storage::id::{Position, Seq};
use lockstep_storage::image::{Change, Family, ImageError, keys};
use lockstep_storage::op::{DeleteBucket, Mutation};

use super::bed::{
    Bed, abandon, body_of, complete_upload, create_bucket, create_upload, delete_object, put_object, upload_id,
    upload_part,
};

pub(crate) fn an_object_is_read_as_it_was_put(mut bed: Bed) {
    bed.write(create_bucket("bk"), b"");
    let seq = bed.write(put_object("bk", "k", &[]), b"small body");
    let object = bed.image.view().object("bk", "k").expect("reads").expect("is there");
    assert_eq!(&object.inline[..], b"small body");
    assert_eq!((object.seq, object.modified_ms), (seq.0, bed.history.time_ms));
    assert_eq!(bed.image.view().bucket("bk").expect("reads").expect("is there").created_ms, 1_001);
    assert_eq!(bed.image.view().object("bk", "other").expect("reads"), None);
    assert_eq!(bed.image.view().object("other", "k").expect("reads"), None);
}

pub(crate) fn a_view_does_not_change(mut bed: Bed) {
    bed.write(create_bucket("bk"), b"");
    bed.write(put_object("bk", "k", &[]), b"old");
    let before = bed.image.view();
    bed.write(put_object("bk", "k", &[]), b"new");
    bed.write(delete_object("bk", "k"), b"");
    assert_eq!(&before.object("bk", "k").expect("reads").expect("is there").inline[..], b"old");
    assert_eq!(bed.image.view().object("bk", "k").expect("reads"), None);
}

pub(crate) fn records_must_follow_each_other(mut bed: Bed) {
    let first = bed.history.record(create_bucket("bk"), b"");
    let second = bed.history.record(create_bucket("bl"), b"");
    let error = bed.image.append(std::slice::from_ref(&second)).expect_err("a gap");
    assert!(matches!(error, ImageError::Gap { after: Seq(0), got: Seq(2) }), "{error}");
    bed.image.append(std::slice::from_ref(&first)).expect("follows");
    let error = bed.image.append(&[first]).expect_err("again");
    assert!(matches!(error, ImageError::Gap { after: Seq(1), got: Seq(1) }), "{error}");
    let mut other = bed.history.clone();
    other.last = Position { seq: Seq(1), checksum: 5, ..other.last };
    let stranger = other.record(create_bucket("bm"), b"");
    let error = bed.image.append(&[stranger]).expect_err("another history");
    assert!(matches!(error, ImageError::Corrupt(_)), "{error}");
    assert_eq!(bed.image.append(&[second]).expect("follows").seq, Seq(2));
}

pub(crate) fn apply_stops_where_it_is_told_and_does_nothing_twice(mut bed: Bed) {
    let records: Vec<_> = (0..9).map(|n| bed.history.record(create_bucket(&format!("bucket-{n}")), b"")).collect();
    bed.image.append(&records).expect("appends");
    assert_eq!(bed.image.apply(Seq(7), 3).expect("applies").seq, Seq(3));
    assert_eq!(bed.image.apply(Seq(7), 100).expect("applies"), records[6].position());
    assert_eq!(bed.image.apply(Seq(4), 100).expect("applies").seq, Seq(7));
    assert_eq!(bed.image.view().buckets("", 100).expect("reads").len(), 7);
    assert_eq!(bed.image.apply(Seq(99), 100).expect("applies").seq, Seq(9));
    let digest = bed.image.view().digest().expect("reads");
    assert_eq!(bed.image.apply(Seq(99), 100).expect("applies").seq, Seq(9));
    assert_eq!(bed.image.view().digest().expect("reads"), digest);
    assert_eq!((digest.applied.seq, digest.entries), (Seq(9), 9));
}

pub(crate) fn the_log_is_read_back_and_trimmed(mut bed: Bed) {
    let mut records = vec![bed.history.record(create_bucket("bk"), b"")];
    let long = vec![7; 100_000];
    let (body, extent) = bed.history.body(&[&long, b"second", b""]);
    records.extend(body);
    records.push(bed.history.record(put_object("bk", "k", &[extent]), b""));
    records.push(bed.history.record(put_object("bk", "l", &[]), b"inline"));
    bed.take(&records);
    assert_eq!(bed.image.read_log(Seq(0), usize::MAX).expect("reads"), records);
    assert_eq!(bed.image.read_log(Seq(3), usize::MAX).expect("reads"), records[2..]);
    assert_eq!(bed.image.read_log(Seq(2), 1).expect("reads"), records[1..2]);
    let two = records[0].len() + records[1].len();
    assert_eq!(bed.image.read_log(Seq(1), two).expect("reads"), records[..2]);
    assert_eq!(bed.image.read_log(Seq(99), 1).expect("reads"), []);
    bed.image.trim(Seq(3)).expect("trims");
    bed.image.trim(Seq(2)).expect("nothing to do");
    assert_eq!(bed.image.progress().expect("reads").trimmed, Seq(3));
    let error = bed.image.read_log(Seq(3), 1).expect_err("gone");
    assert!(matches!(error, ImageError::Trimmed { through: Seq(3) }), "{error}");
    assert_eq!(bed.image.read_log(Seq(4), usize::MAX).expect("reads"), records[3..]);
    assert_eq!(bed.image.view().chunk(body_of(extent), 0).expect("bodies stay"), long);
}

pub(crate) fn only_what_is_applied_is_trimmed(mut bed: Bed) {
    bed.write(create_bucket("bk"), b"");
    let waiting = bed.history.record(put_object("bk", "k", &[]), b"x");
    bed.image.append(std::slice::from_ref(&waiting)).expect("appends");
    bed.image.trim(Seq(2)).expect("trims");
    assert_eq!(bed.image.progress().expect("reads").trimmed, Seq(1));
    assert_eq!(bed.image.read_log(Seq(2), 1).expect("reads"), [waiting]);
}

pub(crate) fn a_corrupt_chunk_is_found(mut bed: Bed) {
    bed.write(create_bucket("bk"), b"");
    let extent = bed.write_body(&[&vec![1; 50_000], &[2; 9]]);
    let body = body_of(extent);
    bed.write(put_object("bk", "k", &[extent]), b"");
    assert_eq!(bed.image.view().chunk(body, 1).expect("sound"), vec![2; 9]);
    let bodies = bed.image.view().digest_bodies().expect("sound");
    assert_eq!(bodies.bytes, 50_009);
    let damages = [keys::chunk(body, 0), keys::chunk(body, 1), keys::chunk_crc(body, 0)];
    for (key, index) in damages.into_iter().zip([0, 1, 0]) {
        let stored = bed.engine().snapshot().get(Family::Body, &key).expect("reads").expect("is there");
        let mut bytes = stored.to_vec();
        bytes[2] ^= 1;
        for bad in
            [Change::Put(Family::Body, key.clone(), bytes.clone().into()), Change::Delete(Family::Body, key.clone())]
        {
            bed.engine().commit(vec![bad]).expect("commits");
            let error = bed.image.view().chunk(body, index).expect_err("damaged");
            assert!(matches!(error, ImageError::Chunk { chunk, .. } if (chunk.body, chunk.index) == (body, index)));
            assert!(matches!(bed.image.read_log(Seq(1), usize::MAX), Err(ImageError::Chunk { .. })));
            assert!(matches!(bed.image.view().digest_bodies(), Err(ImageError::Chunk { .. })));
        }
        bed.engine().commit(vec![Change::Put(Family::Body, key, stored)]).expect("commits");
        bed.image.view().chunk(body, index).expect("sound again");
        assert_eq!(bed.image.view().digest_bodies().expect("sound again"), bodies);
    }
    assert!(matches!(bed.image.view().chunk(body, 2), Err(ImageError::Chunk { .. })), "no such chunk");
}

pub(crate) fn a_corrupt_record_stops_apply(mut bed: Bed) {
    bed.write(create_bucket("bk"), b"");
    let put = bed.history.record(put_object("bk", "k", &[]), b"payload");
    let next = bed.history.record(delete_object("bk", "k"), b"");
    bed.image.append(&[put.clone(), next]).expect("appends");
    let whole = [&put.head[..], &put.payload[..]].concat();
    for at in [0, 30, 90, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[at] ^= 4;
        bed.engine().commit(vec![Change::Put(Family::Log, keys::log(Seq(2)), damaged.into())]).expect("commits");
        let error = bed.image.apply(Seq(3), 10).expect_err("damaged");
        assert!(matches!(error, ImageError::Corrupt(_)), "{at}: {error}");
        assert_eq!(bed.image.progress().expect("reads").applied.seq, Seq(1));
    }
    bed.engine().commit(vec![Change::Delete(Family::Log, keys::log(Seq(2)))]).expect("commits");
    let error = bed.image.apply(Seq(3), 10).expect_err("missing");
    assert!(error.to_string().contains("record 2 is missing"), "{error}");
    bed.engine().commit(vec![Change::Put(Family::Log, keys::log(Seq(2)), whole.into())]).expect("commits");
    assert_eq!(bed.image.apply(Seq(3), 10).expect("sound again").seq, Seq(3));
}

/// Found by reading: what came before a damaged record was applied only where a step happened to end there.
pub(crate) fn what_comes_before_a_corrupt_record_is_applied(mut bed: Bed) {
    bed.write(create_bucket("bk"), b"");
    let puts: Vec<_> =
        (0..4).map(|n| bed.history.record(put_object("bk", &format!("k{n}"), &[]), b"payload")).collect();
    bed.image.append(&puts).expect("appends");
    let sound = bed.image.view().stored(Seq(4)).expect("reads").expect("is there").bytes;
    let mut damaged = sound.to_vec();
    damaged[30] ^= 4;
    bed.engine().commit(vec![Change::Put(Family::Log, keys::log(Seq(4)), damaged.into())]).expect("commits");
    assert_eq!(bed.image.apply(Seq(5), 10).expect("the sound ones").seq, Seq(3));
    assert!(bed.image.apply(Seq(5), 10).is_err(), "the image stays before it");
    assert_eq!(bed.image.progress().expect("reads").applied.seq, Seq(3));
    let stored = bed.image.view().stored(Seq(4)).expect("reads").expect("is there");
    assert_eq!(stored.bytes.len(), sound.len());
    assert!(stored.record.is_err_and(|error| error.is_of_stored_bytes()));
    // One whose bytes are sound, and which meets an entry of the image that is not.
    bed.engine().commit(vec![Change::Put(Family::Log, keys::log(Seq(4)), sound)]).expect("commits");
    let entry = keys::object("bk", "k3");
    let junk = vec![Change::Put(Family::Image, entry.clone(), vec![0xff; 3].into())];
    bed.engine().commit(junk).expect("commits");
    assert_eq!(bed.image.apply(Seq(5), 10).expect("the one before it").seq, Seq(4));
    assert!(bed.image.apply(Seq(5), 10).is_err(), "the image stays before it");
    bed.engine().commit(vec![Change::Delete(Family::Image, entry)]).expect("commits");
    assert_eq!(bed.image.apply(Seq(5), 10).expect("nothing is in its way").seq, Seq(5));
}

/// Collects everything and asserts how many chunks are left in the container.
fn collect_all(bed: &Bed, chunks_left: usize) {
    let through = bed.image.progress().expect("reads").applied.seq;
    while bed.image.collect(through, 2).expect("collects") > 0 {}
    assert_eq!(bed.chunks(), chunks_left);
}

pub(crate) fn an_overwritten_body_is_collected_when_its_time_has_come(mut bed: Bed) {
    bed.write(create_bucket("bk"), b"");
    let old = bed.write_body(&[b"one", b"two"]);
    bed.write(put_object("bk", "k", &[old]), b"");
    let reader = bed.image.view();
    let new = bed.write_body(&[b"three"]);
    let dropped = bed.write(put_object("bk", "k", &[new]), b"");
    let waiting = bed.image.view().waiting().expect("reads");
    assert_eq!((waiting.bodies, waiting.bytes), (1, 6));
    assert_eq!(bed.image.collect(dropped.prev(), 100).expect("collects"), 1);
    assert_eq!(bed.image.view().chunk(body_of(old), 1).expect("waits"), "two");
    assert_eq!(bed.image.collect(dropped, 100).expect("collects"), 0);
    assert!(bed.image.view().chunk(body_of(old), 1).is_err());
    assert_eq!(reader.chunk(body_of(old), 1).expect("a reader keeps what it sees"), "two");
    assert_eq!(bed.image.view().chunk(body_of(new), 0).expect("is there"), "three");
    collect_all(&bed, 1);
}

pub(crate) fn copies_share_a_body(mut bed: Bed) {
    bed.write(create_bucket("bk"), b"");
    let body = bed.write_body(&[b"shared"]);
    bed.write(put_object("bk", "a", &[body]), b"");
    bed.write(put_object("bk", "b", &[body]), b"");
    bed.write(put_object("bk", "b", &[body]), b"");
    bed.write(delete_object("bk", "a"), b"");
    collect_all(&bed, 1);
    assert_eq!(bed.image.view().chunk(body_of(body), 0).expect("is there"), "shared");
    bed.write(delete_object("bk", "b"), b"");
    collect_all(&bed, 0);
}

pub(crate) fn a_body_that_waits_can_be_taken_again(mut bed: Bed) {
    bed.write(create_bucket("bk"), b"");
    let body = bed.write_body(&[b"again"]);
    bed.write(put_object("bk", "a", &[body]), b"");
    bed.write(delete_object("bk", "a"), b"");
    bed.write(put_object("bk", "a", &[body]), b"");
    assert_eq!(bed.image.view().waiting().expect("reads").bodies, 0);
    collect_all(&bed, 1);
    bed.write(delete_object("bk", "a"), b"");
    collect_all(&bed, 0);
    let lost = bed.write(put_object("bk", "a", &[body]), b"");
    assert!(matches!(bed.image.view().chunk(body_of(body), 0), Err(ImageError::Chunk { .. })), "collected at {lost}");
    bed.write(delete_object("bk", "a"), b"");
    collect_all(&bed, 0);
}

pub(crate) fn many_chunks_and_many_bodies_are_collected_in_steps(mut bed: Bed) {
    bed.write(create_bucket("bk"), b"");
    let chunks: Vec<&[u8]> = vec![b"chunk"; 40];
    let long = bed.write_body(&chunks);
    let kept = bed.write_body(&chunks);
    bed.write(put_object("bk", "long", &[long]), b"");
    bed.write(put_object("bk", "kept", &[kept]), b"");
    for n in 0..5 {
        let body = bed.write_body(&[b"x"]);
        bed.write(put_object("bk", &format!("short-{n}"), &[body]), b"");
        bed.write(delete_object("bk", &format!("short-{n}")), b"");
    }
    bed.write(delete_object("bk", "long"), b"");
    let through = bed.history.last.seq;
    assert_eq!(bed.image.collect(through, 0).expect("collects"), 6);
    assert_eq!(bed.image.collect(through, 2).expect("collects"), 4);
    assert_eq!(bed.image.collect(through, 2).expect("collects"), 2);
    assert_eq!(bed.image.collect(through, 2).expect("collects"), 0);
    assert_eq!(bed.chunks(), 40);
    assert_eq!(bed.image.view().chunk(body_of(kept), 39).expect("is there"), "chunk");
}

pub(crate) fn an_upload_becomes_an_object(mut bed: Bed) {
    let id = upload_id(1);
    bed.write(create_bucket("bk"), b"");
    bed.write(create_upload("bk", "k", &id), b"");
    let parts: Vec<_> = [&b"p1"[..], b"old p2", b"p2", b"p3"].iter().map(|bytes| bed.write_body(&[bytes])).collect();
    for (number, extent) in [(1, parts[0]), (2, parts[1]), (2, parts[2]), (3, parts[3])] {
        bed.write(upload_part("bk", "k", &id, number, &[extent]), b"");
    }
    assert_eq!(bed.image.view().waiting().expect("reads").bodies, 1);
    let listed = bed.image.view().parts(&id, 1, 10).expect("reads");
    assert_eq!(
        listed.iter().map(|(number, part)| (*number, part.extents[0])).collect::<Vec<_>>(),
        [(2, parts[2]), (3, parts[3])]
    );
    assert_eq!(bed.image.view().parts(&id, 0, 2).expect("reads").len(), 2);
    assert_eq!(bed.image.view().part(&id, 1).expect("reads").expect("is there").modified_ms, bed.history.time_ms - 3);
    bed.write(complete_upload("bk", "k", &id, &[parts[0], parts[2]]), b"");
    let view = bed.image.view();
    assert_eq!(view.object("bk", "k").expect("reads").expect("is there").extents, [parts[0], parts[2]]);
    assert_eq!(view.upload("bk", "k", &id).expect("reads"), None);
    assert_eq!(view.parts(&id, 0, 10).expect("reads"), []);
    collect_all(&bed, 2);
    bed.write(delete_object("bk", "k"), b"");
    collect_all(&bed, 0);
}

pub(crate) fn an_aborted_upload_and_a_deleted_bucket_leave_nothing(mut bed: Bed) {
    bed.write(create_bucket("bk"), b"");
    for number in 0..3 {
        bed.write(create_upload("bk", "k\0ey", &upload_id(number)), b"");
        let part = bed.write_body(&[b"part"]);
        bed.write(upload_part("bk", "k\0ey", &upload_id(number), 1, &[part]), b"");
    }
    let abort = lockstep_storage::op::AbortMultipartUpload {
        bucket: "bk".into(),
        key: "k\0ey".into(),
        upload_id: upload_id(1),
    };
    bed.write(Mutation::AbortMultipartUpload(abort), b"");
    collect_all(&bed, 2);
    bed.write(Mutation::DeleteBucket(DeleteBucket { bucket: "bk".into() }), b"");
    collect_all(&bed, 0);
    assert_eq!(bed.image.view().digest().expect("reads").entries, 0);
}

pub(crate) fn an_epoch_gives_up_what_the_one_before_left_open(mut bed: Bed) {
    bed.write(create_bucket("bk"), b"");
    let used = bed.write_body(&[b"used"]);
    bed.write(put_object("bk", "k", &[used]), b"");
    let abandoned = bed.write_body(&[b"abandoned"]);
    bed.write(abandon(abandoned), b"");
    bed.write(abandon(used), b"");
    bed.write_body(&[b"left", b"open"]);
    collect_all(&bed, 3);
    let begin = bed.history.begin_epoch();
    let first = bed.take(&[begin]);
    let fresh = bed.write_body(&[b"of this epoch"]);
    assert_eq!(bed.image.collect(first.prev(), 10).expect("collects"), 1);
    collect_all(&bed, 2);
    bed.write(put_object("bk", "k", &[fresh]), b"");
    collect_all(&bed, 1);
}

pub(crate) fn what_is_not_applied_can_be_cut(mut bed: Bed) {
    bed.write(create_bucket("bk"), b"");
    let kept = bed.write_body(&[b"kept"]);
    let common = bed.history.clone();
    let (tail, lost) = bed.history.body(&[b"lost", b"too"]);
    bed.image.append(&tail).expect("appends");
    let put = bed.history.record(put_object("bk", "k", &[lost]), b"");
    bed.image.append(&[put]).expect("appends");

    let applied = bed.image.progress().expect("reads").applied;
    let error = bed.image.cut(Position { seq: Seq(1), ..applied }, 1).expect_err("applied");
    assert!(matches!(error, ImageError::Applied { last: Seq(1), applied: Seq(2) }), "{error}");
    let error = bed.image.cut(Position { checksum: 1, ..tail[0].position() }, 1).expect_err("another record");
    assert!(matches!(error, ImageError::NotHere(_)), "{error}");
    let error = bed.image.cut(Position { seq: Seq(77), ..applied }, 1).expect_err("not there");
    assert!(matches!(error, ImageError::NotHere(_)), "{error}");

    bed.image.cut(tail[0].position(), 2).expect("cuts");
    assert_eq!(bed.chunks(), 2);
    bed.image.cut(common.last, 3).expect("cuts");
    assert_eq!(bed.image.progress().expect("reads").appended, common.last);
    assert_eq!(bed.image.read_log(Seq(3), usize::MAX).expect("reads"), []);
    assert_eq!(bed.chunks(), 1);

    bed.history = common;
    let begin = bed.history.begin_epoch();
    bed.take(&[begin]);
    assert_eq!(bed.image.view().chunk(body_of(kept), 0).expect("waits"), "kept");
    collect_all(&bed, 0);
}

pub(crate) fn a_flush_survives_a_crash(mut bed: Bed) {
    bed.write(create_bucket("bk"), b"");
    let body = bed.write_body(&[&vec![3; 20_000]]);
    bed.write(put_object("bk", "k", &[body]), b"");
    bed.image.trim(Seq(1)).expect("trims");
    let digest = bed.image.view().digest().expect("reads");
    let progress = bed.image.flush().expect("flushes");
    let bed = bed.crash(0);
    assert_eq!(bed.image.progress().expect("reads"), progress);
    assert_eq!(bed.image.view().digest().expect("reads"), digest);
    assert_eq!(bed.image.view().chunk(body_of(body), 0).expect("reads"), vec![3; 20_000]);
}

pub(crate) fn a_crash_without_a_flush_leaves_a_prefix(mut bed: Bed) {
    bed.write(create_bucket("bk"), b"");
    bed.image.flush().expect("flushes");
    let mut digests = vec![bed.image.view().digest().expect("reads")];
    for n in 0..20 {
        bed.write(put_object("bk", &format!("k{}", n % 7), &[]), &[n]);
        digests.push(bed.image.view().digest().expect("reads"));
    }
    let history = bed.history.clone();
    let records = bed.image.read_log(Seq(1), usize::MAX).expect("reads");
    let mut bed = bed.crash(13);
    let progress = bed.image.progress().expect("reads");
    let applied = usize::try_from(progress.applied.seq.0).expect("small");
    assert!(applied >= 1 && progress.appended.seq >= progress.applied.seq);
    assert_eq!(bed.image.view().digest().expect("reads"), digests[applied - 1]);
    let appended = usize::try_from(progress.appended.seq.0).expect("small");
    bed.take(&records[appended..]);
    bed.image.apply(history.last.seq, usize::MAX).expect("applies");
    assert_eq!(bed.image.view().digest().expect("reads"), digests[20]);
}
