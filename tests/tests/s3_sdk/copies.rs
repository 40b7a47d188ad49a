//! `CopyObject`: bytes that do not move, headers that do or do not.

use std::collections::HashMap;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode, MetadataDirective};
use lockstep_tests::raw::encode;

use super::bed::{bucket, etag, get, is_there, no, payload, put, refused};
use super::objects::odd_keys;

fn source(key: &str) -> String {
    format!("bucket/{}", encode(key).replace("%2F", "/"))
}

#[tokio::test]
async fn a_copy_outlives_its_source_whatever_its_length() {
    let (_node, s3) = bucket().await;
    s3.create_bucket().bucket("other").send().await.expect("a bucket");
    for len in [0, 10, 40_000, (3 << 20) + 1] {
        let bytes = payload(len, len as u64);
        put(&s3, "from", bytes.clone()).await;
        let copied =
            s3.copy_object().copy_source("/bucket/from").bucket("other").key("to").send().await.expect("a copy");
        let result = copied.copy_object_result().expect("a result");
        assert_eq!(result.e_tag(), Some(etag(&bytes).as_str()));
        assert!(result.last_modified().is_some());
        let again = s3.copy_object().copy_source("other/to").bucket("bucket").key("back").send().await;
        again.expect("a copy of a copy");
        put(&s3, "from", "something else").await;
        s3.delete_object().bucket("other").key("to").send().await.expect("deleted");
        assert!(get(&s3, "back").await == bytes, "{len}");
    }
}

#[tokio::test]
async fn every_key_can_be_copied_from_and_to() {
    let (_node, s3) = bucket().await;
    for (seed, key) in odd_keys().iter().enumerate() {
        put(&s3, key, payload(10, seed as u64)).await;
        s3.copy_object().copy_source(source(key)).bucket("bucket").key("copy").send().await.expect(key);
        assert_eq!(get(&s3, "copy").await, payload(10, seed as u64), "{key:?}");
        let target: String = format!("c{key}").chars().take(300).collect();
        s3.copy_object().copy_source("bucket/copy").bucket("bucket").key(&target).send().await.expect(key);
        assert_eq!(get(&s3, &target).await, payload(10, seed as u64), "{key:?}");
    }
}

#[tokio::test]
async fn headers_are_copied_or_replaced_and_checksums_stay() {
    let (_node, s3) = bucket().await;
    let put = s3.put_object().bucket("bucket").key("from").body(ByteStream::from_static(b"123456789"));
    let put = put.content_type("text/a").cache_control("no-store").metadata("a", "1");
    put.checksum_algorithm(ChecksumAlgorithm::Crc32).send().await.expect("a put");
    let head = async |key: &str| {
        let head = s3.head_object().bucket("bucket").key(key).checksum_mode(ChecksumMode::Enabled);
        head.send().await.expect("a head")
    };
    let copy = || s3.copy_object().copy_source("bucket/from").bucket("bucket");
    copy().key("same").content_type("text/ignored").metadata("b", "2").send().await.expect("a copy");
    let same = head("same").await;
    assert_eq!((same.content_type(), same.cache_control()), (Some("text/a"), Some("no-store")));
    assert_eq!(same.metadata().and_then(|m| m.get("a")).map(String::as_str), Some("1"));
    assert_eq!(same.metadata().map(HashMap::len), Some(1));
    assert_eq!(same.checksum_crc32(), Some("y/Q5Jg=="));
    let replace = copy().key("new").content_type("text/b").metadata("b", "2");
    replace.metadata_directive(MetadataDirective::Replace).send().await.expect("a copy");
    let new = head("new").await;
    assert_eq!((new.content_type(), new.cache_control()), (Some("text/b"), None));
    assert_eq!(new.metadata().and_then(|m| m.get("b")).map(String::as_str), Some("2"));
    assert_eq!(new.metadata().map(HashMap::len), Some(1));
    assert_eq!(new.checksum_crc32(), Some("y/Q5Jg=="), "a checksum belongs to the bytes");
}

#[tokio::test]
async fn a_copy_onto_itself_needs_a_reason_and_keeps_its_bytes() {
    let (_node, s3) = bucket().await;
    let bytes = payload(2 << 20, 1);
    put(&s3, "k", bytes.clone()).await;
    let copy = || s3.copy_object().copy_source("bucket/k").bucket("bucket").key("k");
    assert_eq!(refused(copy().send().await), no(400, "InvalidRequest"));
    for round in 0..3 {
        let value = round.to_string();
        let replaced = copy().metadata_directive(MetadataDirective::Replace).metadata("round", &value).send().await;
        replaced.expect("a copy");
        let head = s3.head_object().bucket("bucket").key("k").send().await.expect("a head");
        assert_eq!(head.metadata().and_then(|m| m.get("round")), Some(&value));
        assert!(get(&s3, "k").await == bytes);
    }
}

#[tokio::test]
async fn a_copy_is_made_only_where_conditions_hold_and_things_are_there() {
    let (_node, s3) = bucket().await;
    let (tag, other) = (put(&s3, "from", "v").await, etag(b"other"));
    let copy = || s3.copy_object().copy_source("bucket/from").bucket("bucket").key("to");
    let failed = no(412, "PreconditionFailed");
    assert_eq!(refused(copy().copy_source_if_match(&other).send().await), failed);
    assert_eq!(refused(copy().copy_source_if_none_match(&tag).send().await), failed);
    let future = aws_sdk_s3::primitives::DateTime::from_secs(4_000_000_000);
    assert_eq!(refused(copy().copy_source_if_modified_since(future).send().await), failed);
    let past = aws_sdk_s3::primitives::DateTime::from_secs(1_000_000_000);
    assert_eq!(refused(copy().copy_source_if_unmodified_since(past).send().await), failed);
    assert!(!is_there(&s3, "to").await);
    copy().copy_source_if_match(&tag).copy_source_if_none_match(&other).send().await.expect("both hold");
    assert_eq!(refused(copy().if_none_match("*").send().await), failed, "the target is there");
    assert_eq!(refused(copy().if_match(&other).send().await), failed);

    let from = |source: &str| s3.copy_object().copy_source(source).bucket("bucket").key("new").send();
    assert_eq!(refused(from("bucket/missing").await), no(404, "NoSuchKey"));
    assert_eq!(refused(from("nowhere/from").await), no(404, "NoSuchBucket"));
    assert_eq!(refused(from("bucket/from?versionId=v2").await), no(404, "NoSuchVersion"));
    from("bucket/from?versionId=null").await.expect("the only version");
    for bad in ["bucket", "/", "bucket/", "/bucket"] {
        assert_eq!(refused(from(bad).await), no(400, "InvalidArgument"), "{bad}");
    }
    let nowhere = s3.copy_object().copy_source("bucket/from").bucket("nowhere").key("k").send().await;
    assert_eq!(refused(nowhere), no(404, "NoSuchBucket"));
    let directive = copy().key("x").metadata_directive(MetadataDirective::from("MERGE")).send().await;
    assert_eq!(refused(directive), no(400, "InvalidArgument"));
}
