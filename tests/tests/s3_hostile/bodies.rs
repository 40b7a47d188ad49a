//! Bodies that are not what their heads say: nothing of them is stored, and what was logged of them is given up.

use bytes::Bytes;
use lockstep_tests::node::{Node, resident_bytes};
use lockstep_tests::raw::{Answer, Ask, Signed, hex, talk};

use super::{no, node, refused, unharmed};

const SIGNED: &str = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD";
const SIGNED_TRAILER: &str = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER";
const UNSIGNED_TRAILER: &str = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";
const CRC: &str = "x-amz-checksum-crc32";

fn put(node: &Node) -> Ask {
    Ask::new(node, "PUT", "/bucket/k")
}

/// Sends a body that ends where the connection does.
async fn cut(signed: Signed, node: &Node) -> Answer {
    let got = talk(node.s3, &[signed.head().as_bytes(), &signed.body].concat(), true).await.expect("closed");
    Answer::parse(&got).unwrap_or_default()
}

#[tokio::test]
async fn a_body_that_is_cut_or_of_another_digest_is_refused() {
    let node = node().await;
    for len in [10_usize, 100_000, 3 << 20] {
        let body = vec![7; len];
        let wrong = put(&node).body(body.clone()).payload(&hex(b"another")).send().await;
        assert_eq!(refused(&wrong), no(400, "XAmzContentSHA256Mismatch"), "{len}");
        for payload in ["UNSIGNED-PAYLOAD".to_owned(), hex(&body)] {
            let more = (len + 1).to_string();
            let short = put(&node).body(body.clone()).payload(&payload).header("Content-Length", &more).signed();
            let answer = cut(short, &node).await;
            // A client that has hung up may or may not still be told.
            assert!(answer.status == 0 || refused(&answer) == no(400, "IncompleteBody"), "{answer:?}");
        }
        let fewer = (len - 1).to_string();
        let long = put(&node).body(body.clone()).header("Content-Length", &fewer).send().await;
        assert_eq!(refused(&long), no(400, "XAmzContentSHA256Mismatch"), "the rest is another request's");
    }
    for payload in ["", "unsigned-payload", "abc", "STREAMING-AWS4-HMAC-SHA256", &"g".repeat(64)] {
        let answer = put(&node).body("v").payload(payload).send().await;
        assert_eq!(refused(&answer), no(400, "InvalidArgument"), "{payload}");
    }
    let asymmetric = put(&node).body("v").payload("STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD").send().await;
    assert_eq!(refused(&asymmetric), no(501, "NotImplemented"));
    unharmed(&node).await;
}

/// A request whose body is signed chunk by chunk, with what `change` makes of it.
async fn chunked(node: &Node, decoded_len: &str, chunks: &[Bytes], change: impl FnOnce(&Ask, &mut Vec<u8>)) -> Answer {
    let mut ask = put(node).payload(SIGNED).header("Content-Encoding", "aws-chunked");
    if !decoded_len.is_empty() {
        ask = ask.header("x-amz-decoded-content-length", decoded_len);
    }
    let signature = ask.signed().signature;
    let mut body = ask.chunks(&signature, chunks).bytes;
    body.extend_from_slice(b"\r\n");
    change(&ask, &mut body);
    let len = body.len().to_string();
    let mut signed = ask.header("Content-Length", &len).signed();
    // Only the head before the body's length was known is signed: Content-Length is no part of a signature.
    signed.body = body;
    signed.send().await
}

#[tokio::test]
async fn chunks_that_are_changed_swapped_or_of_other_lengths_are_refused() {
    let node = node().await;
    let chunks = [Bytes::from(vec![1; 65_536]), Bytes::from(vec![2; 65_536]), Bytes::from(vec![3; 100])];
    let len = (2 * 65_536 + 100).to_string();
    let send = async |len: &str, change: &dyn Fn(&mut Vec<u8>)| {
        refused(&chunked(&node, len, &chunks, |_, body| change(body)).await)
    };
    let wrong = no(403, "SignatureDoesNotMatch");
    let incomplete = no(400, "IncompleteBody");
    assert_eq!(send(&len, &|body| body[70_000] ^= 1).await, wrong);
    assert_eq!(send(&len, &|body| body[30] ^= 1).await, wrong);
    assert_eq!(send(&len, &|body| body[0] = b'2').await, wrong, "another size");
    let chunk = 5 + 1 + 16 + 64 + 2 + 65_536 + 2;
    assert_eq!(send(&len, &|body| body[..2 * chunk].rotate_left(chunk)).await, wrong, "two chunks swapped");
    assert_eq!(send(&len, &|body| drop(body.drain(..chunk))).await, wrong, "a chunk left out");
    assert_eq!(send(&len, &|body| body.truncate(2 * chunk)).await, incomplete, "no last chunk");
    assert_eq!(send(&len, &|body| body.truncate(chunk + 500)).await, incomplete, "within a chunk");
    assert_eq!(send(&len, &|body| body.extend_from_slice(b"more")).await, no(400, "InvalidRequest"));
    for other in ["131171", "131173", "0", "1"] {
        assert_eq!(send(other, &|_| {}).await, incomplete, "declared {other}");
    }
    for bad in ["-1", "+131172", "1e5", "18446744073709551616", "x"] {
        assert_eq!(send(bad, &|_| {}).await, no(400, "InvalidArgument"), "declared {bad}");
    }
    assert_eq!(send("18446744073709551615", &|_| {}).await, no(400, "EntityTooLarge"));
    let small = [Bytes::from(vec![1; 100]), Bytes::from(vec![2; 100])];
    assert_eq!(refused(&chunked(&node, "200", &small, |_, _| {}).await), no(403, "InvalidChunkSizeError"));
    let huge = chunked(&node, &len, &chunks, |_, body| {
        body.splice(..5, *b"ffffffffffffffff");
    });
    assert_eq!(huge.await.status, 400);
    unharmed(&node).await;

    let good = chunked(&node, &len, &chunks, |_, _| {}).await;
    assert_eq!(good.status, 200, "{}", good.text());
    assert!(Ask::new(&node, "GET", "/bucket/k").send().await.body == chunks.concat());
    let undeclared = chunked(&node, "", &chunks, |_, _| {}).await;
    assert_eq!(undeclared.status, 200, "some clients do not know the length before: {}", undeclared.text());
}

#[tokio::test]
async fn trailers_that_are_missing_wrong_or_unannounced_are_refused() {
    let node = node().await;
    let body = Bytes::from_static(b"123456789");
    let send = async |announced: &str, payload: &str, trailer: &dyn Fn(&Ask, &str) -> Vec<u8>| {
        let mut ask = put(&node).payload(payload).header("x-amz-decoded-content-length", "9");
        if !announced.is_empty() {
            ask = ask.header("x-amz-trailer", announced);
        }
        let seed = ask.signed().signature;
        let (mut bytes, signature) = match payload {
            SIGNED_TRAILER => {
                let chunks = ask.chunks(&seed, std::slice::from_ref(&body));
                (chunks.bytes, chunks.signature)
            }
            _ => (b"9\r\n123456789\r\n0\r\n".to_vec(), String::new()),
        };
        bytes.extend_from_slice(&trailer(&ask, &signature));
        let len = bytes.len().to_string();
        let mut signed = ask.header("Content-Length", &len).signed();
        signed.body = bytes;
        let answer = signed.send().await;
        if answer.status == 200 { (200, String::new()) } else { refused(&answer) }
    };
    let malformed = no(400, "MalformedTrailerError");
    let plain = |text: &'static str| move |_: &Ask, _: &str| text.as_bytes().to_vec();
    assert_eq!(
        send(CRC, UNSIGNED_TRAILER, &plain("x-amz-checksum-crc32:AAAAAA==\r\n\r\n")).await,
        no(400, "BadDigest")
    );
    assert_eq!(send(CRC, UNSIGNED_TRAILER, &plain("x-amz-checksum-crc32:no\r\n\r\n")).await, no(400, "InvalidRequest"));
    assert_eq!(send(CRC, UNSIGNED_TRAILER, &plain("\r\n")).await, malformed);
    assert_eq!(
        send(CRC, UNSIGNED_TRAILER, &plain("x-amz-checksum-sha1:98O8HYCOBHMq32eZZczDTKeuNEE=\r\n\r\n")).await,
        malformed
    );
    assert_eq!(send("", UNSIGNED_TRAILER, &plain("x-amz-checksum-crc32:y/Q5Jg==\r\n\r\n")).await, malformed);
    assert_eq!(send(CRC, UNSIGNED_TRAILER, &plain("garbage\r\n\r\n")).await, malformed);
    assert_eq!(send("x-amz-checksum-crc33", UNSIGNED_TRAILER, &plain("\r\n")).await, no(501, "NotImplemented"));
    assert_eq!(send("a b", UNSIGNED_TRAILER, &plain("\r\n")).await, malformed);
    let right = |ask: &Ask, before: &str| ask.trailer(before, &[(CRC, "y/Q5Jg==")]);
    let forged = |ask: &Ask, _: &str| ask.trailer(&hex(b"another"), &[(CRC, "y/Q5Jg==")]);
    let other = |ask: &Ask, before: &str| {
        let text = String::from_utf8(ask.trailer(before, &[(CRC, "y/Q5Jg==")])).expect("text");
        text.replace("y/Q5Jg==", "AAAAAA==").into_bytes()
    };
    assert_eq!(send(CRC, SIGNED_TRAILER, &forged).await, no(403, "SignatureDoesNotMatch"));
    assert_eq!(send(CRC, SIGNED_TRAILER, &other).await, no(403, "SignatureDoesNotMatch"));
    assert_eq!(send(CRC, SIGNED_TRAILER, &plain("x-amz-checksum-crc32:y/Q5Jg==\r\n\r\n")).await, malformed);
    unharmed(&node).await;
    assert_eq!(send(CRC, UNSIGNED_TRAILER, &plain("x-amz-checksum-crc32:y/Q5Jg==\r\n\r\n")).await.0, 200);
    assert_eq!(send("", UNSIGNED_TRAILER, &plain("\r\n")).await.0, 200, "none announced, none sent");
    assert_eq!(send(CRC, SIGNED_TRAILER, &right).await.0, 200);
}

#[tokio::test]
async fn a_length_beyond_all_bounds_is_refused_before_a_byte_is_read() {
    let node = node().await;
    for len in ["5368709121", "1099511627776", "9223372036854775807"] {
        let ask = put(&node).payload("UNSIGNED-PAYLOAD").header("Content-Length", len).header("Expect", "100-continue");
        let answer = ask.send().await;
        assert_eq!(refused(&answer), no(400, "EntityTooLarge"), "{len}");
    }
    unharmed(&node).await;
}

#[tokio::test]
async fn many_cut_bodies_leave_neither_memory_nor_objects() {
    let node = node().await;
    let one = async || {
        let short = put(&node).body(vec![1; 3 << 20]).header("Content-Length", "4000000").signed();
        drop(cut(short, &node).await);
    };
    one().await;
    let before = resident_bytes();
    for _ in 0..4 {
        futures_util::future::join_all((0..8).map(|_| one())).await;
    }
    let grown = resident_bytes().saturating_sub(before) >> 20;
    assert!(grown < 300, "{grown} MiB after 96 MiB of bodies");
    unharmed(&node).await;
}
