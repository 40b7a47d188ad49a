//! What clients' ops carry: objects, and the extents of their bodies.

use lockstep_storage::id::BodyId;
use lockstep_storage::op::{self, Mutation};

use super::{bucket_name, bucket_of, key_name};
use crate::sim::site::CHUNK_LEN;

pub(super) fn put(key: u8, object: op::Object) -> Mutation {
    let (bucket, key) = (bucket_name(bucket_of(key)), key_name(key));
    Mutation::PutObject(op::PutObject { bucket, key, object })
}

pub(super) fn object(len: u64, extents: Vec<op::Extent>, fill: u64) -> op::Object {
    op::Object { len, etag: format!("{fill:x}"), extents, ..op::Object::default() }
}

pub(super) fn extents(body: Option<BodyId>, chunks: u8, part_number: u32) -> (Vec<op::Extent>, u64) {
    let len = u64::from(chunks) * u64::from(CHUNK_LEN);
    let extent = body.map(|body| op::Extent { body: body.into(), len, chunk_len: CHUNK_LEN, part_number });
    (extent.into_iter().collect(), len)
}
