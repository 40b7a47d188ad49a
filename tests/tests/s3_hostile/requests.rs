//! Well-formed requests with values that no client would send: numbers beyond their types, ranges, tokens, names.

use lockstep_tests::raw::{Ask, encode};

use super::{no, node, refused, unharmed};

#[tokio::test]
async fn numbers_beyond_their_types_are_refused_by_name() {
    let node = node().await;
    let bad = no(400, "InvalidArgument");
    for value in ["-1", "99999999999999999999", "2147483648", "1.5", "0x1", "NaN", "%00", "1%202"] {
        for target in [
            "/bucket?max-keys=",
            "/bucket?list-type=2&max-keys=",
            "/bucket?uploads&max-uploads=",
            "/?max-buckets=",
            "/bucket/there?partNumber=",
        ] {
            let answer = Ask::new(&node, "GET", &format!("{target}{value}")).send().await;
            assert_eq!(refused(&answer), bad, "{target}{value}");
        }
    }
    let upload = Ask::new(&node, "POST", "/bucket/k?uploads").send().await.element("UploadId");
    for value in ["-1", "99999999999999999999", "x"] {
        for name in ["max-parts", "part-number-marker"] {
            let target = format!("/bucket/k?uploadId={upload}&{name}={value}");
            assert_eq!(refused(&Ask::new(&node, "GET", &target).send().await), bad, "{name}={value}");
        }
    }
    let end = format!("/bucket/k?uploadId={upload}&part-number-marker=2147483647");
    assert_eq!(Ask::new(&node, "GET", &end).send().await.element("IsTruncated"), "false");
    for token in ["!", "%ff", "YQ==", "_w", &"A".repeat(5000)] {
        let list = Ask::new(&node, "GET", &format!("/bucket?list-type=2&continuation-token={token}")).send().await;
        let code = if token.len() == 5000 { 200 } else { 400 };
        assert_eq!(list.status, code, "{token}");
    }
    assert_eq!(Ask::new(&node, "DELETE", &format!("/bucket/k?uploadId={upload}")).send().await.status, 204);
    unharmed(&node).await;
}

#[tokio::test]
async fn ranges_beyond_all_numbers_are_ignored_or_refused() {
    let node = node().await;
    let many = format!("bytes={}", "0-0,".repeat(2000));
    for (range, status) in [
        ("bytes=18446744073709551615-", 416),
        ("bytes=0-18446744073709551616", 206),
        ("bytes=-18446744073709551616", 206),
        ("bytes=99999999999999999999999999-", 416),
        ("bytes=--1", 200),
        ("bytes=1--", 200),
        ("bytes= 1 - 2 ", 206),
        ("bytes", 200),
        ("bytes=0-0,1-1,2-2", 200),
        (many.as_str(), 200),
        ("\u{e9}", 200),
    ] {
        let answer = Ask::new(&node, "GET", "/bucket/there").header("Range", range).send().await;
        assert_eq!(answer.status, status, "{}", &range[..range.len().min(40)]);
    }
    unharmed(&node).await;
}

#[tokio::test]
async fn control_characters_stay_in_their_keys() {
    let node = node().await;
    let key = "a\0b\r\nx-amz-meta-injected: 1\u{1b}[31m";
    let target = format!("/bucket/{}", encode(key));
    let missing = Ask::new(&node, "GET", &target).send().await;
    assert_eq!(refused(&missing), no(404, "NoSuchKey"));
    assert_eq!(Ask::new(&node, "PUT", &target).body("v").send().await.status, 200);
    let got = Ask::new(&node, "GET", &target).send().await;
    assert_eq!((got.text().as_str(), got.header("x-amz-meta-injected")), ("v", ""));
    let listed = Ask::new(&node, "GET", "/bucket?encoding-type=url&prefix=a").send().await;
    assert_eq!(listed.element("Key"), encode(key));
    // Another key's beginning up to a NUL is not its prefix in any sense that counts.
    assert_eq!(refused(&Ask::new(&node, "GET", "/bucket/a").send().await), no(404, "NoSuchKey"));
    assert_eq!(Ask::new(&node, "DELETE", &target).send().await.status, 204);
    for query in ["response-content-type=a%0d%0ax: y", "response-cache-control=%00"] {
        let target = format!("/bucket/there?{}", query.replace(' ', "%20"));
        assert_eq!(refused(&Ask::new(&node, "GET", &target).send().await), no(400, "InvalidArgument"), "{query}");
    }
    unharmed(&node).await;
}

#[tokio::test]
async fn copy_sources_that_name_nothing_are_refused() {
    let node = node().await;
    for (source, status, code) in [
        ("", 400, "InvalidArgument"),
        ("%ff/k", 400, "InvalidArgument"),
        ("bucket", 400, "InvalidArgument"),
        ("../etc/passwd", 404, "NoSuchBucket"),
        ("bucket/../there", 404, "NoSuchKey"),
        ("BUCKET/there", 404, "NoSuchBucket"),
        ("bucket/there?versionId=%00", 404, "NoSuchVersion"),
        ("bucket%00/there", 404, "NoSuchBucket"),
    ] {
        let answer = Ask::new(&node, "PUT", "/bucket/k").header("x-amz-copy-source", source).send().await;
        assert_eq!(refused(&answer), no(status, code), "{source}");
    }
    unharmed(&node).await;
}

#[tokio::test]
async fn a_presigned_life_beyond_all_numbers_is_refused() {
    let node = node().await;
    let url = Ask::new(&node, "GET", "/bucket/there").presigned(std::time::Duration::from_mins(1)).signed();
    for (life, status, code) in [
        ("9223372036854775808", 400, "AuthorizationQueryParametersError"),
        ("-1", 403, "AccessDenied"),
        ("9223372036854775807", 403, "AccessDenied"),
        ("604801", 403, "AccessDenied"),
        ("1e3", 400, "AuthorizationQueryParametersError"),
    ] {
        let mut other = url.clone();
        other.line = other.line.replace("X-Amz-Expires=60", &format!("X-Amz-Expires={life}"));
        assert_eq!(refused(&other.send().await), no(status, code), "{life}");
    }
    unharmed(&node).await;
}
