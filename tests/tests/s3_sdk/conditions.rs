//! Conditions of reads and writes.

use std::time::{Duration, SystemTime};

use aws_sdk_s3::primitives::{ByteStream, DateTime};

use super::bed::{bucket, etag, get, no, put, refused, status_of};

fn at(time: SystemTime) -> DateTime {
    DateTime::from(time)
}

#[tokio::test]
async fn a_read_is_answered_as_its_conditions_say() {
    let (_node, s3) = bucket().await;
    let (tag, other) = (put(&s3, "k", "v").await, etag(b"other"));
    let get = || s3.get_object().bucket("bucket").key("k");
    let head = || s3.head_object().bucket("bucket").key("k");
    let (past, future) =
        (at(SystemTime::now() - Duration::from_hours(1)), at(SystemTime::now() + Duration::from_hours(1)));
    get().if_match(&tag).send().await.expect("it matches");
    get().if_match("*").send().await.expect("it is there");
    get().if_none_match(&other).send().await.expect("it is another one");
    get().if_modified_since(past).send().await.expect("modified since");
    get().if_unmodified_since(future).send().await.expect("not modified since");
    get().if_match(&tag).if_unmodified_since(past).send().await.expect("an ETag outranks a date");
    let failed = no(412, "PreconditionFailed");
    assert_eq!(refused(get().if_match(&other).send().await), failed);
    assert_eq!(refused(get().if_unmodified_since(past).send().await), failed);
    assert_eq!(status_of(&get().if_none_match(&tag).send().await), 304);
    assert_eq!(status_of(&get().if_modified_since(future).send().await), 304);
    assert_eq!(status_of(&head().if_match(&other).send().await), 412);
    assert_eq!(status_of(&head().if_none_match(&tag).send().await), 304);
    let ranged = get().range("bytes=0-0").if_match(&tag).send().await.expect("what transfer managers send");
    assert_eq!(ranged.content_range(), Some("bytes 0-0/1"));
}

#[tokio::test]
async fn a_write_is_done_only_where_its_condition_holds() {
    let (_node, s3) = bucket().await;
    let put = |body: &'static [u8]| s3.put_object().bucket("bucket").key("k").body(ByteStream::from_static(body));
    let failed = no(412, "PreconditionFailed");
    assert_eq!(refused(put(b"1").if_match(etag(b"0")).send().await), no(404, "NoSuchKey"));
    put(b"1").if_none_match("*").send().await.expect("nothing is there");
    assert_eq!(refused(put(b"2").if_none_match("*").send().await), failed);
    assert_eq!(refused(put(b"2").if_match(etag(b"0")).send().await), failed);
    assert_eq!(refused(put(b"2").if_none_match(etag(b"1")).send().await), failed);
    assert_eq!(get(&s3, "k").await, b"1");
    put(b"2").if_match(etag(b"1")).send().await.expect("it is that one");
    put(b"3").if_none_match(etag(b"1")).send().await.expect("it is another one");
    assert_eq!(get(&s3, "k").await, b"3");
}

#[tokio::test]
async fn of_many_creators_one_wins_and_of_many_updaters_one_each_round() {
    let (_node, s3) = bucket().await;
    let race = async |round: usize, condition: Option<String>| {
        let one = async |number: usize| {
            // Some in the op's own record, some in records of their own.
            let body = vec![number as u8; if number.is_multiple_of(2) { 10 } else { 50_000 }];
            let put = s3.put_object().bucket("bucket").key("k").body(body.into());
            let put = match &condition {
                None => put.if_none_match("*"),
                Some(tag) => put.if_match(tag),
            };
            match put.send().await {
                Ok(put) => put.e_tag().map(str::to_owned),
                refusal => {
                    assert_eq!(status_of(&refusal), 412);
                    None
                }
            }
        };
        let results = futures_util::future::join_all((0..16).map(|number| one(round * 16 + number))).await;
        let winners: Vec<String> = results.into_iter().flatten().collect();
        assert_eq!(winners.len(), 1, "round {round}");
        winners[0].clone()
    };
    let mut tag = race(0, None).await;
    for round in 1..5 {
        tag = race(round, Some(tag)).await;
        assert_eq!(etag(&get(&s3, "k").await), tag);
    }
}
