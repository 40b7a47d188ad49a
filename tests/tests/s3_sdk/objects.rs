//! Objects: bytes in, the same bytes out, whatever their number, key and headers.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{ObjectCannedAcl, ServerSideEncryption, StorageClass};
use lockstep_tests::raw::Ask;
use tokio::io::AsyncReadExt;

use super::bed::{bucket, client_at, etag, get, is_there, no, payload, put, refused, status_of};

/// Around every bound of the way in: nothing, in the op's own record, chunks of 1 MiB, a tail.
const LENS: [usize; 10] =
    [0, 1, 32 << 10, (32 << 10) + 1, 100_000, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20, (5 << 20) + 7];

#[tokio::test]
async fn every_length_comes_back_as_it_went_in() {
    let (_node, s3) = bucket().await;
    for (seed, len) in LENS.into_iter().enumerate() {
        let bytes = payload(len, seed as u64);
        let key = format!("of/{len}");
        assert_eq!(put(&s3, &key, bytes.clone()).await, etag(&bytes), "{len}");
        assert!(get(&s3, &key).await == bytes, "{len}");
        let head = s3.head_object().bucket("bucket").key(&key).send().await.expect("a head");
        assert_eq!(head.content_length(), i64::try_from(len).ok());
        assert_eq!(head.e_tag(), Some(etag(&bytes).as_str()));
        assert_eq!(head.content_type(), Some("application/octet-stream"), "what this SDK sends where it knows none");
        let modified = SystemTime::try_from(*head.last_modified().expect("a date")).expect("after 1970");
        assert!(modified.elapsed().expect("in the past") < Duration::from_mins(5));
    }
}

#[tokio::test]
async fn a_stream_from_a_file_is_sent_in_signed_chunks_with_a_trailer_and_comes_back() {
    let (node, s3) = bucket().await;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("file");
    for len in [0_usize, 1, 65_536, 65_537, (2 << 20) + 5] {
        let bytes = payload(len, 7);
        std::fs::write(&path, &bytes).expect("a file");
        let body = ByteStream::from_path(&path).await.expect("a stream");
        let sent = s3.put_object().bucket("bucket").key("file").content_encoding("gzip").body(body).send().await;
        assert!(sent.expect("a put").checksum_crc32().is_some(), "the SDK's default checksum is echoed");
        let got = s3.get_object().bucket("bucket").key("file").send().await.expect("a get");
        assert_eq!(got.content_encoding(), Some("gzip"), "aws-chunked is framing and not stored");
        assert!(got.body.collect().await.expect("all bytes").to_vec() == bytes, "{len}");
    }

    // That this is what the SDK sends is looked up where no server is in between.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let client = client_at(listener.local_addr().expect("bound"), &node.access_key(), "us-east-1");
    let body = ByteStream::from_path(&path).await.expect("a stream");
    let sending = tokio::spawn(client.put_object().bucket("bucket").key("file").body(body).send());
    let (mut stream, _) = listener.accept().await.expect("a connection");
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        assert!(stream.read_buf(&mut head).await.expect("bytes") > 0);
    }
    sending.abort();
    let head = String::from_utf8_lossy(&head).to_lowercase();
    assert!(head.contains("x-amz-content-sha256: streaming-aws4-hmac-sha256-payload-trailer"), "{head}");
    assert!(head.contains("x-amz-trailer: x-amz-checksum-crc32"), "{head}");
}

/// Keys that a path, a query or XML would like to change.
pub(crate) fn odd_keys() -> Vec<String> {
    let mut keys: Vec<String> = [
        "a",
        "a/b",
        "a/b/c",
        "a//b",
        "/first",
        "last/",
        "//",
        "..",
        "../up",
        "a/./b",
        "a b",
        " a ",
        "a+b",
        "a%20b",
        "%",
        "%zz",
        "ü/日本語/🦀",
        "e\u{301}",
        "q\"uo'te<&>",
        "tab\tnl\ncr\r",
        "?a=1&b",
        "#f",
        "a;b:c@d=e,f$",
        "\u{1}\u{7f}",
        "{}[]|\\^`~*",
        "\u{fffd}\u{10ffff}",
        "null\0inside",
    ]
    .map(str::to_owned)
    .into();
    keys.push("k".repeat(1024));
    keys.push(format!("{}x", "€".repeat(341)));
    keys
}

#[tokio::test]
async fn every_key_is_a_key_of_its_own() {
    let (_node, s3) = bucket().await;
    let keys = odd_keys();
    for (seed, key) in keys.iter().enumerate() {
        put(&s3, key, payload(100, seed as u64)).await;
    }
    for (seed, key) in keys.iter().enumerate() {
        assert_eq!(get(&s3, key).await, payload(100, seed as u64), "{key:?}");
    }
    for key in &keys {
        s3.delete_object().bucket("bucket").key(key).send().await.expect("deleted");
        assert!(!is_there(&s3, key).await, "{key:?}");
    }
    let left = s3.list_objects_v2().bucket("bucket").send().await.expect("a list");
    assert_eq!(left.key_count(), Some(0));
    let long = s3.put_object().bucket("bucket").key("k".repeat(1025)).send().await;
    assert_eq!(refused(long), no(400, "KeyTooLongError"));
    let long = s3.put_object().bucket("bucket").key(format!("{}xx", "€".repeat(341))).send().await;
    assert_eq!(refused(long), no(400, "KeyTooLongError"), "the bound is in bytes");
}

#[tokio::test]
async fn headers_and_metadata_come_back() {
    let (_node, s3) = bucket().await;
    let expires = DateTime::from_secs(2_000_000_000);
    let metadata = [("one", "1"), ("two-words", "  inner  blanks"), ("empty", ""), ("long", &"v".repeat(1900))];
    let metadata: HashMap<String, String> =
        metadata.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let mut put = s3.put_object().bucket("bucket").key("k").body(ByteStream::from_static(b"v"));
    put = put.content_type("text/plain; charset=utf-8").cache_control("no-cache").content_language("de, en");
    put = put.content_disposition("attachment; filename=\"a b\"").content_encoding("gzip,br").expires(expires);
    put.set_metadata(Some(metadata.clone())).send().await.expect("a put");
    let head = s3.head_object().bucket("bucket").key("k").send().await.expect("a head");
    assert_eq!(head.content_type(), Some("text/plain; charset=utf-8"));
    assert_eq!(head.cache_control(), Some("no-cache"));
    assert_eq!(head.content_language(), Some("de, en"));
    assert_eq!(head.content_disposition(), Some("attachment; filename=\"a b\""));
    assert_eq!(head.content_encoding(), Some("gzip,br"));
    assert_eq!(head.expires_string(), Some("Wed, 18 May 2033 03:33:20 GMT"));
    let got = head.metadata().expect("metadata");
    for (name, value) in &metadata {
        assert_eq!(got.get(name).map(|v| v.trim()), Some(value.trim()), "{name}");
    }
    assert_eq!(got.len(), metadata.len());

    let large = s3.put_object().bucket("bucket").key("large").metadata("m", "v".repeat(2048)).send().await;
    assert_eq!(refused(large), no(400, "MetadataTooLarge"));
    assert!(!is_there(&s3, "large").await);
    let mut get = s3.get_object().bucket("bucket").key("k").response_content_type("image/png");
    get = get.response_cache_control("max-age=1").response_content_disposition("inline");
    let got = get.send().await.expect("a get");
    assert_eq!((got.content_type(), got.cache_control()), (Some("image/png"), Some("max-age=1")));
    assert_eq!(got.content_disposition(), Some("inline"));
}

#[tokio::test]
async fn ranges_are_exactly_the_bytes_asked_for() {
    let (_node, s3) = bucket().await;
    let len = (3 << 20) + 11;
    let bytes = payload(len, 3);
    put(&s3, "large", bytes.clone()).await;
    put(&s3, "small", bytes[..50].to_vec()).await;
    put(&s3, "empty", "").await;
    let get = async |key: &str, range: &str| {
        let got = s3.get_object().bucket("bucket").key(key).range(range).send().await.expect(range);
        let content_range = got.content_range().unwrap_or_default().to_owned();
        (content_range, got.body.collect().await.expect("all bytes").to_vec())
    };
    let mib = 1 << 20;
    let mut asked = vec![(0, 0), (0, 9), (mib - 1, mib), (mib, mib), (2 * mib - 5, 3 * mib + 5), (len - 1, len - 1)];
    asked.push((0, len - 1));
    for (first, last) in asked {
        let (content_range, got) = get("large", &format!("bytes={first}-{last}")).await;
        assert_eq!(content_range, format!("bytes {first}-{last}/{len}"));
        assert!(got == bytes[first..=last], "{first}-{last}");
    }
    assert_eq!(get("small", "bytes=40-").await, ("bytes 40-49/50".into(), bytes[40..50].to_vec()));
    assert_eq!(get("small", "bytes=-7").await, ("bytes 43-49/50".into(), bytes[43..50].to_vec()));
    assert_eq!(get("small", "bytes=-700").await, ("bytes 0-49/50".into(), bytes[..50].to_vec()));
    assert_eq!(get("small", "bytes=45-18446744073709551615").await, ("bytes 45-49/50".into(), bytes[45..50].to_vec()));
    for ignored in ["bytes=0-1,4-5", "bytes=5-2", "lines=1-2", "bytes=-"] {
        assert_eq!(get("small", ignored).await, (String::new(), bytes[..50].to_vec()), "{ignored}");
    }
    for (key, range) in
        [("small", "bytes=50-"), ("small", "bytes=-0"), ("empty", "bytes=0-0"), ("large", "bytes=99999999-")]
    {
        let refusal = s3.get_object().bucket("bucket").key(key).range(range).send().await;
        assert_eq!(refused(refusal), no(416, "InvalidRange"), "{key} {range}");
    }
    let head = s3.head_object().bucket("bucket").key("small").range("bytes=1-3").send().await.expect("a head");
    assert_eq!((head.content_length(), head.content_range()), (Some(3), Some("bytes 1-3/50")));
}

#[tokio::test]
async fn what_this_version_does_not_have_is_refused_by_name_and_stores_nothing() {
    let (node, s3) = bucket().await;
    let put = || s3.put_object().bucket("bucket").key("k");
    let missing = no(501, "NotImplemented");
    assert_eq!(refused(put().acl(ObjectCannedAcl::PublicRead).send().await), missing);
    assert_eq!(refused(put().server_side_encryption(ServerSideEncryption::Aes256).send().await), missing);
    assert_eq!(refused(put().tagging("a=b").send().await), missing);
    assert_eq!(refused(put().storage_class(StorageClass::Glacier).send().await), no(400, "InvalidStorageClass"));
    assert_eq!(refused(s3.get_object_tagging().bucket("bucket").key("k").send().await), missing);
    assert_eq!(refused(s3.get_bucket_versioning().bucket("bucket").send().await), missing);
    assert!(!is_there(&s3, "k").await);
    for (method, target) in [("PUT", "/bucket?tagging"), ("PUT", "/bucket/k?acl"), ("DELETE", "/bucket?policy")] {
        assert_eq!(Ask::new(&node, method, target).send().await.error(), missing, "{method} {target}");
    }
    for (method, target) in [("POST", "/"), ("PUT", "/"), ("PATCH", "/bucket/k"), ("PUT", "/bucket/k?uploadId=1")] {
        let answer = Ask::new(&node, method, target).send().await;
        assert_eq!(answer.error(), no(405, "MethodNotAllowed"), "{method} {target}");
    }
    assert!(!is_there(&s3, "k").await);
    put()
        .acl(ObjectCannedAcl::Private)
        .storage_class(StorageClass::Standard)
        .send()
        .await
        .expect("what is the default");
}

#[tokio::test]
async fn writers_and_readers_of_many_keys_do_not_meet() {
    let (_node, s3) = bucket().await;
    let one = async |s3: Client, number: u64| {
        let key = format!("k{number}");
        for round in 0..3 {
            let bytes = payload(20_000 + (number as usize * 7919) % 60_000, number * 10 + round);
            put(&s3, &key, bytes.clone()).await;
            assert!(get(&s3, &key).await == bytes, "a read after a write sees it");
        }
        s3.delete_object().bucket("bucket").key(&key).send().await.expect("deleted");
        assert!(!is_there(&s3, &key).await);
    };
    futures_util::future::join_all((0..24).map(|number| one(s3.clone(), number))).await;
}

#[tokio::test]
async fn an_answer_says_which_record_it_is_and_who_asked_for_what() {
    let (node, s3) = bucket().await;
    let written = Ask::new(&node, "PUT", "/bucket/k").body("v").send().await;
    assert_eq!(written.status, 200);
    let (place, seq) = written.header("x-lockstep-seq").rsplit_once('/').expect("origin, epoch, seq");
    assert!(place.starts_with("site-a/") && seq.parse::<u64>().is_ok_and(|seq| seq > 0));
    assert_eq!(written.header("x-lockstep-ack"), "local", "there is no mirror");
    assert_eq!(written.header("x-amz-request-id").len(), 16);
    let strict = Ask::new(&node, "PUT", "/bucket/k").body("w").header("x-lockstep-require-ack", "durable");
    let strict = strict.send().await;
    assert_eq!(strict.error(), no(503, "ServiceUnavailable"));
    assert_eq!(get(&s3, "k").await, b"v", "what could not be had at this level was not done");
    let bad = Ask::new(&node, "PUT", "/bucket/k").header("x-lockstep-require-ack", "soon").send().await;
    assert_eq!(bad.error(), no(400, "InvalidArgument"));
    assert_eq!(bad.element("RequestId"), bad.header("x-amz-request-id"));
    let missing = s3.head_object().bucket("bucket").key("missing").send().await;
    assert_eq!(status_of(&missing), 404);
}

#[tokio::test]
async fn a_bucket_in_the_host_name_is_the_same_bucket() {
    let options = lockstep_tests::node::Options { s3: "domains = [\"s3.test\"]".into(), ..Default::default() };
    let node = lockstep_tests::node::Node::start(options).await;
    let ask = |method: &str, host: &str, target: &str| {
        let mut ask = Ask::new(&node, method, target);
        ask.host = host.into();
        ask
    };
    assert_eq!(ask("PUT", "my.bucket.s3.test:9000", "/").send().await.status, 200);
    assert_eq!(ask("PUT", "my.bucket.s3.test", "/a/b%20c").body("v").send().await.status, 200);
    for (host, target) in
        [("s3.test", "/my.bucket/a/b%20c"), ("MY.BUCKET.S3.TEST", "/a/b%20c"), ("other", "/my.bucket/a/b%20c")]
    {
        assert_eq!(ask("GET", host, target).send().await.text(), "v", "{host}");
    }
    let listed = ask("GET", "my.bucket.s3.test", "/?list-type=2").send().await;
    assert_eq!(listed.element("Key"), "a/b c");
    assert_eq!(ask("GET", "s3.test", "/").send().await.element("Name"), "my.bucket");
    assert_eq!(ask("GET", "No_Bucket.s3.test", "/").send().await.error(), no(400, "InvalidBucketName"));
}
