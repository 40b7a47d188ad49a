//! Random histories and key sets against naive models.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lockstep_storage::id::Seq;
use lockstep_storage::image::memory::MemoryEngine;
use lockstep_storage::image::{Family, Image, ListQuery, keys};
use lockstep_storage::op::{DeleteBucket, Extent, Mutation, Object, Part};
use lockstep_storage::record::Record;
use proptest::prelude::*;
use proptest::sample::select;
use prost::Message;

use super::bed::{
    Bed, History, abandon, complete_upload, create_bucket, create_upload, delete_object, put_object, upload_id,
    upload_part,
};

fn key() -> impl Strategy<Value = String> {
    let pieces = select(vec!["/", "/", "a", "b", "é", "!", "0", "\u{1}", "\0", "-", "\u{10ffff}"]);
    prop::collection::vec(pieces, 1..6).prop_map(|pieces| pieces.concat())
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![2 => Just(String::new()), 3 => key()]
}

fn delimiter() -> impl Strategy<Value = String> {
    select(vec!["", "/", "/", "//", "a", "é", "-/", "ab", "!", "\u{10ffff}", "\0"]).prop_map(str::to_owned)
}

#[derive(Debug, Clone)]
struct Listing {
    keys: BTreeSet<String>,
    prefix: String,
    delimiter: String,
    after: String,
    limit: usize,
}

prop_compose! {
    fn listing()(keys in prop::collection::btree_set(key(), 0..40), prefix in text(), delimiter in delimiter(),
        after in text(), limit in 1usize..8) -> Listing {
        Listing { keys, prefix, delimiter, after, limit }
    }
}

/// Names in order, with whether it is a common prefix.
fn naive(listing: &Listing) -> Vec<(String, bool)> {
    let mut names = BTreeMap::new();
    for key in listing.keys.iter().filter(|key| key.starts_with(&listing.prefix)) {
        let rest = &key[listing.prefix.len()..];
        let at = (!listing.delimiter.is_empty()).then(|| rest.find(&listing.delimiter)).flatten();
        let name = at.map_or(&key[..], |at| &key[..listing.prefix.len() + at + listing.delimiter.len()]);
        if name > &listing.after[..] || listing.after.is_empty() {
            names.insert(name.to_owned(), at.is_some());
        }
    }
    names.into_iter().collect()
}

fn query(listing: &Listing) -> ListQuery {
    ListQuery {
        bucket: "bk".into(),
        prefix: listing.prefix.clone(),
        delimiter: listing.delimiter.clone(),
        after: listing.after.clone(),
        limit: listing.limit,
    }
}

/// Walks the pages of objects and compares with the model; then the same with uploads, two to each key.
fn check_listing(mut bed: Bed, listing: &Listing) {
    let mut records = vec![bed.history.record(create_bucket("bk"), b"")];
    for bucket in ["bj", "bl"] {
        records.push(bed.history.record(create_bucket(bucket), b""));
        records.push(bed.history.record(put_object(bucket, "a/a", &[]), b""));
    }
    for key in &listing.keys {
        records.push(bed.history.record(put_object("bk", key, &[]), b"inline"));
        for number in [2, 1] {
            records.push(bed.history.record(create_upload("bk", key, &upload_id(number)), b""));
        }
    }
    bed.take(&records);
    let expected = naive(listing);
    assert_eq!(object_pages(&bed.image, query(listing)), expected);
    let with_ids = expected.into_iter().flat_map(|(name, rolled)| {
        if rolled { vec![(name, String::new())] } else { vec![(name.clone(), upload_id(1)), (name, upload_id(2))] }
    });
    let with_ids: Vec<(String, String)> = with_ids.collect();
    assert_eq!(upload_pages(&bed.image, query(listing)), with_ids);
}

fn object_pages(image: &Image, mut query: ListQuery) -> Vec<(String, bool)> {
    let mut names = Vec::new();
    loop {
        let page = image.view().list_objects(&query).expect("reads");
        let mut here: Vec<_> = page.items.into_iter().map(|(key, _)| (key, false)).collect();
        here.extend(page.prefixes.into_iter().map(|prefix| (prefix, true)));
        here.sort();
        assert!(here.len() <= query.limit);
        names.extend(here);
        let Some(next) = page.next_after else { return names };
        assert_eq!(names.last().map(|(name, _)| name), Some(&next));
        query.after = next;
    }
}

fn upload_pages(image: &Image, mut query: ListQuery) -> Vec<(String, String)> {
    let (mut names, mut after_upload) = (Vec::new(), String::new());
    loop {
        let page = image.view().list_uploads(&query, &after_upload).expect("reads");
        let mut here: Vec<_> = page.items.into_iter().map(|(key, id, _)| (key, id)).collect();
        here.extend(page.prefixes.into_iter().map(|prefix| (prefix, String::new())));
        here.sort();
        assert!(here.len() <= query.limit);
        names.extend(here);
        let Some((key, id)) = page.next else { return names };
        assert_eq!(names.last(), Some(&(key.clone(), id.clone())));
        (query.after, after_upload) = (key, id);
    }
}

/// One thing to do; the numbers choose among few names, so that histories meet themselves, sound or not.
type Step = (u8, u8, u8, u8);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec((0u8..16, 0u8..2, 0u8..4, 0u8..8), 1..60)
}

fn history(steps: &[Step]) -> Vec<Record> {
    let mut history = History::default();
    let mut records = Vec::new();
    let mut bodies: Vec<Extent> = Vec::new();
    for &(kind, bucket, key, choice) in steps {
        let bucket = ["b1", "b2"][usize::from(bucket)];
        let (key, number) = (["k", "k/1", "k/2", "l"][usize::from(key)], u32::from(choice % 3));
        let id = upload_id(u32::from(choice / 3));
        let recent = |n: u8| bodies.iter().rev().skip(usize::from(n)).take(1).copied().collect::<Vec<_>>();
        let mutation = match kind {
            0 | 1 => create_bucket(bucket),
            2..=4 => {
                let chunk = vec![choice; 100 + usize::from(choice)];
                let chunks = vec![&chunk[..]; 1 + usize::from(choice) * 3];
                let (body, extent) = history.body(&chunks);
                records.extend(body);
                bodies.push(extent);
                continue;
            }
            5 | 6 => put_object(bucket, key, &recent(choice % 4)),
            7 => put_object(bucket, key, &[]),
            8 => delete_object(bucket, key),
            9 => create_upload(bucket, key, &id),
            10 | 11 => upload_part(bucket, key, &id, number, &recent(choice % 4)),
            12 => complete_upload(bucket, key, &id, &[recent(0), recent(1)].concat()),
            13 => Mutation::DeleteBucket(DeleteBucket { bucket: bucket.into() }),
            14 => match recent(choice % 4).first() {
                Some(extent) => abandon(*extent),
                None => continue,
            },
            _ => {
                records.push(history.begin_epoch());
                continue;
            }
        };
        let payload: &[u8] = if kind == 7 { b"inline bytes" } else { b"" };
        records.push(history.record(mutation, payload));
    }
    records
}

/// Counts that objects and parts call for must be the counts that are kept; every chunk belongs to a known body.
fn check_counts(bed: &Bed) {
    let mut expected: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    let mut known = BTreeSet::new();
    let (mut waiting, mut queued) = (0, 0);
    for (key, value) in bed.dump(Family::Image, &[keys::OBJECT]) {
        let extents = match key[0] {
            keys::OBJECT => keys::decode_object_meta(&value).map(|object: Object| object.extents).expect("decodes"),
            keys::PART => Part::decode(&value[..]).expect("decodes").extents,
            _ => Vec::new(),
        };
        for extent in extents {
            *expected.entry(keys::body(extent.body.into())).or_default() += 1;
        }
        match key[0] {
            keys::BODY => {
                let entry = keys::BodyEntry::decode(&value).expect("decodes");
                assert_eq!(entry.count == 0, entry.dropped != Seq::ZERO);
                assert_eq!(entry.count, expected.remove(&key).unwrap_or_default());
                waiting += usize::from(entry.count == 0);
                known.insert(key[1..].to_vec());
            }
            keys::OPEN_BODY => assert!(known.insert(key[1..].to_vec()), "open and counted"),
            keys::GARBAGE => queued += 1,
            _ => {}
        }
    }
    assert_eq!(expected, BTreeMap::new());
    assert_eq!((queued, waiting as u64), (waiting, bed.image.view().waiting().expect("reads").bodies));
    for (key, _) in bed.dump(Family::Body, b"") {
        assert!(known.contains(&key[..24]), "a chunk of nothing");
    }
}

/// Takes the records in, `size` at a time, collecting on the way where `collect` says so.
fn run(bed: &Bed, records: &[Record], size: usize, collect: bool) {
    for run in records.chunks(size) {
        let last = bed.image.append(run).expect("appends").seq;
        assert_eq!(bed.image.apply(last, usize::MAX).expect("applies").seq, last);
        if collect {
            bed.image.collect(last.prev(), 3).expect("collects");
        }
    }
}

fn check_history(steps: &[Step], size: usize, other: &Bed) {
    let records = history(steps);
    let (single, whole) = (Bed::memory(), Bed::memory());
    run(&single, &records, 1, false);
    run(&whole, &records, records.len().max(1), false);
    run(other, &records, size, false);
    check_counts(&single);
    let image = single.dump(Family::Image, &[keys::BUCKET]);
    assert_eq!(image, whole.dump(Family::Image, &[keys::BUCKET]));
    assert_eq!(image, other.dump(Family::Image, &[keys::BUCKET]));
    let digest = single.image.view().digest().expect("reads");
    assert_eq!(digest, other.image.view().digest().expect("reads"));
    assert_eq!(other.image.read_log(Seq(1), usize::MAX).expect("reads"), records);

    let collecting = Bed::memory();
    run(&collecting, &records, size, true);
    check_counts(&collecting);
    assert_eq!(digest, collecting.image.view().digest().expect("reads"));
    let last = digest.applied.seq;
    while other.image.collect(last, 4).expect("collects") > 0 {}
    check_counts(other);
    assert_eq!(digest, other.image.view().digest().expect("reads"));
}

/// Runs a history with flushes and collections in it, crashes so that `survive` of the commits since the last flush are
/// left, checks what is there, and goes on from there with the records that the log still has.
fn check_crash(steps: &[Step], size: usize, flush_every: usize, survive: usize) {
    let records = history(steps);
    let engine = Arc::new(MemoryEngine::new());
    let image = Image::new(engine.clone());
    for (n, run) in records.chunks(size).enumerate() {
        let last = image.append(run).expect("appends").seq;
        image.apply(last, 1 + n % 5).expect("applies");
        image.collect(last.prev(), 3).expect("collects");
        image.trim(Seq(last.0 / 2)).expect("trims");
        if n % flush_every == flush_every - 1 {
            image.flush().expect("flushes");
        }
    }
    let bed = Bed::of_memory(engine.crash(survive), History::default());
    let found = bed.image.progress().expect("reads");
    assert!(found.trimmed <= found.applied.seq && found.applied.seq <= found.appended.seq);
    let taken = usize::try_from(found.appended.seq.0).expect("small");
    let applied = usize::try_from(found.applied.seq.0).expect("small");
    let twin = Bed::memory();
    run(&twin, &records[..applied], usize::MAX, false);
    assert_eq!(bed.image.view().digest().expect("reads"), twin.image.view().digest().expect("reads"));
    run(&bed, &records[taken..], size, false);
    bed.image.apply(Seq(u64::MAX), usize::MAX).expect("applies");
    run(&twin, &records[applied..], size, false);
    check_counts(&bed);
    assert_eq!(bed.image.view().digest().expect("reads"), twin.image.view().digest().expect("reads"));
}

proptest! {
    #[test]
    fn a_crash_after_any_commit_leaves_a_prefix(steps in steps(), size in 1usize..9, every in 1usize..9, survive in 0usize..20) {
        check_crash(&steps, size, every, survive);
    }

    #[test]
    fn lists_match_the_naive_model_on_memory(listing in listing()) {
        check_listing(Bed::memory(), &listing);
    }

    #[test]
    fn batches_of_any_size_come_to_the_same_image_on_memory(steps in steps(), size in 1usize..20) {
        check_history(&steps, size, &Bed::memory());
    }
}

proptest! {
    // Each case opens a database.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn lists_match_the_naive_model_on_rocks(listing in listing()) {
        check_listing(Bed::rocks(), &listing);
    }

    #[test]
    fn both_engines_come_to_the_same_image(steps in steps(), size in 1usize..20) {
        check_history(&steps, size, &Bed::rocks());
    }
}
