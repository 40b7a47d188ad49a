//! The wire format: what was encoded decodes under every cut of the bytes, anything else is an error value, and the bytes
//! of each kind stay what they are.

use bytes::Bytes;
use lockstep_mirror::message::wire::{BODY_LEN_MAX, Decoder, MESSAGE_HEADER_LEN, SMALL_LEN_MAX, WireError, encode};
use lockstep_mirror::message::{Ack, Append, Baseline, Clock, Hello, Mending, Message, PROTOCOL_VERSION, Welcome};
use lockstep_mirror::plan::{AckLevel, Policy};
use lockstep_storage::id::{BodyId, ChunkId, Epoch, NodeId, Origin, Position, Seq};
use lockstep_storage::image::baseline::{Bookmark, Piece};
use lockstep_storage::op::{Data, DeleteObject, Mutation};
use lockstep_storage::record::{Draft, Place, RECORD_LEN_MAX, Record, RecordError, payload_crc};
use lockstep_storage::superblock::EpochEntry;
use proptest::prelude::*;

fn epoch(counter: u64) -> Epoch {
    Epoch { counter, node: NodeId(0x1122_3344_5566_7788) }
}

fn position(seq: u64) -> Position {
    Position { epoch: epoch(2), seq: Seq(seq), checksum: 0xabcd }
}

fn entries(count: u64) -> Vec<EpochEntry> {
    (1..=count).map(|n| EpochEntry { epoch: epoch(n), first: Seq(n * 10), parent: n * 7 }).collect()
}

fn record(seq: u64, payload: Bytes) -> Record {
    let mutation = if payload.is_empty() {
        Mutation::DeleteObject(DeleteObject { bucket: "b".into(), key: format!("k{seq}") })
    } else {
        Mutation::Data(Data::default())
    };
    let (committed, persisted) = (Seq(seq.saturating_sub(2)), Seq(seq - 1));
    let place = Place { parent: position(seq - 1), epoch: epoch(2), committed, persisted, time_ms: 1_700_000_000_000 };
    Draft::new(mutation, payload).expect("small").place(&place)
}

fn append(payloads: &[usize]) -> Message {
    let record = |(at, len): (usize, &usize)| record(at as u64 + 1, vec![at as u8; *len].into());
    let records = payloads.iter().enumerate().map(record).collect();
    Message::Append(Append { committed: Seq(3), persisted: Seq(4), records })
}

fn name(text: &str) -> Origin {
    Origin::new(text).expect("a name")
}

fn chunk() -> ChunkId {
    ChunkId { body: BodyId { epoch: epoch(2), seq: Seq(17) }, index: 5 }
}

fn pieces() -> Vec<Piece> {
    let body = chunk().body;
    vec![
        Piece::Chunk { body, index: 0, bytes: Bytes::from_static(b"chunk") },
        Piece::Entry { key: Bytes::from_static(b"\x11bk\0k"), value: Bytes::from_static(b"value") },
        Piece::Entry { key: Bytes::from_static(b"\x10bk"), value: Bytes::new() },
    ]
}

/// Longer than any key.
static LONG: [u8; 9_000] = [0x11; 9_000];

#[test]
fn a_chunk_is_named_and_not_longer_than_a_record() {
    let sound = bytes(&[Message::Mending(Mending::Want(chunk()))]);
    let mut nameless = sound[..MESSAGE_HEADER_LEN].to_vec();
    nameless[4..8].copy_from_slice(&0u32.to_le_bytes());
    reseal(&mut nameless, 0);
    assert!(matches!(decode(&nameless, &[99]), Err(WireError::Body { kind: 21, .. })));
    let long = Mending::Have { chunk: chunk(), bytes: Some(vec![0; RECORD_LEN_MAX + 1].into()), crc: 0 };
    assert!(matches!(decode(&bytes(&[Message::Mending(long)]), &[1 << 20]), Err(WireError::Body { kind: 22, .. })));
}

#[test]
fn pieces_that_no_image_has_are_refused() {
    let entry = |key: &'static [u8]| Piece::Entry { key: Bytes::from_static(key), value: Bytes::new() };
    for piece in [entry(b""), entry(b"\x01a"), entry(b"\x01p"), entry(b"\x01b"), entry(b"\x02"), entry(&LONG)] {
        let message = Message::Baseline(Baseline::Pieces { pieces: vec![piece.clone()], next: None });
        let refused = decode(&bytes(&[message]), &[1 << 20]);
        assert!(matches!(refused, Err(WireError::Body { .. })), "{piece:?}: {refused:?}");
    }
}

fn one_of_each() -> Vec<Message> {
    vec![
        Message::Hello(Hello {
            version: PROTOCOL_VERSION,
            origin: name("site-a"),
            node: name("site-a"),
            peer: name("site-b"),
            incarnation: 7,
            connection: 3,
            epochs: entries(2),
            last: position(41),
            trimmed: Seq(12),
            policy: Policy::Strict,
            ack: AckLevel::Applied,
            link_timeout_ms: 5000,
            in_sync: true,
        }),
        Message::Welcome(Welcome {
            version: PROTOCOL_VERSION,
            node: name("site-b"),
            incarnation: 8,
            connection: 3,
            epochs: entries(1),
            last: position(40),
            credit: 64 << 20,
        }),
        Message::Refused { reason: "no".into(), epochs: entries(1) },
        append(&[0, 3]),
        Message::Ack(Ack { received: Seq(9), persisted: Seq(8), applied: Seq(7), credit: 1 << 33 }),
        Message::Adopt { after: Seq(5) },
        Message::SyncRequest { through: Seq(6), flushed: Seq(5) },
        Message::SyncDone { through: Seq(6) },
        Message::SetInSync(true),
        Message::InSyncStored(false),
        Message::HandOver { last: position(41) },
        Message::Apply { through: Seq(9) },
        Message::Baseline(Baseline::Offer),
        Message::Baseline(Baseline::Wanted { credit: 1 << 20 }),
        Message::Baseline(Baseline::Begin { at: position(30), epochs: entries(1), bytes: 1 << 40 }),
        Message::Baseline(Baseline::Ready {
            next: Bookmark { key: Bytes::from_static(b"\x11bk\0k"), chunks: 3 },
            have: 77,
        }),
        Message::Baseline(Baseline::Pieces { pieces: pieces(), next: Some(Bookmark::end()) }),
        Message::Baseline(Baseline::Pieces { pieces: Vec::new(), next: None }),
        Message::Baseline(Baseline::Ack { credit: 1 << 21 }),
        Message::Clock(Clock { sent_ms: 1_700_000_000_000, skew_ms: Some(-7), error_ms: 3 }),
        Message::Clock(Clock { sent_ms: 1_700_000_000_000, skew_ms: None, error_ms: 0 }),
        Message::ClockEcho { sent_ms: 1_700_000_000_000, clock_ms: 1_700_000_000_009 },
        Message::Mending(Mending::Want(chunk())),
        Message::Mending(Mending::Have { chunk: chunk(), bytes: Some(Bytes::from_static(b"chunk")), crc: 0x0102_0304 }),
        Message::Mending(Mending::Have { chunk: chunk(), bytes: None, crc: 0 }),
    ]
}

fn bytes(messages: &[Message]) -> Vec<u8> {
    messages.iter().flat_map(encode).flat_map(|piece| piece.to_vec()).collect()
}

/// Feeds the bytes cut after each of `cuts` lengths in turn.
fn decode(bytes: &[u8], cuts: &[usize]) -> Result<Vec<Message>, WireError> {
    let (mut decoder, mut out, mut rest) = (Decoder::new(), Vec::new(), Bytes::copy_from_slice(bytes));
    let mut cuts = cuts.iter().copied().cycle();
    while !rest.is_empty() {
        let now = cuts.next().unwrap_or(rest.len()).clamp(1, rest.len());
        decoder.push(rest.split_to(now));
        while let Some(decoded) = decoder.decode()? {
            out.push(decoded.message);
        }
    }
    Ok(out)
}

/// Puts the right checksum on bytes that were changed on purpose; `covered` bytes of the body are under it.
fn reseal(bytes: &mut [u8], covered: usize) {
    let crc = payload_crc(&bytes[4..MESSAGE_HEADER_LEN + covered]);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn golden_bytes() {
    let golden = include_str!("link_wire.golden");
    let hex = |m: &Message| {
        let digits: Vec<String> = bytes(std::slice::from_ref(m)).iter().map(|b| format!("{b:02x}")).collect();
        digits.concat()
    };
    let made = one_of_each().iter().map(hex).collect::<Vec<_>>();
    assert_eq!(made.join("\n"), golden.trim_end());
}

#[test]
fn every_single_split_gives_the_same_messages() {
    let messages = one_of_each();
    let bytes = bytes(&messages);
    for cut in 1..bytes.len() {
        assert_eq!(decode(&bytes, &[cut, bytes.len()]).as_ref(), Ok(&messages), "cut at {cut}");
    }
    assert_eq!(decode(&bytes, &[1]), Ok(messages));
}

#[test]
fn large_payloads_are_passed_on_and_taken_without_a_copy() {
    let message = append(&[1 << 20]);
    let Message::Append(sent) = &message else { unreachable!() };
    let pieces = encode(&message);
    let payload = sent.records[0].payload.as_ptr();
    assert_eq!(pieces.iter().filter(|piece| piece.as_ptr() == payload).count(), 1);
    let mut decoder = Decoder::new();
    let mut got = None;
    for piece in pieces {
        decoder.push(piece);
        got = got.or(decoder.decode().expect("sound"));
    }
    let Some(Message::Append(got)) = got.map(|decoded| decoded.message) else { panic!("no append") };
    assert_eq!(got.records[0].payload.as_ptr(), payload);
}

#[test]
fn small_records_share_a_piece() {
    let message = append(&[4096; 300]);
    let pieces = encode(&message);
    assert!(pieces.len() <= 6, "{} pieces", pieces.len());
    let all = pieces.iter().flat_map(|piece| piece.to_vec()).collect::<Vec<_>>();
    assert_eq!(decode(&all, &[1000]), Ok(vec![message]));
}

#[test]
fn a_large_append_is_sent_as_several_with_the_same_marks() {
    let Message::Append(sent) = append(&[1 << 20; 9]) else { unreachable!() };
    let got = decode(&bytes(&[Message::Append(sent.clone())]), &[1 << 16]).expect("sound");
    assert!(got.len() > 4);
    let mut records = Vec::new();
    for message in got {
        let Message::Append(part) = message else { panic!("no append") };
        assert_eq!((part.committed, part.persisted), (sent.committed, sent.persisted));
        assert!(!part.records.is_empty());
        records.extend(part.records);
    }
    assert_eq!(records, sent.records);
}

#[test]
fn lengths_counts_and_kinds_out_of_bounds_are_refused() {
    let ack = bytes(&[one_of_each().remove(4)]);
    let mut unknown = ack.clone();
    unknown[8] = 23;
    assert_eq!(decode(&unknown, &[99]), Err(WireError::UnknownKind(23)));
    let mut reserved = ack.clone();
    reserved[10] = 1;
    assert_eq!(decode(&reserved, &[99]), Err(WireError::Format));
    let mut long = ack;
    long[4..8].copy_from_slice(&(SMALL_LEN_MAX as u32 + 1).to_le_bytes());
    assert_eq!(decode(&long, &[99]), Err(WireError::Length { kind: 5, length: SMALL_LEN_MAX + 1 }));

    let sound = bytes(&[append(&[0, 3])]);
    let mut huge = sound.clone();
    huge[4..8].copy_from_slice(&(BODY_LEN_MAX as u32 + 1).to_le_bytes());
    assert_eq!(decode(&huge, &[99]), Err(WireError::Length { kind: 4, length: BODY_LEN_MAX + 1 }));
    let mut many = sound.clone();
    many[28..32].copy_from_slice(&1_000_000u32.to_le_bytes());
    reseal(&mut many, 20);
    assert!(matches!(decode(&many, &[99]), Err(WireError::Count { count: 1_000_000, .. })));
    let mut fewer = sound.clone();
    fewer[28..32].copy_from_slice(&1u32.to_le_bytes());
    reseal(&mut fewer, 20);
    assert!(matches!(decode(&fewer, &[99]), Err(WireError::Trailing(_))));
    let mut shorter = sound;
    let length = shorter.len() - MESSAGE_HEADER_LEN - 1;
    shorter[4..8].copy_from_slice(&(length as u32).to_le_bytes());
    reseal(&mut shorter, 20);
    assert!(matches!(decode(&shorter, &[99]), Err(WireError::Overrun { .. })));
}

#[test]
fn a_bad_name_or_policy_is_refused_but_another_version_reaches_the_core() {
    let Message::Hello(mut hello) = one_of_each().remove(0) else { unreachable!() };
    let sound = bytes(&[Message::Hello(hello.clone())]);
    let mut upper = sound.clone();
    let at = upper.windows(6).position(|w| w == b"site-b").expect("the peer's name");
    upper[at] = b'S';
    let covered = upper.len() - MESSAGE_HEADER_LEN;
    reseal(&mut upper, covered);
    assert!(matches!(decode(&upper, &[99]), Err(WireError::Body { kind: 1, .. })));

    // Tag 10, the policy, as a varint.
    let change_policy = |bytes: &mut Vec<u8>| {
        let at = bytes.windows(2).rposition(|w| w == [0x50, 1]).expect("the policy");
        bytes[at + 1] = 99;
        let covered = bytes.len() - MESSAGE_HEADER_LEN;
        reseal(bytes, covered);
    };
    let mut unknown = sound;
    change_policy(&mut unknown);
    assert!(matches!(decode(&unknown, &[99]), Err(WireError::Body { kind: 1, .. })));
    hello.version = PROTOCOL_VERSION + 1;
    let mut foreign = bytes(&[Message::Hello(hello.clone())]);
    change_policy(&mut foreign);
    hello.policy = Policy::default();
    assert_eq!(decode(&foreign, &[99]), Ok(vec![Message::Hello(hello)]));
}

#[test]
fn a_damaged_payload_is_named_by_its_seq() {
    let mut bytes = bytes(&[append(&[0, 3])]);
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    assert_eq!(decode(&bytes, &[7]), Err(WireError::Record(RecordError::PayloadChecksum(Seq(2)))));
}

#[test]
fn the_decoder_says_whether_the_stream_stopped_between_messages() {
    let bytes = bytes(&[append(&[10])]);
    let mut decoder = Decoder::new();
    assert!(decoder.at_boundary());
    decoder.push(Bytes::copy_from_slice(&bytes[..40]));
    assert_eq!(decoder.decode(), Ok(None));
    assert!(!decoder.at_boundary());
    decoder.push(Bytes::copy_from_slice(&bytes[40..]));
    assert_eq!(decoder.decode().map(|decoded| decoded.map(|d| d.len)), Ok(Some(bytes.len())));
    assert!(decoder.at_boundary());
}

fn any_message() -> impl Strategy<Value = Message> {
    let sizes = prop_oneof![4 => Just(0usize), 4 => 1..5000usize, 1 => 30_000..200_000usize];
    let appends = prop::collection::vec(sizes, 0..12).prop_map(|sizes| append(&sizes));
    let others = (0..22usize, any::<u64>()).prop_map(|(at, n)| match at {
        4 => Message::Ack(Ack { received: Seq(n), persisted: Seq(n / 2), applied: Seq(n / 3), credit: n }),
        5 => Message::Adopt { after: Seq(n) },
        6 => Message::SyncRequest { through: Seq(n), flushed: Seq(n / 5) },
        7 => Message::SyncDone { through: Seq(n) },
        _ => one_of_each().swap_remove(at),
    });
    prop_oneof![appends, others]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_was_encoded_decodes(
        messages in prop::collection::vec(any_message(), 1..6),
        cuts in prop::collection::vec(prop_oneof![1..20usize, 20..5000usize, 5000..300_000usize], 1..8),
    ) {
        prop_assert_eq!(decode(&bytes(&messages), &cuts), Ok(messages));
    }

    #[test]
    fn any_changed_bit_is_found(at in any::<prop::sample::Index>(), bit in 0u8..8, which in 0..22usize) {
        let mut bytes = bytes(&[one_of_each().swap_remove(which)]);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        // A length that grew waits for bytes that never come: no message, and that is right.
        let got = decode(&bytes, &[64]);
        prop_assert!(got.as_ref().is_err() || got.as_ref().is_ok_and(Vec::is_empty), "{:?}", got);
    }

    #[test]
    fn garbage_never_panics(garbage in prop::collection::vec(any::<u8>(), 0..400), cut in 1..50usize) {
        let _result = decode(&garbage, &[cut]);
    }

    #[test]
    fn garbage_under_a_right_header_never_panics(
        kind in 0u8..23,
        garbage in prop::collection::vec(any::<u8>(), 20..400),
        cut in 1..50usize,
    ) {
        let mut bytes = vec![0; MESSAGE_HEADER_LEN];
        bytes[4..8].copy_from_slice(&(garbage.len() as u32).to_le_bytes());
        bytes[8] = kind;
        bytes.extend(&garbage);
        reseal(&mut bytes, if kind == 4 { 20 } else { garbage.len() });
        let _result = decode(&bytes, &[cut]);
    }
}
