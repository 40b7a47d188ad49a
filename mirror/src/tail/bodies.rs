//! Puts the bytes of an object in a tail together. Its body's chunks stand in the tail before it; where the body began before
//! the histories parted, they lie beside the tail, or in the container of this node where it is a copy's or the common
//! history's; where a chunk is in none of them, that is said.
//!
//! Memory is one chunk and an index of bounded size; what an op claims is checked before anything is looked for.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use lockstep_storage::id::{BodyId, Seq};
use lockstep_storage::op::{CHUNK_LEN, Extent, KIND_DATA, Object};

use super::reader::{Head, Reader};
use super::{TailName, Tails, beside};

/// Largest object, in bytes.
const OBJECT_LEN_MAX: u64 = 5 << 40;
/// Most entries of an [`Index`]; two at least.
const ENTRIES_MAX: usize = 16 << 10;

/// A run of an object's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// It is in the tail.
    Tail(Bytes),
    /// It came before the tail, and was set aside with it.
    Beside(Bytes),
    /// It is in the container.
    Container(Bytes),
    /// So many bytes are nowhere.
    Missing(u64),
}

/// Where some of the records begin: a search for one begins at the nearest before it. Of bounded size: when it is full,
/// every second entry goes.
#[derive(Debug)]
pub struct Index {
    entries: Vec<(Seq, u64)>,
    stride: u64,
    noted: u64,
}

impl Default for Index {
    fn default() -> Self {
        Self { entries: Vec::new(), stride: 1, noted: 0 }
    }
}

impl Index {
    /// Notes a record; all of them, in the order of the file.
    pub fn note(&mut self, head: &Head) {
        if !head.follows {
            *self = Self::default();
        }
        if self.noted.is_multiple_of(self.stride) {
            self.entries.push((head.header.seq, head.offset));
        }
        self.noted += 1;
        if self.entries.len() == ENTRIES_MAX {
            let mut keep = false;
            self.entries.retain(|_| {
                keep = !keep;
                keep
            });
            self.stride *= 2;
        }
    }

    /// Where to begin to look for a record; none where it is before the first.
    fn before(&self, seq: Seq) -> Option<u64> {
        let after = self.entries.partition_point(|(noted, _)| *noted <= seq);
        Some(self.entries.get(after.checked_sub(1)?)?.1)
    }

    /// Where the first record is.
    fn first(&self) -> u64 {
        self.entries.first().map_or(0, |(_, offset)| *offset)
    }
}

/// Where chunks come from that are neither in the tail nor beside it: none where there is no such chunk, or it does not verify.
pub type Container<'a> = &'a dyn Fn(BodyId, u32) -> Option<Bytes>;

/// Gives the bytes of an object in order, as pieces: those of the op at `head` in the tail `name`, of which `index` knows
/// everything before. Ends early when `each` says so.
///
/// # Errors
/// When the tail cannot be read, or what `each` returns.
pub fn pieces(
    (tails, name, index): (&Tails, &TailName, &Index),
    head: &Head,
    object: &Object,
    container: Container<'_>,
    each: &mut dyn FnMut(Piece) -> io::Result<()>,
) -> io::Result<()> {
    let sum = object.extents.iter().try_fold(0_u64, |sum, extent| sum.checked_add(extent.len));
    let known = |extent: &Extent| extent.chunk_len as usize == CHUNK_LEN;
    if sum != Some(object.len) || object.len > OBJECT_LEN_MAX || !object.extents.iter().all(known) {
        return each(Piece::Missing(object.len));
    }
    for extent in &object.extents {
        let body = BodyId::from(extent.body);
        let here = index.before(body.seq);
        // A body of before the tail is beside it or in the container; its last chunks may be here.
        let start = here.unwrap_or_else(|| index.first());
        let mut scan = Scan::new(name.path(&tails.dir), start, head.header.seq, body);
        let path = beside::path_of(&name.beside(&tails.dir), body);
        let mut beside = (here.is_none() && path.exists()).then(|| Scan::new(path, 0, Seq(u64::MAX), body));
        // What it is known to have is not looked for in all of the tail.
        let in_container = here.is_none() && beside.is_none();
        let mut at = 0;
        let mut number = 0;
        while at < extent.len {
            let len = (extent.len - at).min(CHUNK_LEN as u64);
            let fits = |bytes: &Bytes| bytes.len() as u64 == len;
            let kept = || container(body, number).filter(fits).map(Piece::Container);
            let piece = if let Some(beside) = &mut beside
                && let Some(bytes) = beside.chunk(number)?.filter(fits)
            {
                Piece::Beside(bytes)
            } else if in_container && let Some(piece) = kept() {
                piece
            } else if let Some(bytes) = scan.chunk(number)?.filter(fits) {
                Piece::Tail(bytes)
            } else {
                kept().unwrap_or(Piece::Missing(len))
            };
            each(piece)?;
            at += len;
            number += 1;
        }
    }
    Ok(())
}

/// Looks for the chunks of a body, forward only: they lie in their order.
struct Scan {
    path: PathBuf,
    start: u64,
    /// The op that names the body: no chunk comes after it.
    until: Seq,
    body: BodyId,
    reader: Option<Reader<File>>,
    /// The chunk that was met last.
    found: Option<(u32, Head)>,
    ended: bool,
}

impl Scan {
    fn new(path: PathBuf, start: u64, until: Seq, body: BodyId) -> Self {
        Self { path, start, until, body, reader: None, found: None, ended: false }
    }

    fn chunk(&mut self, number: u32) -> io::Result<Option<Bytes>> {
        while !self.ended {
            if let Some((index, _)) = self.found
                && index > number
            {
                return Ok(None);
            }
            if let Some((index, head)) = self.found.take()
                && index == number
            {
                let Some(reader) = &mut self.reader else { return Ok(None) };
                return Ok(reader.payload(&head)?.ok());
            }
            self.go_on()?;
        }
        Ok(None)
    }

    /// To the body's next chunk, or to the end.
    fn go_on(&mut self) -> io::Result<()> {
        let reader = match &mut self.reader {
            Some(reader) => reader,
            None => self.reader.insert(Reader::from(File::open(&self.path)?, self.start)?),
        };
        loop {
            let Some(head) = reader.next_head()?.filter(|head| head.header.seq < self.until) else {
                self.ended = true;
                return Ok(());
            };
            if head.header.kind == KIND_DATA
                && let Some(index) = beside::index_of(&head, self.body)
            {
                self.found = Some((index, head));
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use lockstep_storage::id::{Origin, Position};
    use lockstep_storage::op::{self, Data, Mutation};
    use lockstep_storage::record::{Draft, Record};

    use super::super::samples::{EPOCH, chain};
    use super::*;
    use crate::worker::Aside;

    fn data(body: Option<BodyId>, index: u32, byte: u8, len: usize) -> Draft {
        let data = Data { body: body.map(Into::into), index };
        Draft::new(Mutation::Data(data), Bytes::from(vec![byte; len])).unwrap()
    }

    fn body(seq: u64) -> BodyId {
        BodyId { epoch: EPOCH, seq: Seq(seq) }
    }

    fn object(extents: &[(BodyId, u64)]) -> Object {
        let extent = |(body, len): &(BodyId, u64)| Extent {
            body: op::BodyId::from(*body),
            len: *len,
            chunk_len: CHUNK_LEN as u32,
            part_number: 0,
        };
        Object {
            len: extents.iter().map(|(_, len)| len).sum(),
            extents: extents.iter().map(extent).collect(),
            ..Object::default()
        }
    }

    /// Two bodies that came together, one that began before the tail, and an op.
    fn records() -> Vec<Record> {
        let put = op::PutObject { bucket: "b".into(), key: "k".into(), object: Object::default() };
        let drafts = vec![
            data(Some(body(9)), 1, 9, 5),
            data(None, 0, 1, CHUNK_LEN),
            data(None, 0, 2, CHUNK_LEN),
            data(Some(body(12)), 1, 1, 3),
            data(Some(body(13)), 2, 2, 4),
            Draft::new(Mutation::PutObject(put), Bytes::new()).unwrap(),
            data(Some(body(13)), 3, 2, 4),
        ];
        chain(Position { epoch: EPOCH, seq: Seq(10), checksum: 5 }, drafts)
    }

    fn shown(object: &Object, container: Container<'_>) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let tails = Tails::new(dir.path().to_owned());
        let origin = Origin::new("site-a").unwrap();
        tails.writer().take(&origin, EPOCH, Aside::Records(&records())).unwrap();
        let name = TailName::numbered(&origin, EPOCH, 1);
        let (mut index, mut reader, mut shown) = (Index::default(), tails.open(&name).unwrap(), Vec::new());
        while let Some(head) = reader.next_head().unwrap() {
            index.note(&head);
            if head.header.seq != Seq(16) {
                continue;
            }
            pieces((&tails, &name, &index), &head, object, container, &mut |piece| {
                shown.push(match piece {
                    Piece::Tail(bytes) => format!("tail {} {}", bytes[0], bytes.len()),
                    Piece::Beside(bytes) => format!("beside {} {}", bytes[0], bytes.len()),
                    Piece::Container(bytes) => format!("container {} {}", bytes[0], bytes.len()),
                    Piece::Missing(len) => format!("missing {len}"),
                });
                Ok(())
            })
            .unwrap();
        }
        shown
    }

    #[test]
    fn chunks_come_from_the_tail_and_from_the_container_and_what_is_in_neither_is_said() {
        let nothing = |_, _| None;
        let chunk = CHUNK_LEN as u64;
        let two = object(&[(body(13), 2 * chunk + 4), (body(12), chunk + 3)]);
        // Chunk 1 of the first is nowhere.
        let expected = ["tail 2 1048576", "missing 1048576", "tail 2 4", "tail 1 1048576", "tail 1 3"];
        assert_eq!(shown(&two, &nothing), expected);
        let began_before = object(&[(body(9), chunk + 5)]);
        assert_eq!(shown(&began_before, &nothing), ["missing 1048576", "tail 9 5"]);
        let kept = |id: BodyId, index| (id == body(9) && index == 0).then(|| Bytes::from(vec![8; CHUNK_LEN]));
        assert_eq!(shown(&began_before, &kept), ["container 8 1048576", "tail 9 5"]);
        // A chunk of another length is not the one that the op means.
        assert_eq!(shown(&object(&[(body(12), chunk + 4)]), &nothing), ["tail 1 1048576", "missing 4"]);
    }

    #[test]
    fn an_op_that_claims_nonsense_has_no_bytes() {
        let chunk = |_, _| Some(Bytes::from_static(b"x"));
        let mut more = object(&[(body(12), 5)]);
        more.len = 6;
        let mut cut = object(&[(body(12), 5)]);
        cut.extents[0].chunk_len = 0;
        let huge = object(&[(body(12), OBJECT_LEN_MAX + 1)]);
        for nonsense in [more, cut, huge] {
            assert_eq!(shown(&nonsense, &chunk), [format!("missing {}", nonsense.len)]);
        }
    }

    #[test]
    fn an_index_stays_small_and_leads_to_every_record() {
        let record = &records()[0];
        let mut index = Index::default();
        let mut head = Head { header: record.header, bytes: record.head.clone(), offset: 0, follows: true };
        for n in 0..100_000 {
            (head.header.seq, head.offset) = (Seq(100 + n), n);
            index.note(&head);
            assert!(index.entries.len() < ENTRIES_MAX);
        }
        assert_eq!(index.before(Seq(99)), None);
        for n in [0, 1, 12_345, 99_999] {
            let offset = index.before(Seq(100 + n)).unwrap();
            assert!(offset <= n && n - offset < index.stride, "{n}: {offset}");
        }
    }
}
