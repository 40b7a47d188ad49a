//! `DeleteObject` and `DeleteObjects`.

use aws_sdk_s3::types::{Delete, ObjectIdentifier};

use super::bed::{bucket, etag, is_there, no, put, refused};

fn named(key: &str) -> ObjectIdentifier {
    ObjectIdentifier::builder().key(key).build().expect("a key")
}

fn these<'a>(keys: impl IntoIterator<Item = &'a str>) -> Delete {
    Delete::builder().set_objects(Some(keys.into_iter().map(named).collect())).build().expect("keys")
}

#[tokio::test]
async fn what_is_deleted_is_gone_and_may_be_deleted_again() {
    let (_node, s3) = bucket().await;
    put(&s3, "k", vec![1; 100_000]).await;
    for _ in 0..2 {
        s3.delete_object().bucket("bucket").key("k").send().await.expect("deleted");
        assert!(!is_there(&s3, "k").await);
    }
    let missing = s3.get_object().bucket("bucket").key("k").send().await;
    assert_eq!(refused(missing), no(404, "NoSuchKey"));
}

#[tokio::test]
async fn a_delete_on_a_condition_deletes_only_that_version() {
    let (_node, s3) = bucket().await;
    put(&s3, "k", "new").await;
    let delete = |etag: String| s3.delete_object().bucket("bucket").key("k").if_match(etag).send();
    assert_eq!(refused(delete(etag(b"old")).await), no(412, "PreconditionFailed"));
    assert!(is_there(&s3, "k").await);
    delete(etag(b"new")).await.expect("deleted");
    assert!(!is_there(&s3, "k").await);
}

#[tokio::test]
async fn a_thousand_keys_are_deleted_at_once_and_not_one_more() {
    let (_node, s3) = bucket().await;
    let keys: Vec<String> = (0..1000).map(|number| format!("key <&> \"{number:04}\" ü")).collect();
    for key in keys.iter().step_by(100) {
        put(&s3, key, "v").await;
    }
    let all = these(keys.iter().map(String::as_str));
    let deleted = s3.delete_objects().bucket("bucket").delete(all).send().await.expect("an answer");
    let names: Vec<&str> = deleted.deleted().iter().filter_map(|d| d.key()).collect();
    assert_eq!(names, keys, "those that were not there count as deleted, as at AWS");
    assert!(deleted.errors().is_empty());
    let left = s3.list_objects_v2().bucket("bucket").send().await.expect("a list");
    assert_eq!(left.key_count(), Some(0));

    let one_more = these(keys.iter().map(String::as_str).chain(["more"]));
    let refusal = s3.delete_objects().bucket("bucket").delete(one_more).send().await;
    assert_eq!(refused(refusal), no(400, "MalformedXML"));
    let nowhere = s3.delete_objects().bucket("nowhere").delete(these(["k"])).send().await;
    assert_eq!(refused(nowhere), no(404, "NoSuchBucket"));
}

#[tokio::test]
async fn a_quiet_delete_names_only_what_failed() {
    let (_node, s3) = bucket().await;
    put(&s3, "kept", "v").await;
    put(&s3, "k", "v").await;
    let other = ObjectIdentifier::builder().key("kept").e_tag(etag(b"other")).build().expect("a key");
    let version = ObjectIdentifier::builder().key("kept").version_id("v1").build().expect("a key");
    let delete = Delete::builder().objects(named("k")).objects(other).objects(version).quiet(true);
    let delete = delete.build().expect("keys");
    let answer = s3.delete_objects().bucket("bucket").delete(delete).send().await.expect("an answer");
    assert!(answer.deleted().is_empty());
    let codes: Vec<_> = answer.errors().iter().filter_map(|e| Some((e.key()?, e.code()?))).collect();
    assert_eq!(codes, [("kept", "PreconditionFailed"), ("kept", "NoSuchVersion")]);
    assert!(is_there(&s3, "kept").await && !is_there(&s3, "k").await);
}

/// Found by reading: such a key made an op that fits no record, and the whole request failed with 500.
#[tokio::test]
async fn a_key_that_no_object_can_have_is_a_line_in_the_answer() {
    let (_node, s3) = bucket().await;
    put(&s3, "k", "v").await;
    let long = "k".repeat(1025);
    let longer = "l".repeat(100_000);
    let delete = these([long.as_str(), "k", longer.as_str()]);
    let answer = s3.delete_objects().bucket("bucket").delete(delete).send().await.expect("an answer");
    assert_eq!(answer.deleted().iter().filter_map(|d| d.key()).collect::<Vec<_>>(), ["k"]);
    let codes: Vec<_> = answer.errors().iter().filter_map(|e| e.code()).collect();
    assert_eq!(codes, ["KeyTooLongError"; 2]);
    assert!(!is_there(&s3, "k").await);
    let empty = s3.delete_objects().bucket("bucket").delete(these([""])).send().await;
    assert_eq!(refused(empty), no(400, "MalformedXML"));
}
