//! The protobuf bodies of all messages but [`super::Append`] and those of `baseline` and `mending`. Fields may be added: an older node skips them.
//! Names and enumerations are checked here, so that the core may trust them. Private to the wire format.

use bytes::Bytes;
use lockstep_storage::id::{Epoch, NodeId, Origin, Position, Seq};
use lockstep_storage::superblock::EpochEntry;
use prost::Message as _;

use super::{WireError, baseline, mending};
use crate::message::{Ack, Clock, Hello, Message, PROTOCOL_VERSION, Welcome};
use crate::plan::{AckLevel, Policy};

/// Highest kind that this version knows.
pub(super) const KIND_MAX: u8 = mending::KIND_HAVE;

const KIND_HELLO: u8 = 1;
const KIND_WELCOME: u8 = 2;
const KIND_REFUSED: u8 = 3;
const KIND_ACK: u8 = 5;
const KIND_ADOPT: u8 = 6;
const KIND_SYNC_REQUEST: u8 = 7;
const KIND_SYNC_DONE: u8 = 8;
const KIND_SET_IN_SYNC: u8 = 9;
const KIND_IN_SYNC_STORED: u8 = 10;
const KIND_HAND_OVER: u8 = 11;
const KIND_APPLY: u8 = 18;
const KIND_CLOCK: u8 = 19;
const KIND_CLOCK_ECHO: u8 = 20;

/// A reason is cut at this length, in bytes: it is one sentence.
const REASON_LEN_MAX: usize = 2 << 10;

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct EpochEntryBody {
    #[prost(uint64, tag = "1")]
    counter: u64,
    #[prost(fixed64, tag = "2")]
    node: u64,
    #[prost(uint64, tag = "3")]
    first: u64,
    #[prost(fixed64, tag = "4")]
    parent: u64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct PositionBody {
    #[prost(uint64, tag = "1")]
    counter: u64,
    #[prost(fixed64, tag = "2")]
    node: u64,
    #[prost(uint64, tag = "3")]
    seq: u64,
    #[prost(fixed64, tag = "4")]
    checksum: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HelloBody {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(string, tag = "2")]
    origin: String,
    #[prost(string, tag = "3")]
    node: String,
    #[prost(string, tag = "4")]
    peer: String,
    #[prost(uint64, tag = "5")]
    incarnation: u64,
    #[prost(uint64, tag = "6")]
    connection: u64,
    #[prost(message, repeated, tag = "7")]
    epochs: Vec<EpochEntryBody>,
    #[prost(message, optional, tag = "8")]
    last: Option<PositionBody>,
    #[prost(uint64, tag = "9")]
    trimmed: u64,
    #[prost(uint32, tag = "10")]
    policy: u32,
    #[prost(uint32, tag = "11")]
    ack: u32,
    #[prost(uint64, tag = "12")]
    link_timeout_ms: u64,
    #[prost(bool, tag = "13")]
    in_sync: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WelcomeBody {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(string, tag = "2")]
    node: String,
    #[prost(uint64, tag = "3")]
    incarnation: u64,
    #[prost(uint64, tag = "4")]
    connection: u64,
    #[prost(message, repeated, tag = "5")]
    epochs: Vec<EpochEntryBody>,
    #[prost(message, optional, tag = "6")]
    last: Option<PositionBody>,
    #[prost(uint64, tag = "7")]
    credit: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RefusedBody {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(message, repeated, tag = "2")]
    epochs: Vec<EpochEntryBody>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct AckBody {
    #[prost(uint64, tag = "1")]
    received: u64,
    #[prost(uint64, tag = "2")]
    persisted: u64,
    #[prost(uint64, tag = "3")]
    applied: u64,
    #[prost(uint64, tag = "4")]
    credit: u64,
}

/// Adopt, `SyncDone` and Apply.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct SeqBody {
    #[prost(uint64, tag = "1")]
    seq: u64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct SyncRequestBody {
    #[prost(uint64, tag = "1")]
    through: u64,
    #[prost(uint64, tag = "2")]
    flushed: u64,
}

/// `SetInSync` and `InSyncStored`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct FlagBody {
    #[prost(bool, tag = "1")]
    flag: bool,
}

/// In milliseconds.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct ClockBody {
    #[prost(uint64, tag = "1")]
    sent: u64,
    #[prost(sint64, optional, tag = "2")]
    skew: Option<i64>,
    #[prost(uint64, tag = "3")]
    error: u64,
}

/// In milliseconds.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct ClockEchoBody {
    #[prost(uint64, tag = "1")]
    sent: u64,
    #[prost(uint64, tag = "2")]
    clock: u64,
}

/// Kind and body of a message. An `Append` has no body of this sort; the encoder keeps it away.
pub(super) fn encode(message: &Message) -> (u8, Vec<u8>) {
    match message {
        Message::Hello(hello) => (KIND_HELLO, HelloBody::from(hello).encode_to_vec()),
        Message::Welcome(welcome) => (KIND_WELCOME, WelcomeBody::from(welcome).encode_to_vec()),
        Message::Refused { reason, epochs } => {
            let end = reason.floor_char_boundary(REASON_LEN_MAX);
            let body = RefusedBody { reason: reason[..end].to_owned(), epochs: entries(epochs) };
            (KIND_REFUSED, body.encode_to_vec())
        }
        Message::Append(_) => (super::KIND_APPEND, Vec::new()),
        Message::Ack(ack) => {
            let (received, persisted, applied) = (ack.received.0, ack.persisted.0, ack.applied.0);
            (KIND_ACK, AckBody { received, persisted, applied, credit: ack.credit }.encode_to_vec())
        }
        Message::Adopt { after } => (KIND_ADOPT, SeqBody { seq: after.0 }.encode_to_vec()),
        Message::SyncRequest { through, flushed } => {
            (KIND_SYNC_REQUEST, SyncRequestBody { through: through.0, flushed: flushed.0 }.encode_to_vec())
        }
        Message::SyncDone { through } => (KIND_SYNC_DONE, SeqBody { seq: through.0 }.encode_to_vec()),
        Message::SetInSync(flag) => (KIND_SET_IN_SYNC, FlagBody { flag: *flag }.encode_to_vec()),
        Message::InSyncStored(flag) => (KIND_IN_SYNC_STORED, FlagBody { flag: *flag }.encode_to_vec()),
        Message::HandOver { last } => (KIND_HAND_OVER, PositionBody::from(*last).encode_to_vec()),
        Message::Apply { through } => (KIND_APPLY, SeqBody { seq: through.0 }.encode_to_vec()),
        Message::Baseline(message) => baseline::encode(message),
        Message::Clock(Clock { sent_ms, skew_ms, error_ms }) => {
            let body = ClockBody { sent: *sent_ms, skew: *skew_ms, error: *error_ms };
            (KIND_CLOCK, body.encode_to_vec())
        }
        Message::ClockEcho { sent_ms, clock_ms } => {
            (KIND_CLOCK_ECHO, ClockEchoBody { sent: *sent_ms, clock: *clock_ms }.encode_to_vec())
        }
        Message::Mending(message) => mending::encode(message),
    }
}

/// The message of a kind and its body.
pub(super) fn decode(kind: u8, body: Bytes) -> Result<Message, WireError> {
    match kind {
        KIND_HELLO => parse::<HelloBody>(kind, body)?.check().map(Message::Hello),
        KIND_WELCOME => parse::<WelcomeBody>(kind, body)?.check().map(Message::Welcome),
        KIND_REFUSED => {
            let body = parse::<RefusedBody>(kind, body)?;
            Ok(Message::Refused { reason: body.reason, epochs: body.epochs.into_iter().map(Into::into).collect() })
        }
        KIND_ACK => {
            let body = parse::<AckBody>(kind, body)?;
            let (received, persisted, applied) = (Seq(body.received), Seq(body.persisted), Seq(body.applied));
            Ok(Message::Ack(Ack { received, persisted, applied, credit: body.credit }))
        }
        KIND_ADOPT => Ok(Message::Adopt { after: Seq(parse::<SeqBody>(kind, body)?.seq) }),
        KIND_SYNC_REQUEST => {
            let body = parse::<SyncRequestBody>(kind, body)?;
            Ok(Message::SyncRequest { through: Seq(body.through), flushed: Seq(body.flushed) })
        }
        KIND_SYNC_DONE => Ok(Message::SyncDone { through: Seq(parse::<SeqBody>(kind, body)?.seq) }),
        KIND_SET_IN_SYNC => Ok(Message::SetInSync(parse::<FlagBody>(kind, body)?.flag)),
        KIND_IN_SYNC_STORED => Ok(Message::InSyncStored(parse::<FlagBody>(kind, body)?.flag)),
        KIND_HAND_OVER => Ok(Message::HandOver { last: parse::<PositionBody>(kind, body)?.into() }),
        KIND_APPLY => Ok(Message::Apply { through: Seq(parse::<SeqBody>(kind, body)?.seq) }),
        KIND_CLOCK => {
            let ClockBody { sent, skew, error } = parse(kind, body)?;
            Ok(Message::Clock(Clock { sent_ms: sent, skew_ms: skew, error_ms: error }))
        }
        KIND_CLOCK_ECHO => {
            let ClockEchoBody { sent, clock } = parse(kind, body)?;
            Ok(Message::ClockEcho { sent_ms: sent, clock_ms: clock })
        }
        mending::KIND_WANT | mending::KIND_HAVE => mending::decode(kind, body).map(Message::Mending),
        other => baseline::decode(other, body).map(Message::Baseline),
    }
}

pub(super) fn parse<B: prost::Message + Default>(kind: u8, body: Bytes) -> Result<B, WireError> {
    B::decode(body).map_err(|err| WireError::Body { kind, what: err.to_string() })
}

fn name(kind: u8, text: &str) -> Result<Origin, WireError> {
    Origin::new(text).map_err(|err| WireError::Body { kind, what: err.to_string() })
}

pub(super) fn entries(epochs: &[EpochEntry]) -> Vec<EpochEntryBody> {
    let body = |entry: &EpochEntry| EpochEntryBody {
        counter: entry.epoch.counter,
        node: entry.epoch.node.0,
        first: entry.first.0,
        parent: entry.parent,
    };
    epochs.iter().map(body).collect()
}

impl From<EpochEntryBody> for EpochEntry {
    fn from(body: EpochEntryBody) -> Self {
        let epoch = Epoch { counter: body.counter, node: NodeId(body.node) };
        Self { epoch, first: Seq(body.first), parent: body.parent }
    }
}

impl From<Position> for PositionBody {
    fn from(at: Position) -> Self {
        Self { counter: at.epoch.counter, node: at.epoch.node.0, seq: at.seq.0, checksum: at.checksum }
    }
}

impl From<PositionBody> for Position {
    fn from(body: PositionBody) -> Self {
        let epoch = Epoch { counter: body.counter, node: NodeId(body.node) };
        Self { epoch, seq: Seq(body.seq), checksum: body.checksum }
    }
}

impl From<&Hello> for HelloBody {
    fn from(hello: &Hello) -> Self {
        Self {
            version: hello.version,
            origin: hello.origin.to_string(),
            node: hello.node.to_string(),
            peer: hello.peer.to_string(),
            incarnation: hello.incarnation,
            connection: hello.connection,
            epochs: entries(&hello.epochs),
            last: Some(hello.last.into()),
            trimmed: hello.trimmed.0,
            policy: match hello.policy {
                Policy::Strict => 1,
                Policy::Sync => 2,
                Policy::Async => 3,
            },
            ack: match hello.ack {
                AckLevel::Received => 1,
                AckLevel::Durable => 2,
                AckLevel::Applied => 3,
            },
            link_timeout_ms: hello.link_timeout_ms,
            in_sync: hello.in_sync,
        }
    }
}

impl HelloBody {
    fn check(self) -> Result<Hello, WireError> {
        let bad = |what: &str, value: u32| WireError::Body { kind: KIND_HELLO, what: format!("{what} {value}") };
        // A Hello of another version must reach the core, which refuses it by both versions' names.
        let foreign = self.version != PROTOCOL_VERSION;
        let policy = match self.policy {
            1 => Policy::Strict,
            2 => Policy::Sync,
            3 => Policy::Async,
            _ if foreign => Policy::default(),
            other => return Err(bad("unknown policy", other)),
        };
        let ack = match self.ack {
            1 => AckLevel::Received,
            2 => AckLevel::Durable,
            3 => AckLevel::Applied,
            _ if foreign => AckLevel::default(),
            other => return Err(bad("unknown ack level", other)),
        };
        Ok(Hello {
            version: self.version,
            origin: name(KIND_HELLO, &self.origin)?,
            node: name(KIND_HELLO, &self.node)?,
            peer: name(KIND_HELLO, &self.peer)?,
            incarnation: self.incarnation,
            connection: self.connection,
            epochs: self.epochs.into_iter().map(Into::into).collect(),
            last: self.last.map(Into::into).unwrap_or_default(),
            trimmed: Seq(self.trimmed),
            policy,
            ack,
            link_timeout_ms: self.link_timeout_ms,
            in_sync: self.in_sync,
        })
    }
}

impl From<&Welcome> for WelcomeBody {
    fn from(welcome: &Welcome) -> Self {
        Self {
            version: welcome.version,
            node: welcome.node.to_string(),
            incarnation: welcome.incarnation,
            connection: welcome.connection,
            epochs: entries(&welcome.epochs),
            last: Some(welcome.last.into()),
            credit: welcome.credit,
        }
    }
}

impl WelcomeBody {
    fn check(self) -> Result<Welcome, WireError> {
        Ok(Welcome {
            version: self.version,
            node: name(KIND_WELCOME, &self.node)?,
            incarnation: self.incarnation,
            connection: self.connection,
            epochs: self.epochs.into_iter().map(Into::into).collect(),
            last: self.last.map(Into::into).unwrap_or_default(),
            credit: self.credit,
        })
    }
}
