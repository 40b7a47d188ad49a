//! Digests of parts of an image, to find where two of them differ: all keys are cut into parts, each in one number; where
//! the numbers of two images are not the same the part is cut again, and where few entries are left they are named.
//!
//! What is in the parts is what [`View::digest`] has, and in the deep ones the bytes of bodies too. Bytes that are damaged,
//! missing or cannot be read are counted and named here, where [`View::digest_bodies`] ends at the first of them. Streaming:
//! memory is bounded by how many parts or entries the caller asks for.

use crc_fast::{CrcAlgorithm, Digest};

use super::{BodiesDigest, View, decode};
use crate::image::{Family, ImageError, keys};
use crate::op::{Extent, Part};

/// The keys of everything that S3 clients can see begin here, and end before [`END`].
const BEGIN: &[u8] = &[keys::BUCKET];
const END: &[u8] = &[keys::USER + 1];

/// Keys of an image from the first up to and without the second; both empty: all that there are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyRange {
    /// The first one.
    pub from: Vec<u8>,
    /// The first one behind; empty for the end.
    pub until: Vec<u8>,
}

/// Where a range is cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cut {
    /// After so many entries each, into at most so many parts: the last one has the rest.
    Every(u64, usize),
    /// Before each of these keys, which rise.
    Before(Vec<Vec<u8>>),
}

/// A part in a few numbers. Two images of one origin with the same `applied` have the same in the same part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartDigest {
    /// The first key behind it; empty for the end.
    pub until: Vec<u8>,
    /// Entries in it.
    pub entries: u64,
    /// CRC-64/NVME over all of them in order.
    pub checksum: u64,
    /// The bytes of their bodies, where they were asked for.
    pub bodies: Option<BodiesDigest>,
    /// Entries whose bodies are not whole.
    pub damaged: u64,
}

/// An entry of an image, by its name and in a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryDigest {
    /// Its key, which orders it among others.
    pub key: Vec<u8>,
    /// What it is.
    pub name: EntryName,
    /// CRC-64/NVME over it.
    pub checksum: u64,
    /// The bytes of its body, where they were asked for.
    pub bodies: Option<BodiesDigest>,
    /// What is wrong with its body, in one sentence.
    pub damage: Option<String>,
}

/// What an entry is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryName {
    /// A bucket.
    Bucket(String),
    /// Bucket and key of an object.
    Object(String, String),
    /// Bucket, key and upload id.
    Upload(String, String, String),
    /// Upload id and number of a part.
    Part(String, u32),
    /// Id of an access key.
    AccessKey(String),
    /// Name of a user.
    User(String),
    /// A key that this version does not know, or that is damaged.
    Unknown,
}

/// What comes together over entries.
struct Sum {
    image: Digest,
    entries: u64,
    bodies: Option<(Digest, u64)>,
    damaged: u64,
}

impl Sum {
    fn new(deep: bool) -> Self {
        let digest = || Digest::new(CrcAlgorithm::Crc64Nvme);
        Self { image: digest(), entries: 0, bodies: deep.then(|| (digest(), 0)), damaged: 0 }
    }

    fn bodies(&self) -> Option<BodiesDigest> {
        self.bodies.as_ref().map(|(digest, bytes)| BodiesDigest { bytes: *bytes, checksum: digest.finalize() })
    }

    fn part(self, until: &[u8]) -> PartDigest {
        PartDigest {
            until: until.to_vec(),
            entries: self.entries,
            checksum: self.image.finalize(),
            bodies: self.bodies(),
            damaged: self.damaged,
        }
    }
}

impl View {
    /// Digests a range in parts, with `deep` their bodies too. Cut before keys it has one part more than keys, also where
    /// there is nothing in it.
    ///
    /// # Errors
    /// When the engine cannot read the image. What is wrong with bodies is in the parts.
    pub fn digest_parts(&self, range: &KeyRange, cut: &Cut, deep: bool) -> Result<Vec<PartDigest>, ImageError> {
        let (mut parts, mut sum) = (Vec::new(), Sum::new(deep));
        self.each(range, &mut |key, value| {
            match cut {
                Cut::Every(entries, most) if sum.entries >= *entries && parts.len() + 1 < *most => {
                    parts.push(std::mem::replace(&mut sum, Sum::new(deep)).part(key));
                }
                Cut::Every(..) => {}
                Cut::Before(keys) => {
                    while let Some(cut) = keys.get(parts.len()).filter(|cut| cut.as_slice() <= key) {
                        parts.push(std::mem::replace(&mut sum, Sum::new(deep)).part(cut));
                    }
                }
            }
            self.add(key, value, &mut sum);
            true
        })?;
        if let Cut::Before(keys) = cut {
            while let Some(cut) = keys.get(parts.len()) {
                parts.push(std::mem::replace(&mut sum, Sum::new(deep)).part(cut));
            }
        }
        parts.push(sum.part(&range.until));
        Ok(parts)
    }

    /// The first entries of a range, at most `limit`, with `deep` their bodies too.
    ///
    /// # Errors
    /// As [`View::digest_parts`].
    pub fn digest_entries(&self, range: &KeyRange, limit: usize, deep: bool) -> Result<Vec<EntryDigest>, ImageError> {
        let mut entries = Vec::new();
        self.each(range, &mut |key, value| {
            if entries.len() == limit {
                return false;
            }
            let mut sum = Sum::new(deep);
            let damage = self.add(key, value, &mut sum);
            let (bodies, checksum) = (sum.bodies(), sum.image.finalize());
            entries.push(EntryDigest { key: key.to_vec(), name: name(key), checksum, bodies, damage });
            true
        })?;
        Ok(entries)
    }

    /// Everything in a range that clients can see, until `each` says `false`.
    fn each(&self, range: &KeyRange, each: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), ImageError> {
        let from = BEGIN.max(&range.from);
        let until = if range.until.is_empty() { END } else { END.min(&range.until) };
        if from >= until {
            return Ok(());
        }
        self.tables.scan(Family::Image, from, until, each)
    }

    /// Adds an entry; what is wrong with its body, where that is asked for.
    fn add(&self, key: &[u8], value: &[u8], sum: &mut Sum) -> Option<String> {
        // The lengths, so that no byte can move from a key to its value.
        for run in [key, value] {
            sum.image.update(&(run.len() as u64).to_be_bytes());
            sum.image.update(run);
        }
        sum.entries += 1;
        let (digest, bytes) = sum.bodies.as_mut()?;
        let read = extents(key, value).and_then(|extents| {
            extents.iter().try_for_each(|extent| {
                *bytes += self.digest_extent(extent, digest)?;
                Ok(())
            })
        });
        let damage = read.err().map(|error| error.to_string());
        sum.damaged += u64::from(damage.is_some());
        damage
    }
}

/// Where an entry's bytes are.
fn extents(key: &[u8], value: &[u8]) -> Result<Vec<Extent>, ImageError> {
    match key.first() {
        Some(&keys::OBJECT) => Ok(keys::decode_object_meta(value)?.extents),
        Some(&keys::PART) => Ok(decode::<Part>(value, "part")?.extents),
        _ => Ok(Vec::new()),
    }
}

fn name(key: &[u8]) -> EntryName {
    known_name(key).unwrap_or(EntryName::Unknown)
}

fn known_name(key: &[u8]) -> Option<EntryName> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    let (kind, rest) = key.split_first()?;
    Some(match *kind {
        keys::BUCKET => EntryName::Bucket(text(rest)?),
        keys::OBJECT => {
            let end = rest.iter().position(|byte| *byte == 0)?;
            EntryName::Object(text(&rest[..end])?, text(&rest[end + 1..])?)
        }
        keys::UPLOAD => {
            let end = rest.iter().position(|byte| *byte == 0)?;
            // The prefix, the bucket and the NUL behind it.
            let (object, id) = keys::split_upload(key, end + 2)?;
            EntryName::Upload(text(&rest[..end])?, object, id)
        }
        keys::PART => EntryName::Part(text(rest.get(..keys::UPLOAD_ID_LEN)?)?, keys::part_number(key)?),
        keys::ACCESS_KEY => EntryName::AccessKey(text(rest)?),
        keys::USER => EntryName::User(text(rest)?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::id::{BodyId, Epoch, NodeId, Seq};
    use crate::image::memory::MemoryEngine;
    use crate::image::{Change, Engine, Image};
    use crate::op::Object;
    use crate::record::payload_crc;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    fn body() -> BodyId {
        BodyId { epoch: Epoch { counter: 1, node: NodeId(2) }, seq: Seq(3) }
    }

    fn object(len: u64) -> Bytes {
        let extent = Extent { body: body().into(), len, chunk_len: 4, part_number: 0 };
        keys::encode_object(Object { extents: vec![extent], ..Object::default() })
    }

    /// An image with all kinds of entries, marks and bodies' bookkeeping between them, and an object with two chunks.
    fn image() -> (Arc<MemoryEngine>, Image) {
        let engine = Arc::new(MemoryEngine::new());
        let mut changes: Vec<Change> = [
            (keys::bucket("bk"), Bytes::from_static(b"b")),
            (keys::object("bk", "a\0b"), object(0)),
            (keys::object("bk", "k"), object(6)),
            (keys::upload("bk", "a\0b", ID), Bytes::from_static(b"u")),
            (keys::part(ID, 7), Bytes::new()),
            (keys::access_key("AK"), Bytes::from_static(b"secret")),
            (keys::user("alice"), Bytes::from_static(b"a")),
            (keys::body(body()), Bytes::from_static(b"not seen by clients")),
            (vec![keys::MARK, b'x'], Bytes::from_static(b"not either")),
        ]
        .map(|(key, value)| Change::Put(Family::Image, key, value))
        .into();
        for (index, chunk) in [&b"four"[..], b"52"].into_iter().enumerate() {
            let (index, crc) = (index as u32, Bytes::copy_from_slice(&payload_crc(chunk).to_be_bytes()));
            changes.push(Change::Put(Family::Body, keys::chunk(body(), index), Bytes::from_static(chunk)));
            changes.push(Change::Put(Family::Body, keys::chunk_crc(body(), index), crc));
        }
        engine.commit(changes).expect("commits");
        (Arc::clone(&engine), Image::new(engine))
    }

    #[test]
    fn a_whole_range_in_one_part_is_the_digest_of_the_image_and_its_bodies() {
        let view = image().1.view();
        let [whole] = &view.digest_parts(&KeyRange::default(), &Cut::Every(1, 1), true).unwrap()[..] else {
            panic!("one part")
        };
        let (image, bodies) = (view.digest().unwrap(), view.digest_bodies().unwrap());
        assert_eq!((whole.entries, whole.checksum, whole.bodies), (image.entries, image.checksum, Some(bodies)));
        assert_eq!((whole.damaged, whole.until.len()), (0, 0));
    }

    #[test]
    fn parts_are_cut_alike_by_entries_and_by_keys_and_every_entry_is_in_one() {
        let view = image().1.view();
        for (every, most) in [(1, 100), (2, 100), (3, 2), (7, 100), (100, 100)] {
            let parts = view.digest_parts(&KeyRange::default(), &Cut::Every(every, most), false).unwrap();
            assert_eq!(parts.iter().map(|part| part.entries).sum::<u64>(), 7);
            let cuts: Vec<_> = parts[..parts.len() - 1].iter().map(|part| part.until.clone()).collect();
            assert_eq!(view.digest_parts(&KeyRange::default(), &Cut::Before(cuts), false).unwrap(), parts);
            let mut from = Vec::new();
            for part in parts {
                let range = KeyRange { from, until: part.until.clone() };
                assert_eq!(view.digest_parts(&range, &Cut::Every(1, 1), false).unwrap(), std::slice::from_ref(&part));
                from = part.until;
            }
        }
        // Before the first entry, twice between two, and behind the last: parts with nothing in them.
        let cuts = [vec![0], keys::object("bk", "b"), keys::object("bk", "c"), vec![0xff]];
        let parts = view.digest_parts(&KeyRange::default(), &Cut::Before(cuts.into()), false).unwrap();
        assert_eq!(parts.iter().map(|part| part.entries).collect::<Vec<_>>(), [0, 2, 0, 5, 0]);
    }

    #[test]
    fn entries_are_named_and_what_is_wrong_with_a_body_is_said() {
        let (engine, image) = image();
        let names = |deep| image.view().digest_entries(&KeyRange::default(), 100, deep).unwrap();
        let text = String::from;
        let expected = [
            EntryName::Bucket(text("bk")),
            EntryName::Object(text("bk"), text("a\0b")),
            EntryName::Object(text("bk"), text("k")),
            EntryName::Upload(text("bk"), text("a\0b"), text(ID)),
            EntryName::Part(text(ID), 7),
            EntryName::AccessKey(text("AK")),
            EntryName::User(text("alice")),
        ];
        assert_eq!(names(false).into_iter().map(|entry| entry.name).collect::<Vec<_>>(), expected);
        assert!(names(true).iter().all(|entry| entry.damage.is_none()));
        assert_eq!(names(true)[2].bodies.map(|bodies| bodies.bytes), Some(6));
        engine.commit(vec![Change::Put(Family::Body, keys::chunk(body(), 1), Bytes::from_static(b"53"))]).unwrap();
        let entries = names(true);
        let damaged: Vec<_> = entries.iter().filter_map(|entry| Some((&entry.name, entry.damage.clone()?))).collect();
        assert!(damaged.len() == 1 && *damaged[0].0 == expected[2], "{damaged:?}");
        assert!(damaged[0].1.contains("chunk 1") && damaged[0].1.contains("checksum"), "{damaged:?}");
        let parts = image.view().digest_parts(&KeyRange::default(), &Cut::Every(1, 100), true).unwrap();
        assert_eq!(parts.iter().map(|part| part.damaged).collect::<Vec<_>>(), [0, 0, 1, 0, 0, 0, 0]);
        // A key and a value that no version wrote.
        let put = |key, value| Change::Put(Family::Image, key, Bytes::from_static(value));
        engine.commit(vec![put(vec![keys::UPLOAD], b"?"), put(keys::object("bk", "z"), b"?")]).unwrap();
        let entries = names(true);
        assert!(entries.iter().any(|entry| entry.name == EntryName::Unknown));
        assert!(entries.iter().any(|entry| entry.damage.as_deref() == Some("corrupt: object metadata")));
        assert_eq!(image.view().digest_entries(&KeyRange::default(), 3, false).unwrap().len(), 3);
    }
}
