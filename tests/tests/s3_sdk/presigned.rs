//! Presigned URLs: what they allow, to whom, and for how long.

use std::time::{Duration, SystemTime};

use aws_sdk_s3::presigning::{PresignedRequest, PresigningConfig};
use lockstep_tests::node::Node;
use lockstep_tests::raw::{Answer, Ask, exchange};

use super::bed::{bucket, etag, get, is_there, no, put};

fn for_a_minute() -> PresigningConfig {
    PresigningConfig::expires_in(Duration::from_mins(1)).expect("a minute")
}

/// As whoever was given the URL sends it: without a key.
async fn send(node: &Node, presigned: &PresignedRequest, method: &str, headers: &str, body: &str) -> Answer {
    let target = presigned.uri().strip_prefix(&format!("http://{}", node.s3)).expect("the node's address");
    let signed: Vec<String> = presigned.headers().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let (address, signed, len) = (node.s3, signed.concat(), body.len());
    let head = format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}{signed}");
    let text = format!("{head}Content-Length: {len}\r\n\r\n{body}");
    exchange(node.s3, text.as_bytes()).await.expect("an answer")
}

#[tokio::test]
async fn a_presigned_get_and_put_need_no_key() {
    let (node, s3) = bucket().await;
    let key = "a b/ü+%/?&";
    let up = s3.put_object().bucket("bucket").key(key).presigned(for_a_minute()).await.expect("a URL");
    let stored = send(&node, &up, "PUT", "Content-Type: text/x\r\n", "through a URL").await;
    assert_eq!((stored.status, stored.header("etag")), (200, etag(b"through a URL").as_str()));
    assert_eq!(get(&s3, key).await, b"through a URL");
    let down = s3.get_object().bucket("bucket").key(key).response_content_type("image/x");
    let down = down.presigned(for_a_minute()).await.expect("a URL");
    let got = send(&node, &down, "GET", "Range: bytes=8-\r\n", "").await;
    assert_eq!((got.status, got.text().as_str()), (206, "a URL"));
    assert_eq!(got.header("content-type"), "image/x");
    let head = s3.head_object().bucket("bucket").key(key).presigned(for_a_minute()).await.expect("a URL");
    assert_eq!(send(&node, &head, "HEAD", "", "").await.header("content-type"), "text/x");
}

#[tokio::test]
async fn a_presigned_url_allows_what_it_says_and_nothing_else() {
    let (node, s3) = bucket().await;
    put(&s3, "k", "v").await;
    put(&s3, "l", "w").await;
    let url = s3.get_object().bucket("bucket").key("k").presigned(for_a_minute()).await.expect("a URL");
    let wrong = no(403, "SignatureDoesNotMatch");
    for method in ["PUT", "DELETE"] {
        assert_eq!(send(&node, &url, method, "", "").await.error(), wrong, "{method}");
    }
    assert_eq!(send(&node, &url, "GET", "x-amz-meta-more: 1\r\n", "").await.error(), no(403, "AccessDenied"));
    let fresh = Ask::new(&node, "GET", "/bucket/k").presigned(Duration::from_mins(1));
    let mut other_key = fresh.signed();
    other_key.line = other_key.line.replace("/bucket/k?", "/bucket/l?");
    assert_eq!(other_key.send().await.error(), wrong);
    let mut longer = fresh.signed();
    longer.line = longer.line.replace("X-Amz-Expires=60", "X-Amz-Expires=600");
    assert_eq!(longer.send().await.error(), wrong);
    let mut more = fresh.signed();
    more.line = more.line.replace(" HTTP", "&versionId=null HTTP");
    assert_eq!(more.send().await.error(), wrong);
    let twice = fresh.signed().and("Authorization", "AWS4-HMAC-SHA256 Credential=a");
    assert_eq!(twice.send().await.error(), no(400, "InvalidArgument"));
    assert!(is_there(&s3, "k").await);
}

#[tokio::test]
async fn a_presigned_url_lives_as_long_as_it_says_and_a_week_at_most() {
    let (node, s3) = bucket().await;
    put(&s3, "k", "v").await;
    let ask = |made: SystemTime, life_s: u64| {
        let mut ask = Ask::new(&node, "GET", "/bucket/k").presigned(Duration::from_secs(life_s));
        ask.time = made;
        ask
    };
    let now = SystemTime::now();
    let ago = |seconds: u64| now - Duration::from_secs(seconds);
    assert_eq!(ask(ago(3500), 3600).send().await.status, 200);
    assert_eq!(ask(now, 604_800).send().await.status, 200);
    assert_eq!(ask(ago(604_000), 604_800).send().await.status, 200);
    let denied = no(403, "AccessDenied");
    for (made, life_s) in [(ago(3601), 3600), (ago(10), 1), (now, 604_801), (now + Duration::from_secs(1000), 3600)] {
        assert_eq!(ask(made, life_s).send().await.error(), denied, "{life_s}");
    }
}
