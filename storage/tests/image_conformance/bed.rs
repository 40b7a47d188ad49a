//! What the cases run on: either engine with an image in it and a history that grows record by record.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use lockstep_storage::id::{BodyId, Epoch, NodeId, Origin, Position, Seq};
use lockstep_storage::image::memory::MemoryEngine;
use lockstep_storage::image::rocks::{RocksEngine, RocksOptions, RocksShared};
use lockstep_storage::image::{Engine, Family, Image};
use lockstep_storage::op::{
    AbandonBody, BeginEpoch, Bucket, CHUNK_LEN, CompleteMultipartUpload, CreateBucket, CreateMultipartUpload, Data,
    DeleteObject, Extent, Mutation, Object, Part, PutObject, Upload, UploadPart,
};
use lockstep_storage::record::{Draft, Place, Record};
use tempfile::TempDir;

pub(crate) fn origin() -> Origin {
    Origin::new("site-a").expect("a name")
}

/// Makes records that follow each other.
#[derive(Clone)]
pub(crate) struct History {
    pub last: Position,
    pub epoch: Epoch,
    pub time_ms: u64,
}

impl Default for History {
    fn default() -> Self {
        let epoch = Epoch { counter: 1, node: NodeId(7) };
        Self { last: Position::default(), epoch, time_ms: 1_000 }
    }
}

impl History {
    pub(crate) fn record(&mut self, mutation: Mutation, payload: &[u8]) -> Record {
        self.time_ms += 1;
        let place = Place {
            parent: self.last,
            epoch: self.epoch,
            committed: self.last.seq,
            persisted: self.last.seq,
            time_ms: self.time_ms,
        };
        let draft = Draft::new(mutation, Bytes::copy_from_slice(payload)).expect("within bounds");
        let record = draft.place(&place);
        self.last = record.position();
        record
    }

    pub(crate) fn begin_epoch(&mut self) -> Record {
        self.epoch = self.epoch.next(NodeId(9));
        self.record(Mutation::BeginEpoch(BeginEpoch { node: "site-b".into() }), b"")
    }

    /// The records of a body, and the extent that names it. Chunks here are as small as the test wants.
    pub(crate) fn body(&mut self, chunks: &[&[u8]]) -> (Vec<Record>, Extent) {
        let mut records: Vec<Record> = Vec::new();
        let id = BodyId { epoch: self.epoch, seq: self.last.seq.next() };
        for (index, chunk) in (0..).zip(chunks) {
            let body = (index > 0).then(|| id.into());
            records.push(self.record(Mutation::Data(Data { body, index }), chunk));
        }
        let len = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        let chunk_len = chunks.first().map_or(CHUNK_LEN, |chunk| chunk.len());
        let chunk_len = u32::try_from(chunk_len).expect("small");
        (records, Extent { body: id.into(), len, chunk_len, part_number: 0 })
    }
}

pub(crate) fn create_bucket(bucket: &str) -> Mutation {
    Mutation::CreateBucket(CreateBucket { bucket: bucket.into(), meta: Bucket::default() })
}

pub(crate) fn put_object(bucket: &str, key: &str, extents: &[Extent]) -> Mutation {
    let len = extents.iter().map(|extent| extent.len).sum();
    let object = Object { len, etag: "e".into(), extents: extents.to_vec(), ..Object::default() };
    Mutation::PutObject(PutObject { bucket: bucket.into(), key: key.into(), object })
}

pub(crate) fn delete_object(bucket: &str, key: &str) -> Mutation {
    Mutation::DeleteObject(DeleteObject { bucket: bucket.into(), key: key.into() })
}

pub(crate) fn create_upload(bucket: &str, key: &str, upload_id: &str) -> Mutation {
    let (bucket, key, upload_id) = (bucket.into(), key.into(), upload_id.into());
    Mutation::CreateMultipartUpload(CreateMultipartUpload { bucket, key, upload_id, upload: Upload::default() })
}

pub(crate) fn upload_part(bucket: &str, key: &str, upload_id: &str, part_number: u32, extents: &[Extent]) -> Mutation {
    let part = Part { extents: extents.to_vec(), ..Part::default() };
    let (bucket, key, upload_id) = (bucket.into(), key.into(), upload_id.into());
    Mutation::UploadPart(UploadPart { bucket, key, upload_id, part_number, part })
}

pub(crate) fn complete_upload(bucket: &str, key: &str, upload_id: &str, extents: &[Extent]) -> Mutation {
    let object = Object { extents: extents.to_vec(), ..Object::default() };
    let (bucket, key, upload_id) = (bucket.into(), key.into(), upload_id.into());
    Mutation::CompleteMultipartUpload(CompleteMultipartUpload { bucket, key, upload_id, object })
}

pub(crate) fn abandon(extent: Extent) -> Mutation {
    Mutation::AbandonBody(AbandonBody { body: extent.body })
}

/// An upload id that ends with a number.
pub(crate) fn upload_id(number: u32) -> String {
    format!("{number:032x}")
}

enum Kind {
    Memory(Arc<MemoryEngine>),
    Rocks(Arc<RocksEngine>, TempDir),
}

/// An engine with an image and the history in it.
pub(crate) struct Bed {
    // In this order: an engine is closed before its directory goes.
    pub image: Image,
    kind: Kind,
    pub history: History,
}

pub(crate) fn rocks_options(dir: &Path) -> RocksOptions {
    RocksOptions::new(dir, origin(), RocksShared::new(16 << 20, 64 << 20))
}

impl Bed {
    pub(crate) fn memory() -> Self {
        Self::of_memory(MemoryEngine::new(), History::default())
    }

    pub(crate) fn of_memory(engine: MemoryEngine, history: History) -> Self {
        let engine = Arc::new(engine);
        Self { image: Image::new(engine.clone()), kind: Kind::Memory(engine), history }
    }

    pub(crate) fn rocks() -> Self {
        Self::of_rocks(TempDir::new().expect("a directory"), History::default())
    }

    fn of_rocks(dir: TempDir, history: History) -> Self {
        // In a directory of its own: what is frozen lies beside it.
        let engine_dir = dir.path().join("1");
        fs::create_dir_all(&engine_dir).expect("makes a directory");
        let engine = Arc::new(RocksEngine::open(&rocks_options(&engine_dir)).expect("opens"));
        Self { image: Image::new(engine.clone()), kind: Kind::Rocks(engine, dir), history }
    }

    /// An empty one on the same kind of engine.
    pub(crate) fn another(&self) -> Self {
        match self.kind {
            Kind::Memory(_) => Self::memory(),
            Kind::Rocks(..) => Self::rocks(),
        }
    }

    /// Copies the engine's files into a directory.
    pub(crate) fn copy_engine(&self, to: &Path) {
        if let Kind::Rocks(_, dir) = &self.kind {
            copy_files(&dir.path().join("1"), to);
        }
    }

    pub(crate) fn engine(&self) -> Arc<dyn Engine> {
        match &self.kind {
            Kind::Memory(engine) => engine.clone(),
            Kind::Rocks(engine, _) => engine.clone(),
        }
    }

    /// Appends and applies one record.
    pub(crate) fn write(&mut self, mutation: Mutation, payload: &[u8]) -> Seq {
        let record = self.history.record(mutation, payload);
        self.take(&[record])
    }

    /// Appends and applies the records of a body.
    pub(crate) fn write_body(&mut self, chunks: &[&[u8]]) -> Extent {
        let (records, extent) = self.history.body(chunks);
        self.take(&records);
        extent
    }

    /// Appends and applies records.
    pub(crate) fn take(&mut self, records: &[Record]) -> Seq {
        let last = self.image.append(records).expect("appends").seq;
        assert_eq!(self.image.apply(last, usize::MAX).expect("applies").seq, last);
        last
    }

    /// What a new process finds after a crash now. The
    /// double loses all but `survive` commits since the last flush; RocksDB what it has not flushed by itself.
    pub(crate) fn crash(self, survive: usize) -> Self {
        let Self { image, kind, history } = self;
        match kind {
            Kind::Memory(engine) => Self::of_memory(engine.crash(survive), history),
            Kind::Rocks(engine, dir) => {
                // Closing would flush. What lies in the directory now is what a crash leaves.
                // A compaction may go on beside the copying: then the copy is of no moment at all.
                let copied = || {
                    let copy = TempDir::new().expect("a directory");
                    copy_files(dir.path(), copy.path());
                    RocksEngine::open(&rocks_options(&copy.path().join("1"))).is_ok().then_some(copy)
                };
                let copy = (0..100).find_map(|_| copied()).expect("a copy that opens");
                drop((image, engine, dir));
                Self::of_rocks(copy, history)
            }
        }
    }

    /// How many chunks the container has, each with its checksum.
    pub(crate) fn chunks(&self) -> usize {
        let keys = self.dump(Family::Body, b"");
        let chunks = keys.iter().filter(|(key, _)| key.len() == 28).count();
        assert_eq!(keys.len(), 2 * chunks);
        chunks
    }

    /// Everything in a family, for comparisons.
    pub(crate) fn dump(&self, family: Family, from: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut found = Vec::new();
        let each = &mut |key: &[u8], value: &[u8]| {
            found.push((key.to_vec(), value.to_vec()));
            true
        };
        self.engine().snapshot().scan(family, from, &[0xff; 40], each).expect("reads");
        found
    }
}

pub(crate) fn copy_files(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("reads") {
        let entry = entry.expect("reads");
        let copy = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir_all(&copy).expect("makes a directory");
            copy_files(&entry.path(), &copy);
        } else {
            // A compaction may remove what nothing refers to any more.
            match fs::copy(entry.path(), copy) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                copied => drop(copied.expect("copies")),
            }
        }
    }
}

pub(crate) fn body_of(extent: Extent) -> BodyId {
    extent.body.into()
}
