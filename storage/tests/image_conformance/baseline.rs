//! Baselines: frozen at one engine, filled at another.

use lockstep_storage::id::{ChunkId, Position, Seq};
use lockstep_storage::image::baseline::{Bookmark, Piece};
use lockstep_storage::image::{Change, Family, Image, ImageError, keys};

use super::bed::{
    Bed, abandon, body_of, complete_upload, create_bucket, create_upload, delete_object, put_object, upload_id,
    upload_part,
};

/// Something of everything: inline, chunked, shared, dropped and open bodies, uploads with parts.
fn fill(bed: &mut Bed) {
    bed.write(create_bucket("bk"), b"");
    for n in 0..20 {
        let body = bed.write_body(&[&[n; 9_000], &[n + 100; 5_000]]);
        bed.write(put_object("bk", &format!("k{n}"), &[body]), b"");
        bed.write(put_object("bk", &format!("copy{n}"), &[body]), b"");
        bed.write(put_object("bk", &format!("small{n}"), &[]), b"inline");
    }
    for n in 0..5 {
        bed.write(delete_object("bk", &format!("k{n}")), b"");
        bed.write(delete_object("bk", &format!("copy{n}")), b"");
    }
    bed.write(create_upload("bk", "up", &upload_id(1)), b"");
    let part = bed.write_body(&[&[77; 6_000]]);
    bed.write(upload_part("bk", "up", &upload_id(1), 1, &[part]), b"");
}

/// Moves pieces until `until` says stop or all is there; the bookmark is placed after each portion.
fn pour(from: &Image, at: Position, to: &Image, mut until: impl FnMut(usize) -> bool) {
    let frozen = from.frozen().expect("is frozen");
    assert_eq!(frozen.progress().expect("reads").applied, at);
    let (_, mut next) = to.baseline().expect("reads").expect("has begun");
    for n in 0.. {
        if until(n) {
            return;
        }
        let portion = frozen.read_baseline(&next, 20_000).expect("reads");
        assert_eq!(portion.damaged, []);
        assert!(!portion.pieces.is_empty() && portion.pieces.iter().all(|piece| piece.fault().is_none()));
        let bytes: usize = portion.pieces.iter().map(Piece::len).sum();
        assert!(bytes < 20_000 + 10_000, "a portion of {bytes} bytes");
        to.take_pieces(at, portion.pieces).expect("takes");
        let Some(place) = portion.next else { return to.end_baseline(at).expect("ends") };
        to.place_bookmark(at, &place).expect("notes");
        next = place;
    }
}

fn same(a: &Image, b: &Image) {
    assert_eq!(a.view().digest().expect("reads"), b.view().digest().expect("reads"));
    assert_eq!(a.view().digest_bodies().expect("reads"), b.view().digest_bodies().expect("reads"));
}

pub(crate) fn a_baseline_is_the_image_and_goes_on_as_it_does(mut bed: Bed) {
    fill(&mut bed);
    // A body of which only a part has come.
    let (records, open) = bed.history.body(&[&[1; 7_000], &[2; 7_000], &[3; 10]]);
    bed.take(&records[..2]);
    let at = bed.image.freeze().expect("freezes");
    let taker = bed.another();
    taker.image.begin_baseline(at).expect("begins");
    // Life goes on at the giver.
    let mut later = vec![records[2].clone(), bed.history.record(put_object("bk", "late", &[open]), b"")];
    later.push(bed.history.record(delete_object("bk", "k7"), b""));
    bed.take(&later);
    pour(&bed.image, at, &taker.image, |_| false);
    let progress = taker.image.progress().expect("reads");
    assert_eq!((progress.appended, progress.applied, progress.trimmed), (at, at, at.seq));
    assert_eq!(taker.image.view().time_ms().expect("reads"), bed.history.time_ms - 3);
    let last = later.last().expect("some").header.seq;
    taker.image.append(&later).expect("they follow");
    taker.image.apply(last, usize::MAX).expect("applies");
    same(&bed.image, &taker.image);
    // What waits to be collected is the same at both, and nothing else is left over.
    for image in [&bed.image, &taker.image] {
        while image.collect(last, 100).expect("collects") > 0 {}
    }
    assert_eq!(bed.chunks(), taker.chunks());
    // An upload that was begun before ends after.
    let end = |bed: &mut Bed| {
        let part = bed.image.view().part(&upload_id(1), 1).expect("reads").expect("is there");
        bed.history.record(complete_upload("bk", "up", &upload_id(1), &part.extents), b"")
    };
    let record = end(&mut bed);
    bed.take(std::slice::from_ref(&record));
    taker.image.append(&[record]).expect("follows");
    taker.image.apply(Seq(u64::MAX), usize::MAX).expect("applies");
    same(&bed.image, &taker.image);
}

pub(crate) fn a_baseline_goes_on_after_a_crash_of_either_end(mut bed: Bed) {
    fill(&mut bed);
    let at = bed.image.freeze().expect("freezes");
    let mut taker = bed.another();
    taker.image.begin_baseline(at).expect("begins");
    let mut places = Vec::new();
    for round in 0..3 {
        pour(&bed.image, at, &taker.image, |n| n == 2);
        bed.write(put_object("bk", &format!("meanwhile{round}"), &[]), b"x");
        bed.image.flush().expect("flushes");
        // A place is durable with the next one at the latest.
        taker = taker.crash(0);
        bed = bed.crash(usize::MAX);
        places.push(taker.image.baseline().expect("reads").expect("goes on").1.key);
    }
    assert!(places.is_sorted() && places.first() != places.last(), "{places:?}");
    pour(&bed.image, at, &taker.image, |_| false);
    taker = taker.crash(0);
    assert_eq!(taker.image.baseline().expect("reads"), None, "it is whole, and durable");
    let frozen = bed.image.frozen().expect("still is");
    assert_eq!(frozen.digest().expect("reads"), taker.image.view().digest().expect("reads"));
    assert_eq!(frozen.digest_bodies().expect("reads"), taker.image.view().digest_bodies().expect("reads"));
    drop(frozen);
    bed.image.thaw().expect("thaws");
    assert!(bed.crash(usize::MAX).image.frozen().is_none(), "for good");
}

pub(crate) fn what_is_frozen_keeps_what_is_dropped_later(mut bed: Bed) {
    fill(&mut bed);
    let at = bed.image.freeze().expect("freezes");
    let digest = bed.image.view().digest_bodies().expect("reads");
    for n in 0..20 {
        bed.write(delete_object("bk", &format!("k{n}")), b"");
        bed.write(delete_object("bk", &format!("copy{n}")), b"");
    }
    let last = bed.history.last.seq;
    while bed.image.collect(last, 100).expect("collects") > 0 {}
    bed.image.flush().expect("flushes");
    let bytes = |bed: &Bed| bed.image.figures().iter().find(|(name, _)| *name == "body_file_bytes").map(|(_, n)| *n);
    bed = bed.crash(usize::MAX);
    assert_eq!(bed.image.frozen().expect("is there").digest_bodies().expect("reads"), digest);
    let again = bed.image.freeze().expect("freezes anew");
    assert!(again.seq > at.seq);
    assert_ne!(bed.image.frozen().expect("is there").digest_bodies().expect("reads"), digest);
    bed.image.thaw().expect("thaws");
    assert!(bed.image.frozen().is_none());
    bed.image.flush().expect("flushes");
    if let Some(bytes) = bytes(&bed) {
        assert!(bytes < 30_000, "{bytes} bytes of bodies are left");
    }
}

pub(crate) fn what_is_not_whole_is_no_image(mut bed: Bed) {
    fill(&mut bed);
    let at = bed.image.freeze().expect("freezes");
    assert!(matches!(bed.image.begin_baseline(at), Err(ImageError::Engine(_))), "it is not empty");
    let taker = bed.another();
    let piece = Piece::Entry { key: keys::bucket("bk").into(), value: "".into() };
    assert!(taker.image.take_pieces(at, vec![piece.clone()]).is_err(), "none has begun");
    taker.image.begin_baseline(at).expect("begins");
    let other = Position { checksum: 1, ..at };
    assert!(taker.image.take_pieces(other, vec![piece.clone()]).is_err(), "of another moment");
    assert!(taker.image.end_baseline(other).is_err());
    taker.image.take_pieces(at, vec![piece]).expect("takes");
    assert_eq!(taker.image.progress().expect("reads").applied, Position::default());
    assert_eq!(taker.image.baseline().expect("reads"), Some((at, Bookmark::default())));
    bed.image.thaw().expect("thaws");
}

pub(crate) fn a_damaged_chunk_is_left_out_and_counted(mut bed: Bed) {
    bed.write(create_bucket("bk"), b"");
    let good = bed.write_body(&[&[1; 9_000]]);
    let bad = bed.write_body(&[&[2; 9_000]]);
    let gone = bed.write_body(&[&[3; 9_000]]);
    bed.write(put_object("bk", "good", &[good]), b"");
    bed.write(put_object("bk", "bad", &[bad]), b"");
    bed.write(abandon(gone), b"");
    let chunk = keys::chunk(body_of(bad), 0);
    bed.engine().commit(vec![Change::Put(Family::Body, chunk, vec![9; 9_000].into())]).expect("commits");
    bed.image.freeze().expect("freezes");
    let portion = bed.image.frozen().expect("is").read_baseline(&Bookmark::default(), usize::MAX).expect("reads");
    let chunks: Vec<_> = portion.pieces.iter().filter(|piece| matches!(piece, Piece::Chunk { .. })).collect();
    // What waits to be collected is not sent.
    let damaged = ChunkId { body: body_of(bad), index: 0 };
    assert_eq!((chunks.len(), portion.damaged, portion.next), (1, vec![damaged], None));
    bed.image.thaw().expect("thaws");
}
