//! What changes the container and the image: records come in (`append`), take effect (`apply`), go out (`trim`, `cut`),
//! and bodies that nothing refers to are removed (`collect`). Each call is one atomic batch.
//!
//! Always true: the `appended` mark is in the batch of the records that it speaks of, the `applied` mark in the batch of
//! the image's change; so whatever prefix of the batches a crash leaves is consistent in itself. Apply is a pure function
//! of image and record, total (what each op does to an image that does not fit it stands in `effect`), and a record at
//! or below `applied` does nothing: replay after a crash, and batches of any size, come to the same image.

mod batch;
mod bodies;
mod effect;
mod repair;

use bytes::{BufMut, Bytes, BytesMut};

use self::batch::Batch;
pub use self::repair::Mended;
pub(super) use self::repair::repair;
use super::view::{known_crc, progress};
use super::{Change, Engine, Family, ImageError, Tables, keys};
use crate::id::{BodyId, ChunkId, Position, Seq};
use crate::op::Mutation;
use crate::record::{Record, RecordError, payload_crc, verify_head};

/// Bytes of records that one batch of apply takes in, about.
const APPLY_BYTES_MAX: usize = 16 << 20;
/// A body with more chunks than this is removed by one range instead of chunk by chunk. Ranges cost every later reader of
/// their neighbourhood a little, chunks cost the collector; large bodies are few.
const CHUNKS_ONE_BY_ONE_MAX: u64 = 16;

/// As [`super::Image::append`].
pub(super) fn append(engine: &dyn Engine, records: &[Record]) -> Result<Position, ImageError> {
    let tables = engine.snapshot();
    let mut last = progress(tables.as_ref())?.appended;
    if records.is_empty() {
        return Ok(last);
    }
    let mut changes = Vec::with_capacity(3 * records.len() + 1);
    for record in records {
        let header = &record.header;
        if header.seq != last.seq.next() {
            return Err(ImageError::Gap { after: last.seq, got: header.seq });
        }
        if header.parent != last.checksum {
            return Err(ImageError::Corrupt(format!("record {} has another parent than record {last}", header.seq)));
        }
        let log = keys::log(header.seq);
        match record.mutation()? {
            Mutation::Data(data) => {
                let body = record.body_of(&data);
                let crc = Bytes::copy_from_slice(&header.payload_crc.to_be_bytes());
                changes.push(Change::Put(Family::Body, keys::chunk(body, data.index), record.payload.clone()));
                changes.push(Change::Put(Family::Body, keys::chunk_crc(body, data.index), crc));
                changes.push(Change::Put(Family::Log, log, record.head.clone()));
            }
            _ => changes.push(Change::Put(Family::Log, log, whole(record))),
        }
        last = record.position();
    }
    changes.push(Change::Put(Family::Image, keys::APPENDED.to_vec(), keys::encode_position(last)));
    engine.commit(changes)?;
    Ok(last)
}

fn whole(record: &Record) -> Bytes {
    if record.payload.is_empty() {
        return record.head.clone();
    }
    let mut out = BytesMut::with_capacity(record.len());
    out.put_slice(&record.head);
    out.put_slice(&record.payload);
    out.freeze()
}

/// As [`super::Image::restore`].
pub(super) fn restore(engine: &dyn Engine, records: &[Record]) -> Result<usize, ImageError> {
    let tables = engine.snapshot();
    let mut changes = Vec::new();
    for record in records {
        let Mutation::Data(data) = record.mutation()? else { continue };
        let body = record.body_of(&data);
        let crc = record.header.payload_crc.to_be_bytes();
        let known = known_crc(tables.as_ref(), ChunkId { body, index: data.index })?;
        if known.is_none_or(|known| known[..] != crc) {
            continue;
        }
        let chunk = keys::chunk(body, data.index);
        match tables.get(Family::Body, &chunk) {
            Ok(Some(found)) if payload_crc(&found).to_be_bytes() == crc => {}
            Ok(_) | Err(ImageError::Unreadable(_)) => {
                changes.push(Change::Put(Family::Body, chunk, record.payload.clone()));
            }
            Err(error) => return Err(error),
        }
    }
    let restored = changes.len();
    if restored > 0 {
        engine.commit(changes)?;
    }
    Ok(restored)
}

/// Reads a value of the log family: a whole record, or the head of a `Data` record with an empty payload.
pub(super) fn stored_record(seq: Seq, value: &[u8]) -> Result<Record, ImageError> {
    let mut bytes = Bytes::copy_from_slice(value);
    let record = match verify_head(&bytes) {
        Ok(header) => Record { header, head: bytes, payload: Bytes::new() },
        // Not a head alone: a record with its payload, or damaged.
        Err(_) => Record::decode(&mut bytes).map_err(|error| match error {
            RecordError::UnknownKind(_) => error.into(),
            _ => ImageError::Corrupt(format!("record {seq} in the log: {error}")),
        })?,
    };
    if record.header.seq != seq {
        return Err(ImageError::Corrupt(format!("record {} stands at {seq}", record.header.seq)));
    }
    if !record.is_data() && record.payload.len() != record.header.payload_len as usize {
        return Err(ImageError::Corrupt(format!("record {seq} has lost its payload")));
    }
    Ok(record)
}

/// As [`super::Image::apply`].
pub(super) fn apply(engine: &dyn Engine, through: Seq, limit: usize) -> Result<Position, ImageError> {
    let tables = engine.snapshot();
    let progress = progress(tables.as_ref())?;
    let through = through.min(progress.appended.seq);
    if progress.applied.seq >= through || limit == 0 {
        return Ok(progress.applied);
    }
    let mut batch = Batch::new(tables.as_ref());
    let (mut applied, mut time_ms) = (progress.applied, super::view::time_ms(tables.as_ref())?);
    for record in pending(tables.as_ref(), applied, through, limit)? {
        let (at, made_ms) = (record.position(), record.header.time_ms);
        match effect::effect(&mut batch, record) {
            // What is in the batch may be a part of it: the ones before it are applied without it.
            Err(error) if error.is_of_stored_bytes() && applied != progress.applied => {
                return apply(engine, applied.seq, limit);
            }
            done => done?,
        }
        applied = at;
        time_ms = time_ms.max(made_ms);
    }
    batch.put(keys::APPLIED.to_vec(), keys::encode_position(applied));
    batch.put(keys::TIME.to_vec(), keys::encode_seq(Seq(time_ms)));
    engine.commit(batch.into_changes())?;
    Ok(applied)
}

/// The records that follow `applied`, each the child of the one before: up to the first that cannot be read.
fn pending(tables: &dyn Tables, applied: Position, through: Seq, limit: usize) -> Result<Vec<Record>, ImageError> {
    let mut records: Vec<Record> = Vec::new();
    let mut failed = None;
    let mut bytes = 0;
    let (from, until) = (keys::log(applied.seq.next()), keys::log(through.next()));
    tables.scan(Family::Log, &from, &until, &mut |key, value| {
        let before = records.last().map_or(applied, Record::position);
        match following(before, key, value) {
            Ok(record) => records.push(record),
            Err(error) => failed = Some(error),
        }
        bytes += value.len();
        failed.is_none() && records.len() < limit && bytes < APPLY_BYTES_MAX
    })?;
    let missing = || ImageError::Corrupt(format!("record {} is missing", applied.seq.next()));
    match failed {
        Some(error) if records.is_empty() => Err(error),
        None if records.is_empty() => Err(missing()),
        _ => Ok(records),
    }
}

fn following(before: Position, key: &[u8], value: &[u8]) -> Result<Record, ImageError> {
    let expected = before.seq.next();
    if keys::log_seq(key) != Some(expected) {
        return Err(ImageError::Corrupt(format!("record {expected} is missing")));
    }
    let record = stored_record(expected, value)?;
    if record.header.parent != before.checksum {
        return Err(ImageError::Corrupt(format!("record {expected} has another parent than record {before}")));
    }
    Ok(record)
}

/// As [`super::Image::trim`].
pub(super) fn trim(engine: &dyn Engine, through: Seq) -> Result<(), ImageError> {
    let progress = progress(engine.snapshot().as_ref())?;
    let through = through.min(progress.applied.seq);
    if through <= progress.trimmed {
        return Ok(());
    }
    engine.commit(vec![
        Change::DeleteRange(Family::Log, keys::log(progress.trimmed.next()), keys::log(through.next())),
        Change::Put(Family::Image, keys::TRIMMED.to_vec(), keys::encode_seq(through)),
    ])
}

/// As [`super::Image::cut`].
pub(super) fn cut(engine: &dyn Engine, last: Position, generation: u64) -> Result<(), ImageError> {
    let tables = engine.snapshot();
    let progress = progress(tables.as_ref())?;
    if last == progress.appended {
        return Ok(());
    }
    if last.seq < progress.applied.seq {
        return Err(ImageError::Applied { last: last.seq, applied: progress.applied.seq });
    }
    if last != progress.applied {
        let stored = tables.get(Family::Log, &keys::log(last.seq))?;
        let stored = stored.map(|value| stored_record(last.seq, &value)).transpose()?;
        if stored.is_none_or(|record| record.position() != last) {
            return Err(ImageError::NotHere(last));
        }
    }
    let (from, until) = (keys::log(last.seq.next()), keys::log(progress.appended.seq.next()));
    let mut changes = vec![Change::DeleteRange(Family::Log, from.clone(), until.clone())];
    let mut failed = None;
    tables.scan(Family::Log, &from, &until, &mut |key, value| {
        match brought_chunk(key, value) {
            Ok(Some((body, index))) => remove_chunk(&mut changes, body, index),
            Ok(None) => {}
            Err(error) => failed = Some(error),
        }
        failed.is_none()
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    changes.push(Change::Put(Family::Image, keys::APPENDED.to_vec(), keys::encode_position(last)));
    changes.push(Change::Put(Family::Image, keys::GENERATION_FLOOR.to_vec(), keys::encode_seq(Seq(generation))));
    engine.commit(changes)
}

/// As [`super::Image::generation_floor`].
pub(super) fn generation_floor(tables: &dyn Tables) -> Result<u64, ImageError> {
    let floor = tables.get(Family::Image, keys::GENERATION_FLOOR)?;
    Ok(floor.map(|value| keys::decode_seq(&value)).transpose()?.unwrap_or_default().0)
}

/// The chunk that a stored record brought, if it is a `Data` record.
fn brought_chunk(key: &[u8], value: &[u8]) -> Result<Option<(BodyId, u32)>, ImageError> {
    let seq = keys::log_seq(key).ok_or_else(|| ImageError::Corrupt("key in the log".into()))?;
    let record = stored_record(seq, value)?;
    Ok(match record.mutation()? {
        Mutation::Data(data) => Some((record.body_of(&data), data.index)),
        _ => None,
    })
}

/// As [`super::Image::collect`].
pub(super) fn collect(engine: &dyn Engine, through: Seq, limit: usize) -> Result<usize, ImageError> {
    let tables = engine.snapshot();
    let mut batch = Batch::new(tables.as_ref());
    let through = through.min(progress(tables.as_ref())?.applied.seq);
    let floor = tables.get(Family::Image, keys::GARBAGE_FLOOR)?;
    let floor = floor.map(|value| keys::decode_seq(&value)).transpose()?.unwrap_or_default();
    let (mut due, mut damaged, limit) = (Vec::new(), false, limit as u64);
    if floor <= through && limit > 0 {
        let (from, until) = (keys::garbage_from(floor), keys::garbage_from(through.next()));
        tables.scan(Family::Image, &from, &until, &mut |key, _| {
            let entry = keys::garbage_entry(key);
            damaged |= entry.is_none();
            due.extend(entry);
            // Each has one chunk at least; the one after the last says where the next call begins.
            due.len() as u64 <= limit && !damaged
        })?;
    }
    if damaged {
        return Err(ImageError::Corrupt("key in the garbage queue".into()));
    }
    let mut changes = Vec::new();
    let (mut removed, mut next) = (0, None);
    for (dropped, body) in due {
        if removed >= limit {
            next = Some(dropped);
            break;
        }
        let entry = bodies::entry(&mut batch, body)?.unwrap_or_default();
        removed += remove_chunks(&mut changes, body, entry.chunks);
        batch.delete(keys::garbage(dropped, body));
        batch.delete(keys::body(body));
        bodies::wait(&mut batch, |waiting| {
            waiting.bodies = waiting.bodies.saturating_sub(1);
            waiting.bytes = waiting.bytes.saturating_sub(entry.len);
        })?;
    }
    if removed > 0 {
        let floor = next.unwrap_or(through.next());
        batch.put(keys::GARBAGE_FLOOR.to_vec(), keys::encode_seq(floor));
        changes.extend(batch.into_changes());
        engine.commit(changes)?;
    }
    let waiting = super::view::waiting(engine.snapshot().as_ref())?;
    Ok(usize::try_from(waiting.bodies).unwrap_or(usize::MAX))
}

/// Removes a body's chunks; returns what that counts for, at least 1.
fn remove_chunks(changes: &mut Vec<Change>, body: BodyId, chunks: u64) -> u64 {
    if chunks > CHUNKS_ONE_BY_ONE_MAX {
        changes.push(Change::DeleteRange(Family::Body, keys::chunk(body, 0), keys::chunks_end(body)));
        return CHUNKS_ONE_BY_ONE_MAX;
    }
    for index in (0..chunks).filter_map(|index| u32::try_from(index).ok()) {
        remove_chunk(changes, body, index);
    }
    chunks.max(1)
}

fn remove_chunk(changes: &mut Vec<Change>, body: BodyId, index: u32) {
    changes.push(Change::Delete(Family::Body, keys::chunk(body, index)));
    changes.push(Change::Delete(Family::Body, keys::chunk_crc(body, index)));
}
