//! `ListObjects` in both versions: every page of every list is what a model of S3's rules says.

use std::collections::BTreeSet;

use aws_sdk_s3::Client;
use aws_sdk_s3::types::{EncodingType, ObjectStorageClass};
use futures_util::StreamExt;
use lockstep_tests::raw::{Ask, encode};

use super::bed::{bucket, etag, no, put, refused};
use super::objects::odd_keys;

/// A key or a common prefix, in the order in which a list walks over both.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Entry(String, bool);

/// What a list without end holds.
fn model(keys: &BTreeSet<String>, prefix: &str, delimiter: &str, after: &str) -> Vec<Entry> {
    let mut found = BTreeSet::new();
    for key in keys.iter().filter(|key| key.starts_with(prefix)) {
        let end = if delimiter.is_empty() { None } else { key[prefix.len()..].find(delimiter) };
        let entry = match end {
            Some(end) => Entry(key[..prefix.len() + end + delimiter.len()].to_owned(), true),
            None => Entry(key.clone(), false),
        };
        if entry.0.as_str() > after {
            found.insert(entry);
        }
    }
    found.into_iter().collect()
}

async fn fill(s3: &Client, keys: &BTreeSet<String>) {
    let all = futures_util::stream::iter(keys).map(|key| put(s3, key, key.as_bytes()));
    all.buffer_unordered(16).collect::<Vec<_>>().await;
}

/// All pages of the first version, by `NextMarker` as a client without a delimiter would not need it.
async fn pages_v1(s3: &Client, prefix: &str, delimiter: &str, max: i32, from: &str) -> Vec<Entry> {
    let (mut found, mut marker) = (Vec::new(), from.to_owned());
    loop {
        let ask = s3.list_objects().bucket("bucket").prefix(prefix).delimiter(delimiter).max_keys(max).marker(&marker);
        let page = ask.send().await.expect("a page");
        let keys = page.contents().iter().map(|o| Entry(o.key().expect("a key").to_owned(), false));
        let prefixes = page.common_prefixes().iter().map(|p| Entry(p.prefix().expect("a prefix").to_owned(), true));
        let mut entries: Vec<Entry> = keys.chain(prefixes).collect();
        entries.sort();
        assert!(i32::try_from(entries.len()).is_ok_and(|count| count <= max));
        let last = entries.last().cloned();
        found.extend(entries);
        if page.is_truncated() != Some(true) {
            assert_eq!(page.next_marker(), None);
            return found;
        }
        let last = last.expect("a page with more behind it has entries");
        page.next_marker().expect("a marker").clone_into(&mut marker);
        assert_eq!(marker, last.0);
    }
}

async fn pages_v2(s3: &Client, prefix: &str, delimiter: &str, max: i32, from: &str) -> Vec<Entry> {
    let (mut found, mut token) = (Vec::new(), None);
    loop {
        let ask = s3.list_objects_v2().bucket("bucket").prefix(prefix).delimiter(delimiter).max_keys(max);
        let page = ask.start_after(from).set_continuation_token(token.clone()).send().await.expect("a page");
        assert_eq!(page.continuation_token(), token.as_deref());
        let keys = page.contents().iter().map(|o| Entry(o.key().expect("a key").to_owned(), false));
        let prefixes = page.common_prefixes().iter().map(|p| Entry(p.prefix().expect("a prefix").to_owned(), true));
        let mut entries: Vec<Entry> = keys.chain(prefixes).collect();
        entries.sort();
        let count = i32::try_from(entries.len()).expect("a page is short");
        assert_eq!(page.key_count(), Some(count));
        assert!(count <= max);
        found.extend(entries);
        assert_eq!(page.is_truncated(), Some(page.next_continuation_token().is_some()));
        match page.next_continuation_token() {
            Some(next) => token = Some(next.to_owned()),
            None => return found,
        }
    }
}

#[tokio::test]
async fn pages_of_any_size_prefix_and_delimiter_are_those_of_the_model() {
    let (_node, s3) = bucket().await;
    let keys = [
        "a", "a/", "a/1", "a/2", "a/b/1", "a/b/2", "a/b/c/d", "a-b", "a.b", "b", "b//x", "b/x", "c/1", "c/2", "d1/",
        "d1/x/y", "d10", "ü/1", "ü/ü", "🦀", "zz--1", "zz--2", "zz-1", "z",
    ];
    let keys: BTreeSet<String> = keys.iter().map(|key| (*key).to_owned()).collect();
    fill(&s3, &keys).await;
    for prefix in ["", "a", "a/", "a/b", "b/", "d1/", "ü", "zz", "nothing"] {
        for delimiter in ["", "/", "-", "--", "/b", "ü"] {
            for (max, from) in
                [(1, ""), (3, ""), (1000, ""), (2, "a/"), (2, "a/b/"), (5, "c/15"), (4, "zzz"), (7, "ü/")]
            {
                let wanted = model(&keys, prefix, delimiter, from);
                let what = format!("prefix {prefix:?}, delimiter {delimiter:?}, {max} from {from:?}");
                // A page of one entry of a long list costs a request each; the short pages are tried where it is short.
                if max == 1 && wanted.len() > 8 {
                    continue;
                }
                assert_eq!(pages_v2(&s3, prefix, delimiter, max, from).await, wanted, "V2, {what}");
                assert_eq!(pages_v1(&s3, prefix, delimiter, max, from).await, wanted, "V1, {what}");
            }
        }
    }
}

#[tokio::test]
async fn odd_keys_are_listed_in_the_order_of_their_bytes() {
    let (_node, s3) = bucket().await;
    let keys: BTreeSet<String> = odd_keys().into_iter().collect();
    fill(&s3, &keys).await;
    // What no XML can hold travels only in encoded form: that is what it is for.
    let mut pages =
        s3.list_objects_v2().bucket("bucket").encoding_type(EncodingType::Url).max_keys(5).into_paginator().send();
    let mut listed = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.expect("a page");
        assert_eq!(page.encoding_type(), Some(&EncodingType::Url));
        listed.extend(page.contents().iter().map(|o| decode(o.key().expect("a key"))));
    }
    assert_eq!(listed, keys.iter().cloned().collect::<Vec<_>>());

    let prefix = "ü/日";
    let some = s3.list_objects().bucket("bucket").prefix(prefix).encoding_type(EncodingType::Url);
    let some = some.send().await.expect("a page");
    assert_eq!(some.prefix().map(decode).as_deref(), Some(prefix));
    assert_eq!(some.contents().len(), 1);
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|pair| std::str::from_utf8(pair).ok()).filter(|_| *first == b'%');
        if let Some(byte) = hex.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            bytes.push(byte);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).expect("UTF-8")
}

#[tokio::test]
async fn what_a_list_says_of_an_object() {
    let (_node, s3) = bucket().await;
    put(&s3, "k", "four").await;
    let page = s3.list_objects_v2().bucket("bucket").send().await.expect("a page");
    let object = &page.contents()[0];
    assert_eq!((object.key(), object.size()), (Some("k"), Some(4)));
    assert_eq!(object.e_tag(), Some(etag(b"four").as_str()));
    assert_eq!(object.storage_class().map(ObjectStorageClass::as_str), Some("STANDARD"));
    assert!(object.last_modified().is_some() && object.owner().is_none());
    assert_eq!((page.name(), page.max_keys(), page.is_truncated()), (Some("bucket"), Some(1000), Some(false)));
    let owned = s3.list_objects_v2().bucket("bucket").fetch_owner(true).send().await.expect("a page");
    assert_eq!(owned.contents()[0].owner().and_then(|owner| owner.id()), Some("root"));
    let first = s3.list_objects().bucket("bucket").send().await.expect("a page");
    assert_eq!(first.contents()[0].owner().and_then(|owner| owner.display_name()), Some("root"));
}

#[tokio::test]
async fn bounds_of_lists() {
    let (node, s3) = bucket().await;
    for key in ["a", "b", "c"] {
        put(&s3, key, "v").await;
    }
    let empty = s3.list_objects_v2().bucket("bucket").max_keys(0).send().await.expect("a page");
    assert_eq!((empty.key_count(), empty.is_truncated(), empty.max_keys()), (Some(0), Some(false), Some(0)));
    let empty = s3.list_objects().bucket("bucket").max_keys(0).send().await.expect("a page");
    assert_eq!((empty.contents().len(), empty.is_truncated()), (0, Some(false)));
    let many = s3.list_objects_v2().bucket("bucket").max_keys(i32::MAX).send().await.expect("a page");
    assert_eq!((many.key_count(), many.max_keys()), (Some(3), Some(1000)));
    let bad = no(400, "InvalidArgument");
    assert_eq!(refused(s3.list_objects_v2().bucket("bucket").max_keys(-1).send().await), bad);
    assert_eq!(refused(s3.list_objects().bucket("bucket").max_keys(-1).send().await), bad);
    for token in ["!", "%%%", "/w", "a\u{1}"] {
        let list = s3.list_objects_v2().bucket("bucket").continuation_token(token).send().await;
        assert_eq!(refused(list), bad, "{token}");
    }
    for query in [
        "max-keys=99999999999999999999",
        "max-keys=1e3",
        "list-type=2&max-keys=0x10",
        "encoding-type=xml",
        "list-type=2&encoding-type=html",
    ] {
        let answer = Ask::new(&node, "GET", &format!("/bucket?{query}")).send().await;
        assert_eq!(answer.error(), bad, "{query}");
    }
    // A prefix, a marker and a delimiter may be longer than any key.
    let long = encode(&"x".repeat(3000));
    for name in ["prefix", "marker", "delimiter", "start-after"] {
        let answer = Ask::new(&node, "GET", &format!("/bucket?{name}={long}")).send().await;
        assert_eq!(answer.status, 200, "{name}");
    }
    let mut page = s3.list_objects_v2().bucket("bucket").into_paginator().page_size(1).send();
    let mut count = 0;
    while page.next().await.is_some() {
        count += 1;
    }
    assert_eq!(count, 3, "no empty page at the end");
}
