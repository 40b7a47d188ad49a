//! The aws-chunked decoder, as the network feeds it: every split of its bytes gives the same result, and of a signed body
//! not one byte that counts can be changed.

use bytes::Bytes;
use http::HeaderName;
use lockstep_gateway::s3::auth::Signer;
use lockstep_gateway::s3::payload::Decoder;
use lockstep_gateway::s3::{Code, S3Error};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

const SEED: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const CRC: &str = "x-amz-checksum-crc32";
const LINE: &str = "x-amz-checksum-crc32:y/Q5Jg==";

fn signer() -> Signer {
    Signer {
        key: [7; 32],
        timestamp: "20261125T120000Z".into(),
        scope: "20261125/us-east-1/s3/aws4_request".into(),
        signature: SEED.into(),
    }
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

/// As AWS documents it, from the string to sign on.
fn sign(algorithm: &str, before: &str, rest: &str) -> String {
    let signer = signer();
    let text = format!("{algorithm}\n{}\n{}\n{before}\n{rest}", signer.timestamp, signer.scope);
    aws_sigv4::sign::v4::calculate_signature(signer.key, text.as_bytes())
}

/// A signed body of these chunks, with a trailing header where `trailing`.
fn signed(chunks: &[&[u8]], trailing: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let mut before = SEED.to_owned();
    for chunk in chunks.iter().chain([&&b""[..]]) {
        before = sign("AWS4-HMAC-SHA256-PAYLOAD", &before, &format!("{}\n{}", hex(b""), hex(chunk)));
        out.extend_from_slice(format!("{:x};chunk-signature={before}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        if !chunk.is_empty() {
            out.extend_from_slice(b"\r\n");
        }
    }
    if trailing {
        let signature = sign("AWS4-HMAC-SHA256-TRAILER", &before, &hex(format!("{LINE}\n").as_bytes()));
        out.extend_from_slice(format!("{LINE}\r\nx-amz-trailer-signature:{signature}\r\n").as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    out
}

fn unsigned(chunks: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in chunks {
        out.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(format!("0\r\n{LINE}\r\n\r\n").as_bytes());
    out
}

fn decoder(is_signed: bool, trailing: bool) -> Decoder {
    let names = trailing.then(|| vec![HeaderName::from_static(CRC)]);
    Decoder::new(is_signed.then(signer), names)
}

/// Feeds the pieces of a body; gives the data and the trailing checksum.
fn decode<'a>(mut decoder: Decoder, pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<(Vec<u8>, String), S3Error> {
    let mut data = Vec::new();
    for piece in pieces {
        let mut input = Bytes::copy_from_slice(piece);
        while let Some(piece) = decoder.decode(&mut input)? {
            assert!(!piece.is_empty());
            data.extend_from_slice(&piece);
        }
        assert!(input.is_empty(), "what it does not return it has taken");
    }
    let trailers = decoder.finish()?;
    Ok((data, trailers.get(CRC).map_or("", |value| value.to_str().unwrap_or("?")).to_owned()))
}

fn code_of(decoder: Decoder, body: &[u8]) -> Option<Code> {
    decode(decoder, [body]).err().map(|error| error.code)
}

#[test]
fn every_split_in_two_and_single_bytes_give_the_same() {
    let large = vec![5; 8192];
    let wanted = |trailing: bool| if trailing { "y/Q5Jg==" } else { "" };
    let data = [&large[..], b"123456789"].concat();
    for (body, is_signed, trailing) in [
        (signed(&[&large, b"123456789"], true), true, true),
        (signed(&[&large, b"123456789"], false), true, false),
        (unsigned(&[&large, b"123", b"4", b"56789"]), false, true),
    ] {
        // Inside the large chunk one split is like the next.
        let cuts = (0..=body.len()).filter(|at| *at < 200 || body.len() - at < 500 || at % 977 == 0);
        for at in cuts {
            let (first, second) = body.split_at(at);
            let (got, trailer) = decode(decoder(is_signed, trailing), [first, second]).expect("a good body");
            assert!(got == data && trailer == wanted(trailing), "cut at {at}");
        }
        let (got, trailer) = decode(decoder(is_signed, trailing), body.chunks(1)).expect("a good body");
        assert!(got == data && trailer == wanted(trailing));
    }
    assert_eq!(decode(decoder(true, false), [&signed(&[], false)[..]]).expect("an empty body").0, b"");
}

#[test]
fn no_byte_of_a_signed_body_can_be_changed_and_none_left_out() {
    let large: Vec<u8> = (0..8192_u32).map(|at| at as u8).collect();
    let body = signed(&[&large, b"123456789"], true);
    let data = [&large[..], b"123456789"].concat();
    for at in (0..body.len()).filter(|at| *at < 200 || body.len() - at < 600 || at % 331 == 0) {
        for change in [1, 0x20, 0x80] {
            let mut changed = body.clone();
            changed[at] ^= change;
            if let Ok((got, trailer)) = decode(decoder(true, true), [&changed[..]]) {
                // Upper and lower case of a header's name, or the blank line at the end: nothing that anyone acts on.
                assert!(got == data && trailer == "y/Q5Jg==", "byte {at} ^ {change:#x}");
                let near_the_end = body.len() - at < 200;
                assert!(near_the_end, "byte {at} ^ {change:#x} of a chunk was not noticed");
            }
        }
        // The line ends behind the last signature may be missing.
        if at < body.len() - 4 {
            assert!(decode(decoder(true, true), [&body[..at]]).is_err(), "cut at {at}");
        }
    }
}

#[test]
fn chunks_can_be_neither_swapped_nor_repeated_nor_left_out() {
    let (one, two) = (vec![1; 8192], vec![2; 8192]);
    let body = signed(&[&one, &two], false);
    let len = "2000;chunk-signature=".len() + 64 + 2 + 8192 + 2;
    let (first, second, rest) = (&body[..len], &body[len..2 * len], &body[2 * len..]);
    assert!(decode(decoder(true, false), [first, second, rest]).is_ok());
    for pieces in
        [[second, first, rest], [first, first, rest], [first, rest, b""], [rest, b"", b""], [second, rest, b""]]
    {
        let error = decode(decoder(true, false), pieces).expect_err("not as signed");
        assert_eq!(error.code, Code::SignatureDoesNotMatch);
    }
    let other = Decoder::new(Some(Signer { signature: SEED.replace('0', "1"), ..signer() }), None);
    assert_eq!(code_of(other, &body), Some(Code::SignatureDoesNotMatch), "chunks of another request");
}

#[test]
fn malformed_bodies_are_refused_by_name() {
    let trailing = |body: &str| code_of(decoder(false, true), body.as_bytes());
    for body in ["", "0", "0\r", "5\r\nab", "5\r\nabcde", "5\r\nabcde\r\n", "fffffffffffffff\r\nab"] {
        assert_eq!(trailing(body), Some(Code::IncompleteBody), "{body:?}");
    }
    for body in [
        "\r\n",
        "x\r\n",
        "-1\r\n",
        "+5\r\nabcde\r\n",
        "5\nabcde\r\n",
        "5\r\nabcdef\r\n",
        "5\r\nabcde\n",
        "0x5\r\n",
        "5 5\r\n",
        "fffffffffffffffff\r\n",
        "\u{e9}\r\n",
    ] {
        assert_eq!(trailing(body), Some(Code::InvalidRequest), "{body:?}");
    }
    assert_eq!(trailing(&"1".repeat(2000)), Some(Code::InvalidRequest), "a line without end");
    for tail in [
        "",
        "\r\n",
        "x\r\n\r\n",
        "x-other:1\r\n\r\n",
        &format!("{LINE}\r\n{LINE}\r\n"),
        &format!("{LINE}\r\nx-other:1\r\n"),
    ] {
        assert_eq!(trailing(&format!("1\r\na\r\n0\r\n{tail}")), Some(Code::MalformedTrailerError), "{tail:?}");
    }
    let flood = format!("0\r\n{}", "x-amz-a:b\r\n".repeat(3000));
    assert_eq!(trailing(&flood), Some(Code::MalformedTrailerError));
    assert_eq!(
        code_of(decoder(false, false), b"0\r\nx:y\r\n\r\n"),
        Some(Code::InvalidRequest),
        "no trailer was announced"
    );

    let good = String::from_utf8(signed(&[b"123456789"], true)).expect("text");
    let without = good.replace("x-amz-trailer-signature", "x-amz-trailer-signaturf");
    assert_eq!(code_of(decoder(true, true), without.as_bytes()), Some(Code::MalformedTrailerError));
    let changed = good.replace("y/Q5Jg==", "AAAAAA==");
    assert_eq!(code_of(decoder(true, true), changed.as_bytes()), Some(Code::SignatureDoesNotMatch));
    let small = signed(&[&[1; 8191], b"2"], false);
    assert_eq!(code_of(decoder(true, false), &small), Some(Code::InvalidChunkSizeError));
    assert_eq!(code_of(decoder(true, false), b"5\r\nabcde\r\n0\r\n\r\n"), Some(Code::SignatureDoesNotMatch));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_chunks_in_any_pieces(
        lens in prop::collection::vec(8192_usize..20_000, 0..4),
        last in 1_usize..9000,
        cuts in prop::collection::vec(1_usize..5000, 1..40),
        is_signed in any::<bool>(),
    ) {
        let chunks: Vec<Vec<u8>> = lens.iter().chain([&last]).map(|len| (0..*len).map(|at| (at * len) as u8).collect()).collect();
        let slices: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
        let body = if is_signed { signed(&slices, true) } else { unsigned(&slices) };
        let (mut pieces, mut rest) = (Vec::new(), &body[..]);
        for cut in cuts {
            let (piece, tail) = rest.split_at(cut.min(rest.len()));
            pieces.push(piece);
            rest = tail;
        }
        pieces.push(rest);
        let (data, trailer) = decode(decoder(is_signed, true), pieces).expect("a good body");
        prop_assert!(data == chunks.concat());
        prop_assert_eq!(trailer, "y/Q5Jg==");
    }

    #[test]
    fn garbage_never_panics(garbage in prop::collection::vec(any::<u8>(), 0..600), is_signed in any::<bool>()) {
        let _refused = decode(decoder(is_signed, true), garbage.chunks(7));
    }
}
