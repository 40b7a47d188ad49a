//! The chunks beside a tail: those that its objects need from before its first record. A directory has them, with a file for
//! every body, named after its id. In it lie the chunks in their order, each in a `Data` record of its own, and each the child
//! of the one before: so [`super::reader`] reads and verifies them as it does a tail. These records were never in a log: their
//! seqs only count them.
//!
//! A cut that is tried again gives the same chunks from the first one on: what the file has is passed over. Behind its last
//! sound chunk it is cut off: that is given again too.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use lockstep_storage::id::{BodyId, Position, Seq};
use lockstep_storage::op::{Data, Mutation};
use lockstep_storage::record::{Draft, Place, Record};

use super::reader::{Head, Reader};
use crate::worker::Chunk;

/// The file of a body in the directory beside a tail.
pub(super) fn path_of(dir: &Path, body: BodyId) -> PathBuf {
    let BodyId { epoch, seq } = body;
    dir.join(format!("{:x}-{:016x}-{seq}", epoch.counter, epoch.node.0))
}

/// Which chunk of a body a record has; none where it has another one's.
pub(super) fn index_of(head: &Head, body: BodyId) -> Option<u32> {
    let record = head.record();
    match record.mutation() {
        Ok(Mutation::Data(data)) if record.body_of(&data) == body => Some(data.index),
        _ => None,
    }
}

/// Bytes of what lies beside a tail; 0 where nothing does.
pub(super) fn bytes_of(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    // What is discarded meanwhile counts for nothing.
    for path in files(dir)? {
        bytes += std::fs::metadata(path).map_or(0, |file| file.len());
    }
    Ok(bytes)
}

/// How many bodies beside a tail are damaged.
pub(super) fn damaged_in(dir: &Path) -> io::Result<u64> {
    let mut damaged = 0;
    for path in files(dir)? {
        let mut reader = match Reader::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened?,
        };
        let mut sound = true;
        while let Some(head) = reader.next_head()? {
            sound &= reader.payload(&head)?.is_ok();
        }
        damaged += u64::from(!sound || reader.damage().is_some());
    }
    Ok(damaged)
}

/// Removes what lies beside a tail, where something does.
pub(super) fn discard(dir: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.path())).collect(),
    }
}

/// A body's file, at its end.
pub(super) struct BodyFile {
    body: BodyId,
    file: File,
    /// The last chunk in it.
    last: Option<u32>,
    /// The record that it lies in.
    parent: Position,
    len: u64,
}

impl BodyFile {
    /// Opens the file of a body, made with its directory where it is not there yet.
    pub(super) fn open(dir: &Path, body: BodyId) -> io::Result<Self> {
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
        // The name, also one that a crash left without.
        if let Some(parent) = dir.parent() {
            File::open(parent)?.sync_all()?;
        }
        let path = path_of(dir, body);
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
        File::open(dir)?.sync_all()?;
        let parent = Position { epoch: body.epoch, seq: Seq::ZERO, checksum: 0 };
        let mut opened = Self { body, file, last: None, parent, len: 0 };
        let mut there = Reader::open(&path)?;
        while let Some(head) = there.next_head()? {
            let child = (head.header.parent, head.header.seq) == (opened.parent.checksum, opened.parent.seq.next());
            let index = index_of(&head, body).filter(|index| child && opened.last.is_none_or(|last| last < *index));
            if index.is_none() || there.payload(&head)?.is_err() {
                break;
            }
            (opened.last, opened.parent, opened.len) = (index, head.position(), there.offset());
        }
        if there.file_len() > opened.len {
            opened.file.set_len(opened.len)?;
        }
        Ok(opened)
    }

    /// Is it the file of this body still? An operator may have discarded it meanwhile.
    pub(super) fn goes_on(&self, body: BodyId) -> bool {
        self.body == body && self.file.metadata().is_ok_and(|file| file.nlink() > 0 && file.len() == self.len)
    }

    /// Appends a chunk, unless the file has it.
    pub(super) fn append(&mut self, chunk: &Chunk) -> io::Result<()> {
        if self.last.is_some_and(|last| chunk.index <= last) {
            return Ok(());
        }
        let record = self.record(chunk)?;
        self.file.write_all(&[&record.head[..], &record.payload[..]].concat())?;
        self.len += record.len() as u64;
        (self.last, self.parent) = (Some(chunk.index), record.position());
        Ok(())
    }

    fn record(&self, chunk: &Chunk) -> io::Result<Record> {
        let data = Data { body: Some(self.body.into()), index: chunk.index };
        let draft = Draft::new(Mutation::Data(data), chunk.bytes.clone()).map_err(io::Error::other)?;
        let place = Place {
            parent: self.parent,
            epoch: self.body.epoch,
            committed: Seq::ZERO,
            persisted: Seq::ZERO,
            time_ms: 0,
        };
        Ok(draft.place(&place))
    }

    /// Makes all of it durable: what was there may have been left unsynced.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.file.sync_all()
    }
}
