//! Documents that are bad, huge, deep or clever.

use lockstep_tests::node::{Node, resident_bytes};
use lockstep_tests::raw::{Ask, hex};

use super::{no, node, refused, unharmed};

fn delete(node: &Node, document: impl Into<Vec<u8>>) -> Ask {
    Ask::new(node, "POST", "/bucket?delete").body(document)
}

#[tokio::test]
async fn a_document_that_is_not_plain_and_well_formed_is_refused() {
    let node = node().await;
    let one = "<Object><Key>there</Key></Object>";
    let deep = format!("<Delete>{}{}{one}</Delete>", "<a>".repeat(10_000), "</a>".repeat(10_000));
    let wide = format!("<Delete>{}</Delete>", one.repeat(1001));
    let laughs = "<!DOCTYPE d [<!ENTITY a \"there\"><!ENTITY b \"&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;\">]><Delete><Object><Key>&b;</Key></Object></Delete>";
    let outside =
        "<!DOCTYPE d [<!ENTITY x SYSTEM \"file:///etc/passwd\">]><Delete><Object><Key>&x;</Key></Object></Delete>";
    for document in [
        "",
        " ",
        "garbage",
        "<",
        "<Delete>",
        "</Delete>",
        "<Delete></Other>",
        "<Delete/>",
        "<Delete><Object></Object></Delete>",
        "<Delete><Object><Key>there</Key></Object>",
        "<Delete><Object><Key>there</Key></Object></Delete><Delete/>",
        "<Delete><Object><Key>&undefined;</Key></Object></Delete>",
        "<Delete><Object><Key>&#0;</Key></Object></Delete>",
        "<Delete><Object><Key>&#xFFFFFFFFF;</Key></Object></Delete>",
        "<Delete><Object><Key></Key></Object></Delete>",
        "<?php x?><Delete><Object><Key>there</Key></Object></Delete>",
        "{\"Delete\": 1}",
        &deep,
        &wide,
        laughs,
        outside,
    ] {
        let answer = delete(&node, document).send().await;
        assert_eq!(refused(&answer), no(400, "MalformedXML"), "{}", &document[..document.len().min(80)]);
    }
    for bytes in [&b"\xff\xfe<\0D\0"[..], b"<Delete><Object><Key>\xff</Key></Object></Delete>", &[0; 1000]] {
        assert_eq!(refused(&delete(&node, bytes).send().await), no(400, "MalformedXML"));
    }
    unharmed(&node).await;
}

#[tokio::test]
async fn a_huge_document_is_not_gathered() {
    let node = node().await;
    let before = resident_bytes();
    let huge = vec![b' '; 5 << 20];
    assert_eq!(refused(&delete(&node, huge.clone()).send().await), no(400, "MalformedXML"));
    for target in ["/bucket/k?uploadId=0123456789abcdef0123456789abcdef", "/other-bucket"] {
        let method = if target.contains('?') { "POST" } else { "PUT" };
        assert_eq!(refused(&Ask::new(&node, method, target).body(huge.clone()).send().await), no(400, "MalformedXML"));
    }
    let declared = delete(&node, "").payload("UNSIGNED-PAYLOAD").header("Content-Length", "1000000000000");
    let declared = declared.header("Expect", "100-continue").send().await;
    assert!((400..500).contains(&declared.status), "{declared:?}");
    let grown = resident_bytes().saturating_sub(before) >> 20;
    assert!(grown < 200, "{grown} MiB");
    let digest = delete(&node, "<Delete><Object><Key>there</Key></Object></Delete>").payload(&hex(b"other"));
    assert_eq!(refused(&digest.send().await), no(400, "XAmzContentSHA256Mismatch"));
    unharmed(&node).await;
}

#[tokio::test]
async fn lists_of_parts_and_bucket_configurations_are_checked_the_same_way() {
    let node = node().await;
    let created = Ask::new(&node, "POST", "/bucket/k?uploads").send().await;
    let target = format!("/bucket/k?uploadId={}", created.element("UploadId"));
    let part = |number: &str| format!("<Part><PartNumber>{number}</PartNumber><ETag>\"e\"</ETag></Part>");
    let list = |inner: &str| format!("<CompleteMultipartUpload>{inner}</CompleteMultipartUpload>");
    for (document, code) in [
        (String::new(), "MalformedXML"),
        (list(""), "MalformedXML"),
        (list(&part("-1")), "MalformedXML"),
        (list(&part("x")), "MalformedXML"),
        (list(&part("4294967296")), "MalformedXML"),
        (list(&part("1.0")), "MalformedXML"),
        (list("<Part><PartNumber>1</PartNumber></Part>"), "MalformedXML"),
        (list(&part("0")), "InvalidPart"),
        (list(&part("1")), "InvalidPart"),
        (list(&part("10001")), "InvalidPart"),
        (list(&(part("2") + &part("1"))), "InvalidPartOrder"),
        (list(&(1..=10_001).map(|number| part(&number.to_string())).collect::<String>()), "MalformedXML"),
    ] {
        let answer = Ask::new(&node, "POST", &target).body(document.clone()).send().await;
        assert_eq!(refused(&answer), no(400, code), "{}", &document[..document.len().min(120)]);
    }
    for document in ["<CreateBucketConfiguration>", "<!DOCTYPE a><CreateBucketConfiguration/>", "x"] {
        assert_eq!(
            refused(&Ask::new(&node, "PUT", "/new-bucket").body(document).send().await),
            no(400, "MalformedXML")
        );
    }
    assert_eq!(refused(&Ask::new(&node, "GET", "/new-bucket").send().await), no(404, "NoSuchBucket"));
    unharmed(&node).await;
}
