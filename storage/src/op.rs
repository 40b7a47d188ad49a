//! What a record may change, and the metadata that the image keeps. Protobuf, because two sites may run different
//! versions: a field may be added, a tag is never used again.
//!
//! An op says outcomes, never conditions: version id, ETag and checksums are decided at the source before the record is
//! made, time and order by the record's header, what is displaced by apply.

use prost::Message;

use crate::id;

/// Size of a chunk of a body, in bytes: each but the last one of a body has exactly this size.
pub const CHUNK_LEN: usize = 1 << 20;
/// Largest body that travels in the payload of its op and is stored in the object's metadata, in bytes.
pub const INLINE_LEN_MAX: usize = 32 << 10;
/// Largest encoded op, in bytes. 10,000 parts of a completed upload fit.
pub const OP_LEN_MAX: usize = 4 << 20;

/// A body's identity on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct BodyId {
    /// Epoch counter.
    #[prost(fixed64, tag = "1")]
    pub counter: u64,
    /// Epoch node.
    #[prost(fixed64, tag = "2")]
    pub node: u64,
    /// Seq of the first record.
    #[prost(fixed64, tag = "3")]
    pub seq: u64,
}

impl From<id::BodyId> for BodyId {
    fn from(b: id::BodyId) -> Self {
        Self { counter: b.epoch.counter, node: b.epoch.node.0, seq: b.seq.0 }
    }
}

impl From<BodyId> for id::BodyId {
    fn from(b: BodyId) -> Self {
        Self { epoch: id::Epoch { counter: b.counter, node: id::NodeId(b.node) }, seq: id::Seq(b.seq) }
    }
}

/// A run of an object's bytes: one whole body. An object completed from parts has one a part, in order.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Extent {
    /// The body.
    #[prost(message, required, tag = "1")]
    pub body: BodyId,
    /// Its length in bytes, at least 1.
    #[prost(uint64, tag = "2")]
    pub len: u64,
    /// Chunk size in bytes that the body was cut in.
    #[prost(uint32, tag = "3")]
    pub chunk_len: u32,
    /// The part number that it came in as, 0 if it was no part.
    #[prost(uint32, tag = "4")]
    pub part_number: u32,
}

/// A name and a value: a stored header or a user metadatum.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Header {
    /// Lower-case name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Value as received.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// One version of an object, or an upload's object-to-be.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Object {
    /// Length in bytes.
    #[prost(uint64, tag = "1")]
    pub len: u64,
    /// ETag without quotes.
    #[prost(string, tag = "2")]
    pub etag: String,
    /// The bytes, in order; empty for an inline or an empty object.
    #[prost(message, repeated, tag = "3")]
    pub extents: Vec<Extent>,
    /// The bytes of a small object. On the wire they are the record's payload and this is empty; apply moves them here.
    #[prost(bytes = "bytes", tag = "4")]
    pub inline: bytes::Bytes,
    /// System headers that a reader gets back: content-type, cache-control, content-disposition, content-encoding,
    /// content-language, expires, and checksums (`x-amz-checksum-…`).
    #[prost(message, repeated, tag = "5")]
    pub headers: Vec<Header>,
    /// User metadata, names without `x-amz-meta-`.
    #[prost(message, repeated, tag = "6")]
    pub metadata: Vec<Header>,
    /// Milliseconds since 1970, set by apply from the record.
    #[prost(uint64, tag = "7")]
    pub modified_ms: u64,
    /// Seq of the record that made this version, set by apply: the order of versions.
    #[prost(uint64, tag = "8")]
    pub seq: u64,
    /// Version id; empty is the null version.
    #[prost(string, tag = "9")]
    pub version_id: String,
    /// Access key id of the one who wrote it.
    #[prost(string, tag = "10")]
    pub owner: String,
}

/// A bucket.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Bucket {
    /// Milliseconds since 1970, set by apply from the record.
    #[prost(uint64, tag = "1")]
    pub created_ms: u64,
    /// Name of the user who made it.
    #[prost(string, tag = "2")]
    pub owner: String,
    /// Region named at creation; empty is the node's.
    #[prost(string, tag = "3")]
    pub region: String,
}

/// An uploaded part.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Part {
    /// Length in bytes.
    #[prost(uint64, tag = "1")]
    pub len: u64,
    /// ETag without quotes.
    #[prost(string, tag = "2")]
    pub etag: String,
    /// The bytes; none for an empty part. Parts are never inline.
    #[prost(message, repeated, tag = "3")]
    pub extents: Vec<Extent>,
    /// Checksums (`x-amz-checksum-…`).
    #[prost(message, repeated, tag = "4")]
    pub headers: Vec<Header>,
    /// Milliseconds since 1970, set by apply from the record.
    #[prost(uint64, tag = "5")]
    pub modified_ms: u64,
}

/// A multipart upload in progress.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Upload {
    /// Headers, metadata and owner of the object that it becomes.
    #[prost(message, required, tag = "1")]
    pub object: Object,
    /// Milliseconds since 1970, set by apply from the record.
    #[prost(uint64, tag = "2")]
    pub initiated_ms: u64,
    /// Checksum algorithm asked for at creation, as in `x-amz-checksum-algorithm`; empty for none.
    #[prost(string, tag = "3")]
    pub checksum_algorithm: String,
    /// `COMPOSITE` or `FULL_OBJECT`; empty for the algorithm's own.
    #[prost(string, tag = "4")]
    pub checksum_type: String,
}

/// An access key. Mirrored like every write, so it works at the destination after promote.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AccessKey {
    /// Secret, as SigV4 needs it.
    #[prost(string, tag = "1")]
    pub secret: String,
    /// The user that it speaks for.
    #[prost(string, tag = "2")]
    pub user: String,
    /// Milliseconds since 1970, set by apply from the record.
    #[prost(uint64, tag = "3")]
    pub created_ms: u64,
    /// Root may do everything.
    #[prost(bool, tag = "4")]
    pub root: bool,
}

/// A user: what ACLs and lists name.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct User {
    /// Canonical id shown as owner; the name when empty.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Name for people.
    #[prost(string, tag = "2")]
    pub display_name: String,
    /// Mail address, empty for none.
    #[prost(string, tag = "3")]
    pub email: String,
}

/// One chunk of a body; the bytes are the record's payload.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Data {
    /// The body; none in a body's first chunk, whose own position it is.
    #[prost(message, optional, tag = "1")]
    pub body: Option<BodyId>,
    /// Number of the chunk, from 0.
    #[prost(uint32, tag = "2")]
    pub index: u32,
}

/// Makes an object version current. `CopyObject` is this too, with another object's bodies.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PutObject {
    /// Bucket.
    #[prost(string, tag = "1")]
    pub bucket: String,
    /// Key.
    #[prost(string, tag = "2")]
    pub key: String,
    /// What it becomes.
    #[prost(message, required, tag = "3")]
    pub object: Object,
}

/// Removes an object.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DeleteObject {
    /// Bucket.
    #[prost(string, tag = "1")]
    pub bucket: String,
    /// Key.
    #[prost(string, tag = "2")]
    pub key: String,
}

/// Makes a bucket.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct CreateBucket {
    /// Name.
    #[prost(string, tag = "1")]
    pub bucket: String,
    /// What it is.
    #[prost(message, required, tag = "2")]
    pub meta: Bucket,
}

/// Removes an empty bucket, and its uploads.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DeleteBucket {
    /// Name.
    #[prost(string, tag = "1")]
    pub bucket: String,
}

/// Starts an upload.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct CreateMultipartUpload {
    /// Bucket.
    #[prost(string, tag = "1")]
    pub bucket: String,
    /// Key.
    #[prost(string, tag = "2")]
    pub key: String,
    /// 32 hex digits.
    #[prost(string, tag = "3")]
    pub upload_id: String,
    /// What it will be.
    #[prost(message, required, tag = "4")]
    pub upload: Upload,
}

/// Stores a part, in place of one with the same number.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct UploadPart {
    /// Bucket.
    #[prost(string, tag = "1")]
    pub bucket: String,
    /// Key.
    #[prost(string, tag = "2")]
    pub key: String,
    /// Upload.
    #[prost(string, tag = "3")]
    pub upload_id: String,
    /// 1 to 10,000.
    #[prost(uint32, tag = "4")]
    pub part_number: u32,
    /// The part.
    #[prost(message, required, tag = "5")]
    pub part: Part,
}

/// Turns an upload's parts into an object and ends the upload; parts not named are dropped.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct CompleteMultipartUpload {
    /// Bucket.
    #[prost(string, tag = "1")]
    pub bucket: String,
    /// Key.
    #[prost(string, tag = "2")]
    pub key: String,
    /// Upload.
    #[prost(string, tag = "3")]
    pub upload_id: String,
    /// The object, with the extents of the parts that it is made of.
    #[prost(message, required, tag = "4")]
    pub object: Object,
}

/// Ends an upload and drops its parts.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AbortMultipartUpload {
    /// Bucket.
    #[prost(string, tag = "1")]
    pub bucket: String,
    /// Key.
    #[prost(string, tag = "2")]
    pub key: String,
    /// Upload.
    #[prost(string, tag = "3")]
    pub upload_id: String,
}

/// Stores an access key and its user.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PutAccessKey {
    /// Access key id.
    #[prost(string, tag = "1")]
    pub access_key: String,
    /// The key.
    #[prost(message, required, tag = "2")]
    pub key: AccessKey,
}

/// Removes an access key.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DeleteAccessKey {
    /// Access key id.
    #[prost(string, tag = "1")]
    pub access_key: String,
}

/// Stores a user.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PutUser {
    /// Name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The user.
    #[prost(message, required, tag = "2")]
    pub user: User,
}

/// Removes a user and the user's keys.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DeleteUser {
    /// Name.
    #[prost(string, tag = "1")]
    pub name: String,
}

/// Gives up a body whose object never came: the client went away, or the node restarted.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AbandonBody {
    /// The body.
    #[prost(message, required, tag = "1")]
    pub body: BodyId,
}

/// First record of an epoch. Changes nothing; every body that an earlier epoch left open is given up by it.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct BeginEpoch {
    /// Name of the node that writes under the epoch.
    #[prost(string, tag = "1")]
    pub node: String,
}

/// One logical mutation.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
#[allow(missing_docs, reason = "each variant is named after what it holds")]
pub enum Mutation {
    #[prost(message, tag = "1")]
    Data(Data),
    #[prost(message, tag = "2")]
    PutObject(PutObject),
    #[prost(message, tag = "3")]
    DeleteObject(DeleteObject),
    #[prost(message, tag = "4")]
    CreateBucket(CreateBucket),
    #[prost(message, tag = "5")]
    DeleteBucket(DeleteBucket),
    #[prost(message, tag = "6")]
    CreateMultipartUpload(CreateMultipartUpload),
    #[prost(message, tag = "7")]
    UploadPart(UploadPart),
    #[prost(message, tag = "8")]
    CompleteMultipartUpload(CompleteMultipartUpload),
    #[prost(message, tag = "9")]
    AbortMultipartUpload(AbortMultipartUpload),
    #[prost(message, tag = "10")]
    PutAccessKey(PutAccessKey),
    #[prost(message, tag = "11")]
    DeleteAccessKey(DeleteAccessKey),
    #[prost(message, tag = "12")]
    PutUser(PutUser),
    #[prost(message, tag = "13")]
    DeleteUser(DeleteUser),
    #[prost(message, tag = "14")]
    AbandonBody(AbandonBody),
    #[prost(message, tag = "15")]
    BeginEpoch(BeginEpoch),
}

impl Mutation {
    /// The number in a record's header: the protobuf tag.
    #[must_use]
    pub fn kind(&self) -> u8 {
        match self {
            Self::Data(_) => 1,
            Self::PutObject(_) => 2,
            Self::DeleteObject(_) => 3,
            Self::CreateBucket(_) => 4,
            Self::DeleteBucket(_) => 5,
            Self::CreateMultipartUpload(_) => 6,
            Self::UploadPart(_) => 7,
            Self::CompleteMultipartUpload(_) => 8,
            Self::AbortMultipartUpload(_) => 9,
            Self::PutAccessKey(_) => 10,
            Self::DeleteAccessKey(_) => 11,
            Self::PutUser(_) => 12,
            Self::DeleteUser(_) => 13,
            Self::AbandonBody(_) => 14,
            Self::BeginEpoch(_) => 15,
        }
    }
}

/// Kind of [`Data`] in a record's header.
pub const KIND_DATA: u8 = 1;
/// Kind of [`AbandonBody`] in a record's header.
pub const KIND_ABANDON_BODY: u8 = 14;
/// Highest kind that this version knows.
pub const KIND_MAX: u8 = 15;

/// The op of a record.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Op {
    /// What it does.
    #[prost(oneof = "Mutation", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15")]
    pub mutation: Option<Mutation>,
}
