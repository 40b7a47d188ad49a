//! What each op does to the image: a total, pure function of image and record. The source decided under its locks that an
//! op is possible; where a record is there all the same that is not, its effect is defined, so that both sites agree:
//!
//! | record | image | effect |
//! |---|---|---|
//! | `PutObject` | bucket is missing | none; its open bodies are given up |
//! | `UploadPart` | bucket or upload is missing | none; its open bodies are given up |
//! | `CompleteMultipartUpload` | bucket or upload is missing | none; its open bodies are given up |
//! | `CreateMultipartUpload` | bucket is missing, or the id is no upload id | none |
//! | `CreateMultipartUpload` | upload is there | its metadata is replaced, its parts stay |
//! | `DeleteObject`, `AbortMultipartUpload`, `DeleteAccessKey`, `DeleteUser` | nothing there | none |
//! | `CreateBucket` | bucket is there, or the name is no bucket name | none: the first one stays |
//! | `DeleteBucket` | bucket is missing or has objects | none |
//! | `AbandonBody` | body is not open | none |
//!
//! Bodies that an op refers to are counted before those that it displaces are released, so that a body which is in both
//! never passes through a count of 0.

use bytes::Bytes;
use prost::Message;

use super::batch::Batch;
use super::bodies;
use crate::id::Seq;
use crate::image::ImageError;
use crate::image::keys;
use crate::op::{
    AccessKey, CompleteMultipartUpload, CreateBucket, CreateMultipartUpload, Data, Extent, Mutation, Object, Part,
    PutAccessKey, PutObject, UploadPart,
};
use crate::record::{Header, Record};

fn corrupt(what: &str) -> impl FnOnce(prost::DecodeError) -> ImageError {
    move |error| ImageError::Corrupt(format!("{what}: {error}"))
}

fn value(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

/// Carries one record out. Of a `Data` record the payload is not needed.
pub(super) fn effect(batch: &mut Batch, record: Record) -> Result<(), ImageError> {
    let header = record.header;
    let seq = header.seq;
    match record.mutation()? {
        Mutation::Data(op) => data(batch, &record, &op),
        Mutation::PutObject(op) => put_object(batch, &header, op, record.payload),
        Mutation::DeleteObject(op) => {
            let key = keys::object(&op.bucket, &op.key);
            // Without this a name with a NUL in it could hit another bucket's object.
            if !has_bucket(batch, &op.bucket)? {
                return Ok(());
            }
            displace(batch, seq, &key)?;
            batch.delete(key);
            Ok(())
        }
        Mutation::CreateBucket(op) => create_bucket(batch, &header, op),
        Mutation::DeleteBucket(op) => delete_bucket(batch, seq, &op.bucket),
        Mutation::CreateMultipartUpload(op) => create_upload(batch, &header, op),
        Mutation::UploadPart(op) => upload_part(batch, &header, op),
        Mutation::CompleteMultipartUpload(op) => complete_upload(batch, &header, op),
        Mutation::AbortMultipartUpload(op) => {
            let key = keys::upload(&op.bucket, &op.key, &op.upload_id);
            if has_upload(batch, &op.bucket, &key, &op.upload_id)? {
                end_upload(batch, seq, key, &op.upload_id)?;
            }
            Ok(())
        }
        Mutation::PutAccessKey(op) => {
            put_access_key(batch, &header, op);
            Ok(())
        }
        Mutation::DeleteAccessKey(op) => {
            batch.delete(keys::access_key(&op.access_key));
            Ok(())
        }
        Mutation::PutUser(op) => {
            batch.put(keys::user(&op.name), value(&op.user));
            Ok(())
        }
        Mutation::DeleteUser(op) => delete_user(batch, &op.name),
        Mutation::AbandonBody(op) => bodies::give_up(batch, seq, op.body.into()),
        Mutation::BeginEpoch(_) => bodies::give_up_before(batch, seq, header.epoch),
    }
}

fn data(batch: &mut Batch, record: &Record, op: &Data) -> Result<(), ImageError> {
    bodies::extend(batch, record.body_of(op), op.index, u64::from(record.header.payload_len))
}

fn has_bucket(batch: &mut Batch, bucket: &str) -> Result<bool, ImageError> {
    Ok(batch.get(&keys::bucket(bucket))?.is_some())
}

fn has_upload(batch: &mut Batch, bucket: &str, key: &[u8], upload_id: &str) -> Result<bool, ImageError> {
    Ok(keys::is_upload_id(upload_id) && has_bucket(batch, bucket)? && batch.get(key)?.is_some())
}

fn put_object(batch: &mut Batch, header: &Header, op: PutObject, payload: Bytes) -> Result<(), ImageError> {
    if !has_bucket(batch, &op.bucket)? {
        return bodies::reject(batch, header.seq, &op.object.extents);
    }
    let key = keys::object(&op.bucket, &op.key);
    make_current(batch, header, key, Object { inline: payload, ..op.object })
}

/// Makes `object` the current version and drops the one before it.
fn make_current(batch: &mut Batch, header: &Header, key: Vec<u8>, mut object: Object) -> Result<(), ImageError> {
    object.modified_ms = header.time_ms;
    object.seq = header.seq.0;
    bodies::refer(batch, &object.extents)?;
    displace(batch, header.seq, &key)?;
    batch.put(key, keys::encode_object(object));
    Ok(())
}

fn displace(batch: &mut Batch, seq: Seq, key: &[u8]) -> Result<(), ImageError> {
    match batch.get(key)? {
        Some(old) => bodies::release(batch, seq, &keys::decode_object_meta(&old)?.extents),
        None => Ok(()),
    }
}

fn create_bucket(batch: &mut Batch, header: &Header, op: CreateBucket) -> Result<(), ImageError> {
    if keys::is_bucket_name(&op.bucket) && !has_bucket(batch, &op.bucket)? {
        let mut meta = op.meta;
        meta.created_ms = header.time_ms;
        batch.put(keys::bucket(&op.bucket), value(&meta));
    }
    Ok(())
}

fn delete_bucket(batch: &mut Batch, seq: Seq, bucket: &str) -> Result<(), ImageError> {
    let objects = keys::object(bucket, "");
    if !has_bucket(batch, bucket)? || batch.any(&objects, &keys::successor(&objects))? {
        return Ok(());
    }
    let uploads = keys::uploads(bucket, "");
    for (key, _) in batch.scan(&uploads, &keys::successor(&uploads))? {
        let Some((_, upload_id)) = keys::split_upload(&key, uploads.len()) else {
            return Err(ImageError::Corrupt(format!("key of an upload in bucket {bucket}")));
        };
        end_upload(batch, seq, key, &upload_id)?;
    }
    batch.delete(keys::bucket(bucket));
    Ok(())
}

fn create_upload(batch: &mut Batch, header: &Header, op: CreateMultipartUpload) -> Result<(), ImageError> {
    if keys::is_upload_id(&op.upload_id) && has_bucket(batch, &op.bucket)? {
        let mut upload = op.upload;
        upload.initiated_ms = header.time_ms;
        batch.put(keys::upload(&op.bucket, &op.key, &op.upload_id), value(&upload));
    }
    Ok(())
}

fn upload_part(batch: &mut Batch, header: &Header, op: UploadPart) -> Result<(), ImageError> {
    let upload = keys::upload(&op.bucket, &op.key, &op.upload_id);
    if !has_upload(batch, &op.bucket, &upload, &op.upload_id)? {
        return bodies::reject(batch, header.seq, &op.part.extents);
    }
    bodies::refer(batch, &op.part.extents)?;
    let key = keys::part(&op.upload_id, op.part_number);
    if let Some(old) = batch.get(&key)? {
        bodies::release(batch, header.seq, &part_extents(&old)?)?;
    }
    batch.put(key, value(&Part { modified_ms: header.time_ms, ..op.part }));
    Ok(())
}

fn part_extents(stored: &[u8]) -> Result<Vec<Extent>, ImageError> {
    Ok(Part::decode(stored).map_err(corrupt("part"))?.extents)
}

fn complete_upload(batch: &mut Batch, header: &Header, op: CompleteMultipartUpload) -> Result<(), ImageError> {
    let upload = keys::upload(&op.bucket, &op.key, &op.upload_id);
    if !has_upload(batch, &op.bucket, &upload, &op.upload_id)? {
        return bodies::reject(batch, header.seq, &op.object.extents);
    }
    let key = keys::object(&op.bucket, &op.key);
    make_current(batch, header, key, Object { inline: Bytes::new(), ..op.object })?;
    end_upload(batch, header.seq, upload, &op.upload_id)
}

/// Removes an upload with its parts. What a completed object took over has been counted for it before.
fn end_upload(batch: &mut Batch, seq: Seq, upload: Vec<u8>, upload_id: &str) -> Result<(), ImageError> {
    let parts = keys::parts(upload_id);
    for (key, stored) in batch.scan(&parts, &keys::successor(&parts))? {
        bodies::release(batch, seq, &part_extents(&stored)?)?;
        batch.delete(key);
    }
    batch.delete(upload);
    Ok(())
}

fn put_access_key(batch: &mut Batch, header: &Header, op: PutAccessKey) {
    let key = AccessKey { created_ms: header.time_ms, ..op.key };
    batch.put(keys::access_key(&op.access_key), value(&key));
}

fn delete_user(batch: &mut Batch, name: &str) -> Result<(), ImageError> {
    let from = [keys::ACCESS_KEY];
    for (key, stored) in batch.scan(&from, &keys::successor(&from))? {
        if AccessKey::decode(stored).map_err(corrupt("access key"))?.user == name {
            batch.delete(key);
        }
    }
    batch.delete(keys::user(name));
    Ok(())
}
