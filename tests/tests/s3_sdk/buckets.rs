//! Buckets: their life, their names, their owners and regions.

use std::time::{Duration, SystemTime};

use aws_sdk_s3::types::{BucketLocationConstraint, CreateBucketConfiguration};
use lockstep_tests::node::{Node, Options, SECRET_KEY};

use super::bed::{bucket, client_of, no, node, put, refused, status_of};

#[tokio::test]
async fn a_bucket_lives_from_create_to_delete() {
    let (_node, s3) = node().await;
    let names = async |client: &aws_sdk_s3::Client| {
        let listed = client.list_buckets().send().await.expect("a list");
        listed.buckets().iter().map(|b| b.name().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    assert!(names(&s3).await.is_empty());
    let created = s3.create_bucket().bucket("first").send().await.expect("a bucket");
    assert_eq!(created.location(), Some("/first"));
    s3.head_bucket().bucket("first").send().await.expect("it is there");
    s3.create_bucket().bucket("first").send().await.expect("its owner may make it again in us-east-1");
    let located = s3.get_bucket_location().bucket("first").send().await.expect("a location");
    assert!(located.location_constraint().is_none_or(|constraint| constraint.as_str().is_empty()));
    assert_eq!(names(&s3).await, ["first"]);
    let listed = s3.list_buckets().send().await.expect("a list");
    let created = SystemTime::try_from(*listed.buckets()[0].creation_date().expect("a date")).expect("after 1970");
    assert!(created.elapsed().expect("in the past") < Duration::from_mins(5));
    assert_eq!(listed.owner().and_then(|owner| owner.id()), Some("root"));

    s3.delete_bucket().bucket("first").send().await.expect("deleted");
    assert!(names(&s3).await.is_empty());
    assert_eq!(status_of(&s3.head_bucket().bucket("first").send().await), 404);
    let missing = no(404, "NoSuchBucket");
    assert_eq!(refused(s3.delete_bucket().bucket("first").send().await), missing);
    assert_eq!(refused(s3.get_bucket_location().bucket("first").send().await), missing);
    assert_eq!(refused(s3.list_objects().bucket("first").send().await), missing);
    assert_eq!(refused(s3.list_objects_v2().bucket("first").send().await), missing);
    assert_eq!(refused(s3.list_multipart_uploads().bucket("first").send().await), missing);
    assert_eq!(refused(s3.put_object().bucket("first").key("k").send().await), missing);
    assert_eq!(refused(s3.get_object().bucket("first").key("k").send().await), missing);
    assert_eq!(refused(s3.delete_object().bucket("first").key("k").send().await), missing);
    assert_eq!(refused(s3.create_multipart_upload().bucket("first").key("k").send().await), missing);
}

#[tokio::test]
async fn a_bucket_with_objects_stays_and_one_with_uploads_goes() {
    let (_node, s3) = bucket().await;
    put(&s3, "k", "v").await;
    assert_eq!(refused(s3.delete_bucket().bucket("bucket").send().await), no(409, "BucketNotEmpty"));
    s3.delete_object().bucket("bucket").key("k").send().await.expect("deleted");
    let upload = s3.create_multipart_upload().bucket("bucket").key("k").send().await.expect("an upload");
    s3.delete_bucket().bucket("bucket").send().await.expect("uploads do not keep a bucket");
    s3.create_bucket().bucket("bucket").send().await.expect("again");
    let id = upload.upload_id().expect("an id");
    let parts = s3.list_parts().bucket("bucket").key("k").upload_id(id).send().await;
    assert_eq!(refused(parts), no(404, "NoSuchUpload"), "an upload ends with its bucket");
}

#[tokio::test]
async fn buckets_are_listed_in_pages_and_by_prefix() {
    let (_node, s3) = node().await;
    for name in ["b-1", "b-2", "b-3", "c-1", "c-2"] {
        s3.create_bucket().bucket(name).send().await.expect("a bucket");
    }
    let mut pages = s3.list_buckets().max_buckets(2).into_paginator().send();
    let mut names = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.expect("a page");
        assert!(page.buckets().len() <= 2);
        assert!(page.buckets().iter().all(|b| b.bucket_region() == Some("us-east-1")));
        names.extend(page.buckets().iter().map(|b| b.name().expect("a name").to_owned()));
    }
    assert_eq!(names, ["b-1", "b-2", "b-3", "c-1", "c-2"]);
    let some = s3.list_buckets().prefix("c-").send().await.expect("a list");
    assert_eq!(some.buckets().iter().filter_map(|b| b.name()).collect::<Vec<_>>(), ["c-1", "c-2"]);
    assert_eq!(refused(s3.list_buckets().continuation_token("!").send().await), no(400, "InvalidArgument"));
}

#[tokio::test]
async fn a_region_is_kept_and_another_one_refused() {
    let options = Options { s3: "region = \"eu-west-1\"".into(), ..Options::default() };
    let node = Node::start(options).await;
    let s3 = client_of(&node, &node.access_key(), "eu-west-1");
    let in_region = |name: &str, region: &str| {
        let constraint = BucketLocationConstraint::from(region);
        let configuration = CreateBucketConfiguration::builder().location_constraint(constraint).build();
        s3.create_bucket().bucket(name).create_bucket_configuration(configuration).send()
    };
    in_region("here", "eu-west-1").await.expect("its own region");
    let located = s3.get_bucket_location().bucket("here").send().await.expect("a location");
    assert_eq!(located.location_constraint(), Some(&BucketLocationConstraint::EuWest1));
    assert_eq!(refused(in_region("there", "us-west-2").await), no(400, "IllegalLocationConstraintException"));
    assert_eq!(refused(in_region("here", "eu-west-1").await), no(409, "BucketAlreadyOwnedByYou"));
    let elsewhere = client_of(&node, &node.access_key(), "us-east-1");
    assert_eq!(refused(elsewhere.list_buckets().send().await), no(400, "AuthorizationHeaderMalformed"));
}

#[tokio::test]
async fn a_bucket_is_its_owners_and_roots() {
    let user =
        |name: &str| format!("[[user]]\nname = \"{name}\"\naccess_key = \"AK{name}\"\nsecret_key = \"{SECRET_KEY}\"\n");
    let tables = format!("{}{}", user("alice"), user("bob"));
    let node = Node::start(Options { s3: tables, ..Options::default() }).await;
    let client = |access_key: &str| client_of(&node, access_key, "us-east-1");
    let (root, alice, bob) = (client(&node.access_key()), client("AKalice"), client("AKbob"));
    alice.create_bucket().bucket("bucket").send().await.expect("a bucket");
    put(&alice, "k", "v").await;
    put(&root, "r", "v").await;
    let denied = no(403, "AccessDenied");
    assert_eq!(refused(bob.get_object().bucket("bucket").key("k").send().await), denied);
    assert_eq!(refused(bob.put_object().bucket("bucket").key("k").send().await), denied);
    assert_eq!(refused(bob.delete_object().bucket("bucket").key("k").send().await), denied);
    assert_eq!(refused(bob.list_objects_v2().bucket("bucket").send().await), denied);
    assert_eq!(refused(bob.delete_bucket().bucket("bucket").send().await), denied);
    assert_eq!(status_of(&bob.head_bucket().bucket("bucket").send().await), 403);
    assert_eq!(refused(bob.create_bucket().bucket("bucket").send().await), no(409, "BucketAlreadyExists"));
    bob.create_bucket().bucket("mine").send().await.expect("a bucket");
    let copy = bob.copy_object().copy_source("bucket/k").bucket("mine").key("k").send().await;
    assert_eq!(refused(copy), denied, "a copy reads its source");
    for (client, count) in [(&root, 2), (&alice, 1), (&bob, 1)] {
        assert_eq!(client.list_buckets().send().await.expect("a list").buckets().len(), count);
    }
}
