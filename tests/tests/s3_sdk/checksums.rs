//! Checksums: sent, verified, stored, given back, and combined from those of parts.

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode, ChecksumType, CompletedMultipartUpload, CompletedPart};
use lockstep_tests::raw::Ask;

use super::bed::{bucket, is_there, no, payload, refused};
use super::multipart::PART_LEN;

/// Of `123456789`, by the catalogues.
const CHECKS: [(&str, &str); 5] = [
    ("CRC32", "y/Q5Jg=="),
    ("CRC32C", "4waSgw=="),
    ("CRC64NVME", "rosUhgp5mIg="),
    ("SHA1", "98O8HYCOBHMq32eZZczDTKeuNEE="),
    ("SHA256", "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU="),
];

#[tokio::test]
async fn each_algorithm_of_the_sdk_is_verified_stored_and_given_back() {
    let (node, s3) = bucket().await;
    for (name, value) in CHECKS {
        let algorithm = ChecksumAlgorithm::from(name);
        let body = ByteStream::from_static(b"123456789");
        let put = s3.put_object().bucket("bucket").key(name).checksum_algorithm(algorithm).body(body).send().await;
        let header = format!("x-amz-checksum-{}", name.to_lowercase());
        put.expect(name);
        let head = Ask::new(&node, "HEAD", &format!("/bucket/{name}")).header("x-amz-checksum-mode", "ENABLED");
        assert_eq!(head.send().await.header(&header), value, "{name}");
        let got = s3.get_object().bucket("bucket").key(name).checksum_mode(ChecksumMode::Enabled).send().await;
        let got = got.expect("a get");
        assert_eq!(got.checksum_type(), Some(&ChecksumType::FullObject));
        assert_eq!(got.body.collect().await.expect("the SDK has verified it").to_vec(), b"123456789");
        let silent = Ask::new(&node, "HEAD", &format!("/bucket/{name}")).send().await;
        assert_eq!(silent.header(&header), "", "only who asks is told");

        let sent = |value: &str| Ask::new(&node, "PUT", "/bucket/raw").body("123456789").header(&header, value);
        assert_eq!(sent(value).send().await.header(&header), value, "{name}");
        s3.delete_object().bucket("bucket").key("raw").send().await.expect("deleted");
        let wrong = format!("A{}", &value[1..]);
        assert_eq!(sent(&wrong).send().await.error(), no(400, "BadDigest"), "{name}");
        for bad in ["", "!", "AAAA"] {
            assert_eq!(sent(bad).send().await.error(), no(400, "InvalidRequest"), "{name} {bad}");
        }
        assert!(!is_there(&s3, "raw").await);
    }
}

#[tokio::test]
async fn content_md5_is_verified() {
    let (node, s3) = bucket().await;
    let put = |md5: &str| Ask::new(&node, "PUT", "/bucket/k").body("123456789").header("Content-MD5", md5);
    assert_eq!(put("AAAAAAAAAAAAAAAAAAAAAA==").send().await.error(), no(400, "BadDigest"));
    assert_eq!(put("AAAA").send().await.error(), no(400, "InvalidDigest"));
    assert!(!is_there(&s3, "k").await);
    assert_eq!(put("JfnnlDI7RTiF9RgfG2JNCw==").send().await.status, 200);
}

#[tokio::test]
async fn checksums_of_parts_make_that_of_the_object() {
    let (_node, s3) = bucket().await;
    let parts = [payload(PART_LEN, 1), payload(1000, 2)];
    for (name, kind) in [
        ("CRC32", ChecksumType::Composite),
        ("CRC32", ChecksumType::FullObject),
        ("CRC32C", ChecksumType::FullObject),
        ("CRC64NVME", ChecksumType::FullObject),
        ("SHA256", ChecksumType::Composite),
    ] {
        let algorithm = ChecksumAlgorithm::from(name);
        let create = s3.create_multipart_upload().bucket("bucket").key("k").checksum_algorithm(algorithm.clone());
        let created = create.checksum_type(kind.clone()).send().await.expect("an upload");
        let id = created.upload_id().expect("an id");
        let mut done = Vec::new();
        for (number, bytes) in (1..).zip(&parts) {
            let part = s3.upload_part().bucket("bucket").key("k").upload_id(id).part_number(number);
            let part = part.checksum_algorithm(algorithm.clone()).body(ByteStream::from(bytes.clone()));
            let part = part.send().await.expect("a part");
            let named = CompletedPart::builder().part_number(number).e_tag(part.e_tag().expect("an ETag"));
            let named = named.set_checksum_crc32(part.checksum_crc32().map(str::to_owned));
            let named = named.set_checksum_sha256(part.checksum_sha256().map(str::to_owned));
            done.push(named.build());
        }
        let list = CompletedMultipartUpload::builder().set_parts(Some(done)).build();
        let complete = s3.complete_multipart_upload().bucket("bucket").key("k").upload_id(id).multipart_upload(list);
        assert_eq!(complete.send().await.expect("completed").checksum_type(), Some(&kind), "{name}");
        // The SDK verifies what is of the full object by itself; the whole is compared here.
        let got =
            s3.get_object().bucket("bucket").key("k").checksum_mode(ChecksumMode::Enabled).send().await.expect("a get");
        assert_eq!(got.checksum_type(), Some(&kind));
        assert!(got.body.collect().await.expect("all bytes").to_vec() == parts.concat(), "{name}");
    }
    let create = s3.create_multipart_upload().bucket("bucket").key("k").checksum_algorithm(ChecksumAlgorithm::Sha1);
    let refusal = create.checksum_type(ChecksumType::FullObject).send().await;
    assert_eq!(refused(refusal), no(400, "InvalidRequest"));
}
