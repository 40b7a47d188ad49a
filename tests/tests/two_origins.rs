//! One node that has two origins, each with a bucket of the same name (F38): they are different buckets, by key and by Host
//! name, as long as one of them is mirrored here and after it was promoted here.

use lockstep_mirror::event::Command;
use lockstep_mirror::status::StreamState;
use lockstep_storage::id::Origin;
use lockstep_tests::node::{Node, Options};
use lockstep_tests::raw::{Answer, Ask};

/// A request to a node with the root key of another one, by a Host name where one is given.
fn ask(at: &Node, key_of: &Node, host: Option<&str>, method: &str, target: &str) -> Ask {
    let mut ask = Ask::new(at, method, target);
    ask.key.0 = key_of.access_key();
    if let Some(host) = host {
        host.clone_into(&mut ask.host);
    }
    ask
}

async fn get(at: &Node, key_of: &Node, host: Option<&str>, target: &str) -> Answer {
    ask(at, key_of, host, "GET", target).send().await
}

/// `site-a`, which is mirrored at `site-b`, both with a domain.
async fn pair() -> (Node, Node) {
    let tables = "[[mirror.source]]\nnode = \"site-a\"\nnvram = \"24MiB\"\ndomains = [\"s3.a.test\"]\n".to_owned();
    let b = Node::start(Options { node: "site-b", tables, s3: "domains = [\"s3.b.test\"]".into() }).await;
    let tables = format!("[mirror.destination]\nnode = \"site-b\"\nurl = \"http://{}\"\n", b.mirror);
    let a = Node::start(Options { node: "site-a", tables, s3: "domains = [\"s3.a.test\"]".into() }).await;
    a.wait_for("in sync", |status| status == StreamState::InSync).await;
    (a, b)
}

/// At B each key, and each Host name, sees its own origin's bucket, and nothing of the other's.
async fn assert_apart(a: &Node, b: &Node) {
    for (key_of, domain, says) in [(a, "s3.a.test", "of a"), (b, "s3.b.test", "of b")] {
        let hosted = format!("bucket.{domain}");
        for (host, target) in [(None, "/bucket/same"), (Some(domain), "/bucket/same"), (Some(&*hosted), "/same")] {
            assert_eq!(get(b, key_of, host, target).await.text(), says, "{host:?}");
        }
        let (own, other) = if says == "of a" { ("only-a", "only-b") } else { ("only-b", "only-a") };
        assert_eq!(get(b, key_of, None, &format!("/bucket/{own}")).await.status, 200);
        assert_eq!(get(b, key_of, None, &format!("/bucket/{other}")).await.status, 404);
        let listed = get(b, key_of, Some(&hosted), "/?list-type=2").await.text();
        assert!(listed.contains(own) && !listed.contains(other), "{listed}");
    }
    // A key belongs to its origin, whatever the Host name says.
    assert_eq!(get(b, a, Some("s3.b.test"), "/bucket/same").await.status, 403);
    assert_eq!(get(b, b, Some("s3.a.test"), "/bucket/same").await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_name_is_two_buckets_in_two_origins_of_a_node() {
    let (a, b) = pair().await;
    for (node, says, only) in [(&a, "of a", "only-a"), (&b, "of b", "only-b")] {
        assert_eq!(ask(node, node, None, "PUT", "/bucket").send().await.status, 200);
        assert_eq!(ask(node, node, None, "PUT", "/bucket/same").body(says).send().await.status, 200);
        assert_eq!(ask(node, node, None, "PUT", &format!("/bucket/{only}")).body(says).send().await.status, 200);
    }
    let origin = Origin::new("site-a").expect("a name");
    a.client.command(Command::Sync { origin: Some(origin.clone()) }).await.expect("a consistency point");
    assert_apart(&a, &b).await;
    // A replica takes no write, and the other origin's bucket is not the one that is written instead.
    let hosted = ask(&b, &a, Some("bucket.s3.a.test"), "PUT", "/same").body("wrong");
    assert_eq!(hosted.send().await.status, 503);
    assert_eq!(ask(&b, &a, None, "DELETE", "/bucket/same").send().await.status, 503);
    assert_apart(&a, &b).await;

    let promote = Command::Promote { origin, dry_run: false, accept_loss: false };
    b.client.command(promote).await.expect("promoted");
    assert_apart(&a, &b).await;
    // Writes find their origin too, and a bucket that is deleted in one stays in the other.
    let put = ask(&b, &a, Some("bucket.s3.a.test"), "PUT", "/later").body("of a, at b");
    assert_eq!(put.send().await.status, 200);
    assert_eq!(get(&b, &a, None, "/bucket/later").await.text(), "of a, at b");
    assert_eq!(get(&b, &b, None, "/bucket/later").await.status, 404);
    for target in ["/bucket/same", "/bucket/only-b", "/bucket"] {
        assert_eq!(ask(&b, &b, None, "DELETE", target).send().await.status, 204, "{target}");
    }
    assert_eq!(get(&b, &b, None, "/bucket/same").await.status, 404);
    assert_eq!(get(&b, &a, None, "/bucket/same").await.text(), "of a");
    // The name is free there, and says nothing of the other one.
    assert_eq!(ask(&b, &b, Some("bucket.s3.b.test"), "PUT", "/").send().await.status, 200);
    assert_eq!(get(&b, &b, None, "/bucket/same").await.status, 404);
}
