//! What every engine must do: named things, records that do not fit the image, lists.

use lockstep_storage::id::Seq;
use lockstep_storage::image::{Family, ListQuery};
use lockstep_storage::op::{
    AbortMultipartUpload, AccessKey, DeleteAccessKey, DeleteBucket, DeleteUser, Mutation, PutAccessKey, PutUser, User,
};

use super::bed::{
    Bed, body_of, complete_upload, create_bucket, create_upload, delete_object, put_object, upload_id, upload_part,
};

fn put_key(id: &str, user: &str) -> Mutation {
    let key = AccessKey { secret: "s".into(), user: user.into(), created_ms: 0, root: false };
    Mutation::PutAccessKey(PutAccessKey { access_key: id.into(), key })
}

fn put_user(name: &str) -> Mutation {
    Mutation::PutUser(PutUser { name: name.into(), user: User { id: format!("id of {name}"), ..User::default() } })
}

pub(crate) fn users_and_their_keys(mut bed: Bed) {
    bed.write(put_user("alice"), b"");
    bed.write(put_user("bob"), b"");
    for (id, user) in [("AKA", "alice"), ("AKB", "bob"), ("AKC", "alice")] {
        bed.write(put_key(id, user), b"");
    }
    let view = bed.image.view();
    assert_eq!(view.access_key("AKC").expect("reads").expect("is there").created_ms, bed.history.time_ms);
    assert_eq!(view.user("alice").expect("reads").expect("is there").id, "id of alice");
    assert_eq!(view.access_key("AK").expect("reads"), None);
    bed.write(Mutation::DeleteUser(DeleteUser { name: "alice".into() }), b"");
    let view = bed.image.view();
    let names = |found: Vec<(String, AccessKey)>| found.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(view.access_keys().expect("reads")), ["AKB"]);
    assert_eq!(view.users().expect("reads").len(), 1);
    bed.write(Mutation::DeleteAccessKey(DeleteAccessKey { access_key: "AKB".into() }), b"");
    assert_eq!(names(bed.image.view().access_keys().expect("reads")), Vec::<String>::new());
}

pub(crate) fn buckets_are_listed_by_name(mut bed: Bed) {
    for name in ["bb", "aa", "b", "cc"] {
        bed.write(create_bucket(name), b"");
    }
    bed.write(put_object("b", "k", &[]), b"");
    let names = |after, limit| {
        let found = bed.image.view().buckets(after, limit).expect("reads");
        found.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
    };
    assert_eq!(names("", 10), ["aa", "b", "bb", "cc"]);
    assert_eq!(names("b", 10), ["bb", "cc"]);
    assert_eq!(names("", 2), ["aa", "b"]);
    assert!(!bed.image.view().bucket_is_empty("b").expect("reads"));
    assert!(bed.image.view().bucket_is_empty("bb").expect("reads"));
}

/// Every record here has no effect but to give up the body that it names.
pub(crate) fn records_that_do_not_fit_change_nothing(mut bed: Bed) {
    let (there, missing) = (upload_id(1), upload_id(2));
    bed.write(create_bucket("bk"), b"");
    bed.write(put_object("bk", "k", &[]), b"x");
    bed.write(create_upload("bk", "k", &there), b"");
    let before = bed.image.view().digest().expect("reads");
    let abort = |bucket: &str, upload_id: &str| {
        let (bucket, key, upload_id) = (bucket.into(), "k".into(), upload_id.into());
        Mutation::AbortMultipartUpload(AbortMultipartUpload { bucket, key, upload_id })
    };
    let misfits = |extents: &[_]| {
        vec![
            put_object("no", "k", extents),
            put_object("bk\0k", "", extents),
            put_object("", "bk\0k", extents),
            delete_object("bk", "no"),
            delete_object("bk\0k", ""),
            delete_object("no", "k"),
            create_bucket("bk"),
            create_bucket(""),
            create_bucket("b\0k"),
            Mutation::DeleteBucket(DeleteBucket { bucket: "no".into() }),
            Mutation::DeleteBucket(DeleteBucket { bucket: "bk".into() }),
            create_upload("no", "k", &missing),
            create_upload("bk", "k", "no upload id"),
            create_upload("bk", "k", &"é".repeat(16)),
            upload_part("bk", "k", &missing, 1, extents),
            upload_part("bk", "j", &there, 1, extents),
            upload_part("no", "k", &there, 1, extents),
            complete_upload("bk", "k", &missing, extents),
            complete_upload("no", "k", &there, extents),
            abort("bk", &missing),
            abort("no", &there),
            Mutation::DeleteUser(DeleteUser { name: "no".into() }),
            Mutation::DeleteAccessKey(DeleteAccessKey { access_key: "no".into() }),
        ]
    };
    for (n, misfit) in misfits(&[]).into_iter().enumerate() {
        bed.write(misfit.clone(), b"");
        let after = bed.image.view().digest().expect("reads");
        assert_eq!((after.entries, after.checksum), (before.entries, before.checksum), "{n}: {misfit:?}");
    }
    let count = misfits(&[]).len();
    for n in 0..count {
        let extent = bed.write_body(&[b"body"]);
        bed.write(misfits(&[extent]).swap_remove(n), b"");
        let begin = bed.history.begin_epoch();
        let through = bed.take(&[begin]);
        while bed.image.collect(through, 10).expect("collects") > 0 {}
        assert!(bed.image.view().chunk(body_of(extent), 0).is_err(), "{n}: its body is collected");
    }
    let after = bed.image.view().digest().expect("reads");
    assert_eq!((after.entries, after.checksum), (before.entries, before.checksum));
    // But for the marks and the epoch nothing else is left either.
    assert_eq!(bed.dump(Family::Body, b""), []);
    assert_eq!(bed.dump(Family::Image, &[0x17]), []);
}

fn query(prefix: &str, delimiter: &str, after: &str, limit: usize) -> ListQuery {
    let text = str::to_owned;
    ListQuery { bucket: "bk".into(), prefix: text(prefix), delimiter: text(delimiter), after: text(after), limit }
}

pub(crate) fn objects_are_rolled_up_at_a_delimiter(mut bed: Bed) {
    for bucket in ["bj", "bk", "bl"] {
        bed.write(create_bucket(bucket), b"");
        for key in ["a", "a!b", "a/1", "a/2", "a/b/3", "a0", "b/", "é/x", "é/y/z"] {
            bed.write(put_object(bucket, key, &[]), b"inline");
        }
    }
    let list = |prefix, delimiter, after, limit| {
        let page = bed.image.view().list_objects(&query(prefix, delimiter, after, limit)).expect("reads");
        assert!(page.items.iter().all(|(_, object)| object.seq > 0 && object.inline.is_empty()));
        (page.items.into_iter().map(|(key, _)| key).collect::<Vec<_>>(), page.prefixes, page.next_after)
    };
    let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    assert_eq!(list("", "/", "", 99), (texts(&["a", "a!b", "a0"]), texts(&["a/", "b/", "é/"]), None));
    assert_eq!(list("", "/", "", 3), (texts(&["a", "a!b"]), texts(&["a/"]), Some("a/".into())));
    assert_eq!(list("", "/", "a/", 99), (texts(&["a0"]), texts(&["b/", "é/"]), None));
    assert_eq!(list("", "/", "a/1", 99), (texts(&["a0"]), texts(&["b/", "é/"]), None));
    assert_eq!(list("a/", "/", "", 99), (texts(&["a/1", "a/2"]), texts(&["a/b/"]), None));
    assert_eq!(list("a/", "/", "a/1", 1), (texts(&["a/2"]), vec![], Some("a/2".into())));
    assert_eq!(list("a", "", "a!", 99), (texts(&["a!b", "a/1", "a/2", "a/b/3", "a0"]), vec![], None));
    assert_eq!(list("é/", "/", "", 99), (texts(&["é/x"]), texts(&["é/y/"]), None));
    assert_eq!(list("", "é/", "", 99).1, texts(&["é/"]));
    assert_eq!(list("b", "/", "zz", 99), (vec![], vec![], None));
    assert_eq!(list("", "/", "", 0), (vec![], vec![], None));
}

pub(crate) fn uploads_are_listed_by_key_and_id(mut bed: Bed) {
    bed.write(create_bucket("bk"), b"");
    for (key, number) in [("a", 2), ("a", 1), ("a/1", 3), ("a/2", 4), ("b", 5), ("a\0", 6)] {
        bed.write(create_upload("bk", key, &upload_id(number)), b"");
    }
    let list = |prefix, delimiter, after, after_upload: &str, limit| {
        let query = query(prefix, delimiter, after, limit);
        let page = bed.image.view().list_uploads(&query, after_upload).expect("reads");
        let number = |id: &str| id.trim_start_matches('0').to_owned();
        let items: Vec<_> = page.items.iter().map(|(key, id, _)| format!("{key}:{}", number(id))).collect();
        (items, page.prefixes, page.next.map(|(key, id)| format!("{key}:{}", number(&id))))
    };
    let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    let all = texts(&["a:1", "a:2", "a\0:6", "a/1:3", "a/2:4", "b:5"]);
    assert_eq!(list("", "", "", "", 99), (all.clone(), vec![], None));
    assert_eq!(list("", "", "", "", 1), (texts(&["a:1"]), vec![], Some("a:1".into())));
    assert_eq!(list("", "", "a", &upload_id(1), 99), (all[1..].to_vec(), vec![], None));
    assert_eq!(list("", "", "a", "", 99), (all[2..].to_vec(), vec![], None));
    let (rolled, prefixes) = (texts(&["a:1", "a:2", "a\0:6", "b:5"]), texts(&["a/"]));
    assert_eq!(list("", "/", "", "", 99), (rolled, prefixes.clone(), None));
    assert_eq!(list("", "/", "a\0", "", 1), (vec![], prefixes, Some("a/:".into())));
    assert_eq!(list("", "/", "a/", "", 9), (texts(&["b:5"]), vec![], None));
    assert_eq!(list("a/", "/", "", "", 9), (texts(&["a/1:3", "a/2:4"]), vec![], None));
    assert_eq!(bed.image.progress().expect("reads").applied.seq, Seq(7));
}
