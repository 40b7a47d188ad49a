//! Multipart uploads: from the parts to the object, and everything that may go wrong between.

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, Part};
use lockstep_tests::raw::Ask;
use md5::{Digest, Md5};

use super::bed::{bucket, etag, get, hex, is_there, no, payload, put, refused};

/// Smallest part but the last.
pub(crate) const PART_LEN: usize = 5 << 20;

/// An upload in progress of `key` in `bucket`.
pub(crate) struct Upload<'a> {
    pub s3: &'a Client,
    pub key: &'static str,
    pub id: String,
}

impl<'a> Upload<'a> {
    pub(crate) async fn new(s3: &'a Client, key: &'static str) -> Self {
        let created = s3.create_multipart_upload().bucket("bucket").key(key).send().await.expect("an upload");
        assert_eq!((created.bucket(), created.key()), (Some("bucket"), Some(key)));
        Self { s3, key, id: created.upload_id().expect("an id").to_owned() }
    }

    pub(crate) async fn part(&self, number: i32, bytes: Vec<u8>) -> CompletedPart {
        let part = self.s3.upload_part().bucket("bucket").key(self.key).upload_id(&self.id).part_number(number);
        let part = part.body(ByteStream::from(bytes)).send().await.expect("a part");
        named(number, part.e_tag().expect("an ETag"))
    }

    pub(crate) fn complete(&self, parts: Vec<CompletedPart>) -> Complete {
        let list = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let complete = self.s3.complete_multipart_upload().bucket("bucket").key(self.key).upload_id(&self.id);
        complete.multipart_upload(list)
    }

    pub(crate) async fn numbers(&self) -> Vec<i32> {
        let parts = self.s3.list_parts().bucket("bucket").key(self.key).upload_id(&self.id);
        let parts = parts.send().await.expect("parts");
        parts.parts().iter().filter_map(Part::part_number).collect()
    }
}

type Complete = aws_sdk_s3::operation::complete_multipart_upload::builders::CompleteMultipartUploadFluentBuilder;

pub(crate) fn named(number: i32, etag: &str) -> CompletedPart {
    CompletedPart::builder().part_number(number).e_tag(etag).build()
}

fn etag_of_parts(parts: &[&[u8]]) -> String {
    let all: Vec<u8> = parts.iter().flat_map(|part| Md5::digest(part).to_vec()).collect();
    format!("\"{}-{}\"", hex(&Md5::digest(all)), parts.len())
}

#[tokio::test]
async fn parts_become_an_object_in_the_order_of_their_numbers() {
    let (_node, s3) = bucket().await;
    put(&s3, "large", "the one before").await;
    let (one, two, three) = (payload(PART_LEN, 1), payload(PART_LEN + 12_345, 2), payload(77, 3));
    let upload = Upload::new(&s3, "large").await;
    let third = upload.part(9000, three.clone()).await;
    let first = upload.part(1, one.clone()).await;
    let second = upload.part(7, two.clone()).await;
    assert_eq!(get(&s3, "large").await, b"the one before", "nothing is visible before Complete");
    let done = upload.complete(vec![first, second, third]).send().await.expect("completed");
    let tag = etag_of_parts(&[&one, &two, &three]);
    assert_eq!(done.e_tag(), Some(tag.as_str()));
    assert!(done.location().is_some_and(|location| location.ends_with("/bucket/large")));
    let whole = [one.clone(), two.clone(), three].concat();
    assert!(get(&s3, "large").await == whole);

    let ranged =
        s3.get_object().bucket("bucket").key("large").range(format!("bytes={}-{}", PART_LEN - 3, PART_LEN + 3));
    let ranged = ranged.send().await.expect("a range over two parts").body.collect().await.expect("bytes").to_vec();
    assert_eq!(ranged, whole[PART_LEN - 3..=PART_LEN + 3]);
    let part = s3.get_object().bucket("bucket").key("large").part_number(7).send().await.expect("a part");
    assert_eq!(part.parts_count(), Some(3));
    assert_eq!(
        part.content_range(),
        Some(format!("bytes {PART_LEN}-{}/{}", PART_LEN + two.len() - 1, whole.len()).as_str())
    );
    assert!(part.body.collect().await.expect("bytes").to_vec() == two);
    let head = s3.head_object().bucket("bucket").key("large").part_number(1).send().await.expect("a head");
    assert_eq!((head.content_length(), head.e_tag()), (i64::try_from(PART_LEN).ok(), Some(tag.as_str())));
    assert_eq!(
        refused(s3.get_object().bucket("bucket").key("large").part_number(2).send().await),
        no(400, "InvalidPart")
    );
}

#[tokio::test]
async fn a_part_that_comes_again_takes_the_place_of_the_first() {
    let (_node, s3) = bucket().await;
    let upload = Upload::new(&s3, "k").await;
    let old = upload.part(1, payload(PART_LEN, 1)).await;
    let new = upload.part(1, payload(PART_LEN + 1, 2)).await;
    let last = upload.part(2, b"tail".to_vec()).await;
    let stale = upload.complete(vec![old, last.clone()]).send().await;
    assert_eq!(refused(stale), no(400, "InvalidPart"));
    upload.complete(vec![new, last]).send().await.expect("completed");
    assert!(get(&s3, "k").await == [payload(PART_LEN + 1, 2), b"tail".to_vec()].concat());
}

#[tokio::test]
async fn a_list_that_is_not_right_changes_nothing() {
    let (_node, s3) = bucket().await;
    let upload = Upload::new(&s3, "k").await;
    let one = upload.part(1, payload(PART_LEN, 1)).await;
    let small = upload.part(2, payload(PART_LEN - 1, 2)).await;
    let last = upload.part(3, payload(3, 3)).await;
    let try_list = async |parts: &[&CompletedPart]| {
        refused(upload.complete(parts.iter().map(|part| (*part).clone()).collect()).send().await)
    };
    let foreign = etag(b"foreign");
    assert_eq!(try_list(&[&last, &one]).await, no(400, "InvalidPartOrder"));
    assert_eq!(try_list(&[&one, &one]).await, no(400, "InvalidPartOrder"));
    assert_eq!(try_list(&[&named(1, &foreign)]).await, no(400, "InvalidPart"));
    assert_eq!(try_list(&[&one, &named(4, &foreign)]).await, no(400, "InvalidPart"));
    assert_eq!(try_list(&[&one, &small, &last]).await, no(400, "EntityTooSmall"));
    assert_eq!(try_list(&[]).await, no(400, "MalformedXML"));
    assert_eq!(upload.numbers().await, [1, 2, 3]);
    assert!(!is_there(&s3, "k").await);
    upload.complete(vec![one, last]).send().await.expect("the part between may be left out");
    assert_eq!(get(&s3, "k").await.len(), PART_LEN + 3);
}

#[tokio::test]
async fn complete_may_come_again_and_an_ended_upload_takes_nothing() {
    let (_node, s3) = bucket().await;
    let upload = Upload::new(&s3, "k").await;
    let one = upload.part(1, b"only".to_vec()).await;
    let first = upload.complete(vec![one.clone()]).send().await.expect("completed");
    let again = upload.complete(vec![one.clone()]).send().await.expect("its answer may have been lost");
    assert_eq!(first.e_tag(), again.e_tag());
    let gone = no(404, "NoSuchUpload");
    assert_eq!(refused(upload.complete(vec![named(1, &etag(b"x"))]).send().await), gone);
    let part = s3.upload_part().bucket("bucket").key("k").upload_id(&upload.id).part_number(2);
    assert_eq!(refused(part.body(ByteStream::from_static(b"late")).send().await), gone);
    let abort = s3.abort_multipart_upload().bucket("bucket").key("k").upload_id(&upload.id).send().await;
    assert_eq!(refused(abort), gone);
    put(&s3, "k", "newer").await;
    assert_eq!(refused(upload.complete(vec![one]).send().await), gone, "its object is gone");
    assert_eq!(get(&s3, "k").await, b"newer");
}

#[tokio::test]
async fn an_aborted_upload_leaves_nothing() {
    let (_node, s3) = bucket().await;
    let upload = Upload::new(&s3, "k").await;
    let part = upload.part(1, payload(100_000, 1)).await;
    s3.abort_multipart_upload().bucket("bucket").key("k").upload_id(&upload.id).send().await.expect("aborted");
    let gone = no(404, "NoSuchUpload");
    let parts = s3.list_parts().bucket("bucket").key("k").upload_id(&upload.id).send().await;
    assert_eq!(refused(parts), gone);
    assert_eq!(refused(upload.complete(vec![part]).send().await), gone);
    assert!(!is_there(&s3, "k").await);
    let uploads = s3.list_multipart_uploads().bucket("bucket").send().await.expect("uploads");
    assert!(uploads.uploads().is_empty());
}

#[tokio::test]
async fn ids_and_numbers_that_cannot_be_are_refused() {
    let (node, s3) = bucket().await;
    let upload = Upload::new(&s3, "k").await;
    let part = |key: &str, id: &str, number: i32| {
        let part = s3.upload_part().bucket("bucket").key(key).upload_id(id).part_number(number);
        part.body(ByteStream::from_static(b"v")).send()
    };
    let gone = no(404, "NoSuchUpload");
    assert_eq!(refused(part("other", &upload.id, 1).await), gone, "an upload is its key's");
    for id in ["none", "0123456789abcdef0123456789abcdef", "../../x"] {
        assert_eq!(refused(part("k", id, 1).await), gone, "{id}");
    }
    for number in [0, -1, 10_001, i32::MAX] {
        assert_eq!(refused(part("k", &upload.id, number).await), no(400, "InvalidArgument"), "{number}");
    }
    for number in ["", "1.5", "one", "99999999999999999999"] {
        let target = format!("/bucket/k?uploadId={}&partNumber={number}", upload.id);
        let answer = Ask::new(&node, "PUT", &target).body("v").send().await;
        assert_eq!(answer.error(), no(400, "InvalidArgument"), "{number}");
    }
    part("k", &upload.id, 10_000).await.expect("the highest number");
    assert_eq!(upload.numbers().await, [10_000]);
}

#[tokio::test]
async fn parts_and_uploads_are_listed_in_pages() {
    let (_node, s3) = bucket().await;
    let upload = Upload::new(&s3, "k").await;
    for number in [3_u8, 1, 4, 15, 9] {
        upload.part(number.into(), payload(number.into(), 1)).await;
    }
    let mut pages =
        s3.list_parts().bucket("bucket").key("k").upload_id(&upload.id).max_parts(2).into_paginator().send();
    let mut listed = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.expect("a page");
        assert!(page.parts().len() <= 2);
        listed.extend(page.parts().iter().filter_map(|part| Some((part.part_number()?, part.size()?))));
    }
    assert_eq!(listed, [(1, 1), (3, 3), (4, 4), (9, 9), (15, 15)]);

    let mut ids = vec![("k", upload.id)];
    for key in ["a/1", "a/2", "a/2", "b"] {
        ids.push((key, Upload::new(&s3, key).await.id));
    }
    ids.sort();
    let (mut listed, mut markers) = (Vec::new(), (None, None));
    loop {
        let page = s3.list_multipart_uploads().bucket("bucket").max_uploads(2);
        let page = page.set_key_marker(markers.0).set_upload_id_marker(markers.1).send().await.expect("a page");
        listed.extend(page.uploads().iter().filter_map(|u| Some((u.key()?.to_owned(), u.upload_id()?.to_owned()))));
        if page.is_truncated() != Some(true) {
            break;
        }
        markers = (page.next_key_marker().map(str::to_owned), page.next_upload_id_marker().map(str::to_owned));
    }
    assert_eq!(listed, ids.iter().map(|(key, id)| ((*key).to_owned(), id.clone())).collect::<Vec<_>>());
    let rolled = s3.list_multipart_uploads().bucket("bucket").delimiter("/").send().await.expect("a page");
    assert_eq!(rolled.uploads().iter().filter_map(|u| u.key()).collect::<Vec<_>>(), ["b", "k"]);
    assert_eq!(rolled.common_prefixes().iter().filter_map(|p| p.prefix()).collect::<Vec<_>>(), ["a/"]);
    let some = s3.list_multipart_uploads().bucket("bucket").prefix("a/2").send().await.expect("a page");
    assert_eq!(some.uploads().len(), 2);
}

#[tokio::test]
async fn an_upload_keeps_the_headers_that_it_was_created_with() {
    let (_node, s3) = bucket().await;
    let created = s3.create_multipart_upload().bucket("bucket").key("k").content_type("text/x").metadata("m", "1");
    let id = created.send().await.expect("an upload").upload_id().expect("an id").to_owned();
    let upload = Upload { s3: &s3, key: "k", id };
    let part = upload.part(1, Vec::new()).await;
    let unless = upload.complete(vec![part.clone()]).if_match(etag(b"other")).send().await;
    assert_eq!(refused(unless), no(404, "NoSuchKey"));
    upload.complete(vec![part.clone()]).if_none_match("*").send().await.expect("nothing is there");
    let head = s3.head_object().bucket("bucket").key("k").send().await.expect("a head");
    assert_eq!((head.content_type(), head.content_length()), (Some("text/x"), Some(0)));
    assert_eq!(head.metadata().and_then(|m| m.get("m")).map(String::as_str), Some("1"));
    let second = Upload::new(&s3, "k").await;
    let part = second.part(1, b"v".to_vec()).await;
    assert_eq!(refused(second.complete(vec![part]).if_none_match("*").send().await), no(412, "PreconditionFailed"));
}
