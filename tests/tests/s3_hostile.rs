//! Whoever means harm at the S3 listener: a clear refusal, nothing stored, and the node goes on for everybody else.

#[path = "s3_hostile/bodies.rs"]
mod bodies;
#[path = "s3_hostile/heads.rs"]
mod heads;
#[path = "s3_hostile/requests.rs"]
mod requests;
#[path = "s3_hostile/slow.rs"]
mod slow;
#[path = "s3_hostile/xml.rs"]
mod xml;

use lockstep_tests::node::Node;
use lockstep_tests::raw::{Answer, Ask};

/// A node with a bucket, in which one object is.
async fn node() -> Node {
    let node = Node::alone().await;
    assert_eq!(Ask::new(&node, "PUT", "/bucket").send().await.status, 200);
    assert_eq!(Ask::new(&node, "PUT", "/bucket/there").body("before").send().await.status, 200);
    node
}

/// As a refusal, to compare with.
fn no(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

/// A refusal is an error document of S3's, with its request's id.
fn refused(answer: &Answer) -> (u16, String) {
    if answer.status < 500 || answer.status == 501 || answer.status == 503 {
        assert_eq!(answer.header("content-type"), "application/xml", "{answer:?}");
        assert_eq!(answer.element("RequestId"), answer.header("x-amz-request-id"));
        assert!(!answer.element("Message").is_empty());
    }
    answer.error()
}

/// Nothing has changed in the bucket, and an ordinary client is served.
async fn unharmed(node: &Node) {
    let listed = Ask::new(node, "GET", "/bucket?list-type=2&encoding-type=url").send().await;
    assert_eq!(
        (listed.element("KeyCount").as_str(), listed.element("Key").as_str()),
        ("1", "there"),
        "{}",
        listed.text()
    );
    assert_eq!(Ask::new(node, "GET", "/bucket/there").send().await.text(), "before");
    let body = vec![9; 100_000];
    assert_eq!(Ask::new(node, "PUT", "/bucket/normal").body(body.clone()).send().await.status, 200);
    assert!(Ask::new(node, "GET", "/bucket/normal").send().await.body == body);
    assert_eq!(Ask::new(node, "DELETE", "/bucket/normal").send().await.status, 204);
}
