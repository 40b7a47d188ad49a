//! Typed reads of one snapshot: what the gateway answers from, and what the mirror reads back of the container.
//!
//! Everything that one view returns belongs together: it is the image at one applied seq. Chunks and records are verified
//! by our own checksums on every read; what does not verify, or is referred to and missing, is [`ImageError::Corrupt`].

mod digest;
mod list;
pub mod parts;

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

pub use self::digest::{BodiesDigest, ImageDigest};
pub use self::list::{ListPage, ListQuery, UploadPage};
use super::apply::stored_record;
use super::keys::{self, Waiting};
use super::{Family, ImageError, Progress, Tables};
use crate::id::{BodyId, ChunkId, Position, Seq};
use crate::op::{AccessKey, Bucket, Object, Part, Upload, User};
use crate::record::{Header, Record, payload_crc};

/// Most runs of records that are told apart by [`View::log_runs`].
pub const RUNS_MAX: usize = 2048;

/// A record as the container holds it.
#[derive(Debug)]
pub struct Stored {
    /// Its bytes. Of a `Data` record the payload is not among them: it is a chunk.
    pub bytes: Bytes,
    /// What reading them gives.
    pub record: Result<Record, ImageError>,
}

/// A consistent look at one origin's container and image. Keeps everything that it sees readable until it is dropped.
#[derive(Clone)]
pub struct View {
    tables: Arc<dyn Tables>,
    mend: Option<Mend>,
}

/// Where the bytes of a damaged chunk may be had. May wait for somebody else.
pub type Mend = Arc<dyn Fn(ChunkId) -> Option<Bytes> + Send + Sync>;

/// The marks of a snapshot.
pub(super) fn progress(tables: &dyn Tables) -> Result<Progress, ImageError> {
    let position = |key| -> Result<Position, ImageError> {
        Ok(tables.get(Family::Image, key)?.map(|v| keys::decode_position(&v)).transpose()?.unwrap_or_default())
    };
    let trimmed = tables.get(Family::Image, keys::TRIMMED)?.map(|v| keys::decode_seq(&v)).transpose()?;
    Ok(Progress {
        appended: position(keys::APPENDED)?,
        applied: position(keys::APPLIED)?,
        trimmed: trimmed.unwrap_or_default(),
    })
}

/// Modification time of the last record that a snapshot has applied, in milliseconds since 1970.
pub(super) fn time_ms(tables: &dyn Tables) -> Result<u64, ImageError> {
    Ok(tables.get(Family::Image, keys::TIME)?.map(|v| keys::decode_seq(&v)).transpose()?.unwrap_or_default().0)
}

/// What waits in a snapshot's garbage queue.
pub(super) fn waiting(tables: &dyn Tables) -> Result<Waiting, ImageError> {
    Ok(tables.get(Family::Image, keys::WAITING)?.map(|v| Waiting::decode(&v)).transpose()?.unwrap_or_default())
}

/// The checksum of a chunk, where one is known that can be read.
pub(super) fn known_crc(tables: &dyn Tables, chunk: ChunkId) -> Result<Option<Bytes>, ImageError> {
    match tables.get(Family::Body, &keys::chunk_crc(chunk.body, chunk.index)) {
        Err(ImageError::Unreadable(_)) => Ok(None),
        known => known,
    }
}

fn corrupt(what: &str) -> ImageError {
    ImageError::Corrupt(what.to_owned())
}

fn decode<M: Message + Default>(value: &[u8], what: &str) -> Result<M, ImageError> {
    M::decode(value).map_err(|error| ImageError::Corrupt(format!("{what}: {error}")))
}

impl View {
    pub(crate) fn new(tables: Arc<dyn Tables>) -> Self {
        Self { tables, mend: None }
    }

    /// The same look, whose damaged chunks are had from elsewhere where they can be.
    #[must_use]
    pub fn with_mend(self, mend: Mend) -> Self {
        Self { mend: Some(mend), ..self }
    }

    pub(super) fn tables(&self) -> &dyn Tables {
        self.tables.as_ref()
    }

    /// How far container and image were.
    ///
    /// # Errors
    /// When the engine cannot read.
    pub fn progress(&self) -> Result<Progress, ImageError> {
        progress(self.tables.as_ref())
    }

    /// Modification time of the last applied record, in milliseconds since 1970; 0 where there is none.
    ///
    /// # Errors
    /// When the engine cannot read.
    pub fn time_ms(&self) -> Result<u64, ImageError> {
        time_ms(self.tables.as_ref())
    }

    /// What waits to be collected.
    ///
    /// # Errors
    /// When the engine cannot read.
    pub fn waiting(&self) -> Result<Waiting, ImageError> {
        waiting(self.tables.as_ref())
    }

    /// A record as the container holds it; none where it was trimmed or never came.
    ///
    /// # Errors
    /// When the engine cannot read.
    pub fn stored(&self, seq: Seq) -> Result<Option<Stored>, ImageError> {
        let value = self.tables.get(Family::Log, &keys::log(seq))?;
        Ok(value.map(|bytes| Stored { record: stored_record(seq, &bytes), bytes }))
    }

    fn message<M: Message + Default>(&self, key: &[u8], what: &str) -> Result<Option<M>, ImageError> {
        self.tables.get(Family::Image, key)?.map(|value| decode(&value, what)).transpose()
    }

    /// Names and messages of the keys with a prefix, those after `after` (none: all), at most `limit`.
    fn named<M: Message + Default>(
        &self,
        prefix: u8,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, M)>, ImageError> {
        let mut found = Vec::new();
        let mut from = vec![prefix];
        if let Some(after) = after {
            from.extend_from_slice(after.as_bytes());
            from.push(0);
        }
        let mut cursor = self.tables.cursor(Family::Image, &keys::successor(&[prefix]))?;
        cursor.seek(&from);
        while found.len() < limit {
            let Some((key, value)) = cursor.entry()? else { break };
            let name = str::from_utf8(&key[1..]).map_err(|_| corrupt("a name is not UTF-8"))?;
            found.push((name.to_owned(), decode(value, name)?));
            cursor.next();
        }
        Ok(found)
    }

    /// A bucket.
    ///
    /// # Errors
    /// When the engine cannot read or it does not decode.
    pub fn bucket(&self, name: &str) -> Result<Option<Bucket>, ImageError> {
        self.message(&keys::bucket(name), "bucket")
    }

    /// Buckets by name, those after `after` (empty: all), at most `limit`.
    ///
    /// # Errors
    /// When the engine cannot read or one does not decode.
    pub fn buckets(&self, after: &str, limit: usize) -> Result<Vec<(String, Bucket)>, ImageError> {
        self.named(keys::BUCKET, (!after.is_empty()).then_some(after), limit)
    }

    /// Whether a bucket has no objects. Uploads do not count.
    ///
    /// # Errors
    /// When the engine cannot read.
    pub fn bucket_is_empty(&self, name: &str) -> Result<bool, ImageError> {
        let prefix = keys::object(name, "");
        let mut empty = true;
        self.tables.scan(Family::Image, &prefix, &keys::successor(&prefix), &mut |_, _| {
            empty = false;
            false
        })?;
        Ok(empty)
    }

    /// The current version of an object, with its inline bytes.
    ///
    /// # Errors
    /// When the engine cannot read or it does not decode.
    pub fn object(&self, bucket: &str, key: &str) -> Result<Option<Object>, ImageError> {
        let value = self.tables.get(Family::Image, &keys::object(bucket, key))?;
        value.map(|value| keys::decode_object(&value)).transpose()
    }

    /// An upload in progress.
    ///
    /// # Errors
    /// When the engine cannot read or it does not decode.
    pub fn upload(&self, bucket: &str, key: &str, upload_id: &str) -> Result<Option<Upload>, ImageError> {
        if !keys::is_upload_id(upload_id) {
            return Ok(None);
        }
        self.message(&keys::upload(bucket, key, upload_id), "upload")
    }

    /// A part of an upload.
    ///
    /// # Errors
    /// When the engine cannot read or it does not decode.
    pub fn part(&self, upload_id: &str, part_number: u32) -> Result<Option<Part>, ImageError> {
        self.message(&keys::part(upload_id, part_number), "part")
    }

    /// Parts of an upload by number, those after `after`, at most `limit`.
    ///
    /// # Errors
    /// When the engine cannot read or one does not decode.
    pub fn parts(&self, upload_id: &str, after: u32, limit: usize) -> Result<Vec<(u32, Part)>, ImageError> {
        let mut found = Vec::new();
        let Some(first) = after.checked_add(1).filter(|_| keys::is_upload_id(upload_id)) else { return Ok(found) };
        let mut cursor = self.tables.cursor(Family::Image, &keys::successor(&keys::parts(upload_id)))?;
        cursor.seek(&keys::part(upload_id, first));
        while found.len() < limit {
            let Some((key, value)) = cursor.entry()? else { break };
            let number = keys::part_number(key).ok_or_else(|| corrupt("key of a part"))?;
            found.push((number, decode(value, "part")?));
            cursor.next();
        }
        Ok(found)
    }

    /// An access key.
    ///
    /// # Errors
    /// When the engine cannot read or it does not decode.
    pub fn access_key(&self, access_key: &str) -> Result<Option<AccessKey>, ImageError> {
        self.message(&keys::access_key(access_key), "access key")
    }

    /// Every access key with its id.
    ///
    /// # Errors
    /// When the engine cannot read or one does not decode.
    pub fn access_keys(&self) -> Result<Vec<(String, AccessKey)>, ImageError> {
        self.named(keys::ACCESS_KEY, None, usize::MAX)
    }

    /// A user.
    ///
    /// # Errors
    /// When the engine cannot read or it does not decode.
    pub fn user(&self, name: &str) -> Result<Option<User>, ImageError> {
        self.message(&keys::user(name), "user")
    }

    /// Every user with the name.
    ///
    /// # Errors
    /// When the engine cannot read or one does not decode.
    pub fn users(&self) -> Result<Vec<(String, User)>, ImageError> {
        self.named(keys::USER, None, usize::MAX)
    }

    /// A chunk of a body, verified.
    ///
    /// # Errors
    /// [`ImageError::Chunk`] when it is missing or does not verify, and cannot be had from elsewhere; when the engine cannot
    /// read.
    pub fn chunk(&self, body: BodyId, index: u32) -> Result<Bytes, ImageError> {
        let chunk = ChunkId { body, index };
        let crc = known_crc(self.tables(), chunk)?;
        let fits = |bytes: &Bytes| crc.as_ref().is_none_or(|crc| payload_crc(bytes).to_be_bytes()[..] == crc[..]);
        let what = match self.tables.get(Family::Body, &keys::chunk(body, index)) {
            Ok(Some(_)) if crc.is_none() => "its checksum is missing".into(),
            Ok(Some(bytes)) if fits(&bytes) => return Ok(bytes),
            Ok(Some(_)) => "checksum mismatch".into(),
            Ok(None) => "missing".into(),
            Err(ImageError::Unreadable(what)) => what,
            Err(error) => return Err(error),
        };
        let mended = self.mend.as_ref().and_then(|mend| mend(chunk)).filter(fits);
        mended.ok_or(ImageError::Chunk { chunk, what })
    }

    /// The same; none where there is no such chunk.
    ///
    /// # Errors
    /// [`ImageError::Chunk`] when it does not verify; when the engine cannot read.
    pub fn chunk_if_there(&self, body: BodyId, index: u32) -> Result<Option<Bytes>, ImageError> {
        let is_known = known_crc(self.tables(), ChunkId { body, index })?.is_some();
        match self.chunk(body, index) {
            Err(ImageError::Chunk { .. }) if !is_known => Ok(None),
            read => read.map(Some),
        }
    }

    /// Does an object or part of the image refer to a body?
    ///
    /// # Errors
    /// When the engine cannot read or its entry does not decode.
    pub fn refers_to(&self, body: BodyId) -> Result<bool, ImageError> {
        let entry = self.tables.get(Family::Image, &keys::body(body))?;
        let entry = entry.map(|value| keys::BodyEntry::decode(&value)).transpose()?;
        Ok(entry.is_some_and(|entry| entry.count > 0))
    }

    /// Records from `from` on, at most about `bytes_max` bytes but at least one, as long as the container has them.
    /// None where `from` is after the last one.
    ///
    /// # Errors
    /// [`ImageError::Trimmed`] where `from` is no longer there; [`ImageError::Corrupt`] when a record, [`ImageError::Chunk`] when
    /// its chunk is damaged or missing (a chunk may have been collected when the op that dropped its body was applied and `collect`
    /// went as far); when the engine cannot read.
    pub fn read_log(&self, from: Seq, bytes_max: usize) -> Result<Vec<Record>, ImageError> {
        let progress = self.progress()?;
        let from = from.max(Seq(1));
        if from <= progress.trimmed {
            return Err(ImageError::Trimmed { through: progress.trimmed });
        }
        let mut records: Vec<Record> = Vec::new();
        let (mut bytes, mut expected) = (0, from);
        let mut cursor = self.tables.cursor(Family::Log, &keys::log(progress.appended.seq.next()))?;
        cursor.seek(&keys::log(from));
        while expected <= progress.appended.seq {
            let record = match cursor.entry()? {
                Some((key, value)) if keys::log_seq(key) == Some(expected) => stored_record(expected, value)?,
                _ => return Err(ImageError::Corrupt(format!("record {expected} is missing"))),
            };
            bytes += record.header.record_len();
            if bytes > bytes_max && !records.is_empty() {
                break;
            }
            records.push(self.with_payload(record)?);
            expected = expected.next();
            cursor.next();
        }
        Ok(records)
    }

    /// The header of a record, where the container has it. Its chunk may be damaged.
    ///
    /// # Errors
    /// When it is damaged or the engine cannot read.
    pub fn header(&self, seq: Seq) -> Result<Option<Header>, ImageError> {
        let stored = self.tables.get(Family::Log, &keys::log(seq))?;
        stored.map(|value| Ok(stored_record(seq, &value)?.header)).transpose()
    }

    /// Sizes of the runs of records that the container holds, chunks included: the last seq of each run and its bytes; at most
    /// [`RUNS_MAX`] runs. Reads every record's head.
    ///
    /// # Errors
    /// When a key is damaged or the engine cannot read.
    pub fn log_runs(&self) -> Result<Vec<(Seq, u64)>, ImageError> {
        let (mut runs, mut damaged): (Vec<(Seq, u64)>, _) = (Vec::new(), false);
        let progress = self.progress()?;
        let records = progress.appended.seq.0.saturating_sub(progress.trimmed.0);
        let run_len = records.div_ceil(RUNS_MAX as u64).max(1);
        let mut begun = 0;
        self.tables.scan(Family::Log, &[], &keys::log(Seq(u64::MAX)), &mut |key, value| {
            let Some(seq) = keys::log_seq(key) else {
                damaged = true;
                return false;
            };
            // One that is damaged is found by whoever reads it.
            let bytes = Header::decode(value).map_or(value.len(), |header| header.record_len()) as u64;
            match runs.last_mut() {
                Some(run) if begun < run_len => *run = (seq, run.1 + bytes),
                _ => {
                    begun = 0;
                    runs.push((seq, bytes));
                }
            }
            begun += 1;
            true
        })?;
        if damaged { Err(corrupt("key in the log")) } else { Ok(runs) }
    }

    fn with_payload(&self, mut record: Record) -> Result<Record, ImageError> {
        if let crate::op::Mutation::Data(data) = record.mutation()? {
            record.payload = self.chunk(record.body_of(&data), data.index)?;
            // The chunk verified, but by the checksum beside it: it must be this record's too.
            if payload_crc(&record.payload) != record.header.payload_crc {
                let chunk = ChunkId { body: record.body_of(&data), index: data.index };
                let what = format!("record {} has other bytes", record.header.seq);
                return Err(ImageError::Chunk { chunk, what });
            }
        }
        Ok(record)
    }
}
