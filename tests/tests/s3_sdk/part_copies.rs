//! `UploadPartCopy`: parts out of objects, whole and in ranges.

use super::bed::{bucket, etag, get, no, payload, put, refused};
use super::multipart::{PART_LEN, Upload, named};

#[tokio::test]
async fn an_object_is_put_together_from_ranges_of_others() {
    let (_node, s3) = bucket().await;
    let (large, small) = (payload(PART_LEN + (2 << 20) + 3, 1), payload(900, 2));
    put(&s3, "large", large.clone()).await;
    put(&s3, "small ü", small.clone()).await;
    let upload = Upload::new(&s3, "to").await;
    let copy = |number: i32, source: &str, range: Option<&str>| {
        let copy = s3.upload_part_copy().bucket("bucket").key("to").upload_id(&upload.id).part_number(number);
        copy.copy_source(source).set_copy_source_range(range.map(str::to_owned)).send()
    };
    let range = format!("bytes=3-{}", PART_LEN + (1 << 20) + 9);
    let wanted = [&large[3..PART_LEN + (1 << 20) + 10], &large[..], &small[100..=899]];
    let sources = [
        ("bucket/large", Some(range.as_str())),
        ("bucket/large", None),
        ("bucket/small%20%C3%BC", Some("bytes=100-899")),
    ];
    let mut parts = Vec::new();
    for (number, ((source, range), bytes)) in (1..).zip(sources.into_iter().zip(wanted)) {
        let copied = copy(number, source, range).await.expect("a part");
        let tag = copied.copy_part_result().and_then(|r| r.e_tag()).expect("an ETag");
        assert_eq!(tag, etag(bytes));
        parts.push(named(number, tag));
    }
    s3.delete_object().bucket("bucket").key("large").send().await.expect("parts do not need their source");
    upload.complete(parts).send().await.expect("completed");
    assert!(get(&s3, "to").await == wanted.concat());
}

#[tokio::test]
async fn ranges_and_sources_that_are_not_there_are_refused() {
    let (_node, s3) = bucket().await;
    let tag = put(&s3, "from", payload(100, 1)).await;
    put(&s3, "large", payload(50_000, 1)).await;
    let upload = Upload::new(&s3, "to").await;
    let copy = |source: &str| {
        let copy = s3.upload_part_copy().bucket("bucket").key("to").upload_id(&upload.id).part_number(1);
        copy.copy_source(source)
    };
    for range in ["bytes=0-100", "bytes=100-100", "bytes=0-18446744073709551615"] {
        let refusal = copy("bucket/from").copy_source_range(range).send().await;
        assert_eq!(refused(refusal), no(416, "InvalidRange"), "{range}");
    }
    for range in
        ["0-1", "bytes=1-", "bytes=-1", "bytes=2-1", "bytes=0-1,3-4", "bytes=a-b", "bytes=0-99999999999999999999999"]
    {
        let refusal = copy("bucket/large").copy_source_range(range).send().await;
        assert_eq!(refused(refusal), no(400, "InvalidArgument"), "{range}");
    }
    assert_eq!(refused(copy("bucket/missing").send().await), no(404, "NoSuchKey"));
    assert_eq!(refused(copy("nowhere/from").send().await), no(404, "NoSuchBucket"));
    assert_eq!(refused(copy("from").send().await), no(400, "InvalidArgument"));
    let other = etag(b"other");
    assert_eq!(refused(copy("bucket/from").copy_source_if_match(other).send().await), no(412, "PreconditionFailed"));
    let none = s3.upload_part_copy().bucket("bucket").key("to").upload_id("none").part_number(1);
    assert_eq!(refused(none.copy_source("bucket/from").send().await), no(404, "NoSuchUpload"));
    assert!(upload.numbers().await.is_empty());
    copy("bucket/from").copy_source_if_match(tag).send().await.expect("a part");
    assert_eq!(upload.numbers().await, [1]);
}
