//! Sets aside what a cut gives: its records, and beside them chunks from before. A cut that is tried again, after a crash or a
//! full disk in the middle of it, gives the same again: what a file has is passed over, and what an interrupted append left
//! is cut off first, so a file never holds a record or a chunk twice.
//!
//! A file holds one history. Where the records neither are those of the file nor follow its last one, the next number of the
//! same name is looked at; so nothing that was ever set aside is written over. What is cut off is never more than one
//! append may have left: with more than that behind its last sound record a file is damaged, and left as it is.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use lockstep_storage::id::{Epoch, Origin, Position};
use lockstep_storage::image::ImageError;
use lockstep_storage::record::{RECORD_LEN_MAX, Record};

use super::beside::BodyFile;
use super::reader::Reader;
use super::{TailName, Tails};
use crate::worker::{Aside, CUT_STEP_LEN, Chunk};

/// The most bytes that an interrupted append may have left: those of one call.
const TORN_LEN_MAX: u64 = (CUT_STEP_LEN + RECORD_LEN_MAX) as u64;
/// Most files of one name.
const NUMBER_MAX: u32 = 999;

/// Appends what one worker's cuts set aside.
pub struct Writer {
    tails: Tails,
    current: Option<Current>,
}

/// Where the last call ended: the next one goes on there if its records follow.
struct Current {
    origin: Origin,
    epoch: Epoch,
    number: u32,
    file: TailEnd,
    given: Position,
    /// The file beside it that chunks were appended to last.
    body: Option<BodyFile>,
}

/// A file on its way to its end: what it holds is compared with what is given, what comes after that is appended.
struct TailEnd {
    file: File,
    /// Reads what was there when it was opened; none when all of it is passed.
    there: Option<Reader<File>>,
    /// The last sound record that was passed or appended.
    last: Option<Position>,
    /// Where it ends.
    end: u64,
    /// Length of the file.
    len: u64,
    /// To be appended.
    fresh: Vec<u8>,
}

/// Where a record belongs.
enum Place {
    /// It is in the file.
    Have,
    /// It was added to what is appended.
    Added,
    /// In another file.
    Elsewhere,
}

impl Writer {
    pub(super) fn new(tails: Tails) -> Self {
        Self { tails, current: None }
    }

    /// Sees to it that the tail holds this step of a cut, durably.
    ///
    /// # Errors
    /// [`ImageError::NoSpace`] can be tried again, from the cut's first step on.
    pub fn take(&mut self, origin: &Origin, epoch: Epoch, step: Aside<'_>) -> Result<(), ImageError> {
        let tails = self.tails.clone();
        let _changing = tails.changing();
        let written = match step {
            Aside::Records(records) => self.write(origin, epoch, records),
            Aside::Chunks(chunks) => self.write_beside(chunks),
        };
        written.map_err(|error| {
            // What is in the file now is found out by the next call.
            self.current = None;
            match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ImageError::NoSpace,
                _ => {
                    let name = TailName::numbered(origin, epoch, 1);
                    ImageError::Engine(format!("{}: {error}", name.path(&tails.dir).display()))
                }
            }
        })
    }

    fn write(&mut self, origin: &Origin, epoch: Epoch, records: &[Record]) -> io::Result<()> {
        let Some(first) = records.first() else { return Ok(()) };
        let kept = self.current.take().filter(|current| current.goes_on(origin, epoch, first));
        let mut current = match kept {
            Some(current) => current,
            None => Current::open(&self.tails.dir, origin, epoch, 1)?,
        };
        for record in records {
            while let Place::Elsewhere = current.file.place(record)? {
                current.file.finish()?;
                current = Current::open(&self.tails.dir, origin, epoch, current.number + 1)?;
            }
            current.given = record.position();
        }
        current.file.finish()?;
        self.current = Some(current);
        Ok(())
    }

    /// Chunks of a body that the last record names: beside the tail that has this record.
    fn write_beside(&mut self, chunks: &[Chunk]) -> io::Result<()> {
        let Some(first) = chunks.first() else { return Ok(()) };
        let Some(current) = &mut self.current else {
            return Err(io::Error::other("chunks came without the record that names them"));
        };
        if !current.file.is_there() {
            // An operator has discarded the tail meanwhile, and with it the record.
            return Ok(());
        }
        let mut file = if let Some(file) = current.body.take().filter(|file| file.goes_on(first.body)) {
            file
        } else {
            let name = TailName::numbered(&current.origin, current.epoch, current.number);
            BodyFile::open(&name.beside(&self.tails.dir), first.body)?
        };
        for chunk in chunks {
            file.append(chunk)?;
        }
        file.finish()?;
        current.body = Some(file);
        Ok(())
    }
}

impl Current {
    fn open(dir: &Path, origin: &Origin, epoch: Epoch, number: u32) -> io::Result<Self> {
        if number > NUMBER_MAX {
            return Err(io::Error::other(format!("there are {NUMBER_MAX} tails of this epoch: discard some")));
        }
        let file = TailEnd::open(&TailName::numbered(origin, epoch, number).path(dir))?;
        // The name, also one that a crash left without.
        File::open(dir)?.sync_all()?;
        Ok(Self { origin: origin.clone(), epoch, number, file, given: Position::default(), body: None })
    }

    fn goes_on(&self, origin: &Origin, epoch: Epoch, first: &Record) -> bool {
        let follows = first.header.parent == self.given.checksum && first.header.seq == self.given.seq.next();
        self.origin == *origin && self.epoch == epoch && follows && self.file.is_there()
    }
}

impl TailEnd {
    fn open(path: &Path) -> io::Result<Self> {
        // Access keys are in it.
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let there = Reader::open(path)?;
        Ok(Self { file, len: there.file_len(), there: Some(there), last: None, end: 0, fresh: Vec::new() })
    }

    /// An operator may have discarded it meanwhile.
    fn is_there(&self) -> bool {
        self.file.metadata().is_ok_and(|file| file.nlink() > 0 && file.len() == self.len)
    }

    fn place(&mut self, record: &Record) -> io::Result<Place> {
        while let Some(there) = &mut self.there {
            let head = there.next_head()?.filter(|head| head.follows);
            let sound = match &head {
                Some(head) if head.header.seq > record.header.seq => return Ok(Place::Elsewhere),
                Some(head) if head.header.seq == record.header.seq && head.position() != record.position() => {
                    return Ok(Place::Elsewhere);
                }
                Some(head) => there.payload(head)?.is_ok(),
                None => false,
            };
            let Some(head) = head.filter(|_| sound) else {
                self.there = None;
                break;
            };
            self.end = there.offset();
            self.last = Some(head.position());
            if head.header.seq == record.header.seq {
                return Ok(Place::Have);
            }
        }
        let follows =
            self.last.is_none_or(|last| (record.header.parent, record.header.seq) == (last.checksum, last.seq.next()));
        if !follows || self.len.saturating_sub(self.end) > TORN_LEN_MAX {
            return Ok(Place::Elsewhere);
        }
        if self.len > self.end {
            self.file.set_len(self.end)?;
        }
        self.fresh.extend_from_slice(&record.head);
        self.fresh.extend_from_slice(&record.payload);
        self.end += record.len() as u64;
        self.len = self.end;
        self.last = Some(record.position());
        Ok(Place::Added)
    }

    /// Writes what is to be appended, and makes all of the file durable: what was there may have been left unsynced.
    fn finish(&mut self) -> io::Result<()> {
        self.file.write_all(&self.fresh)?;
        self.fresh = Vec::new();
        self.file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use lockstep_storage::id::Seq;

    use super::super::samples::{EPOCH, bytes, chain, history};
    use super::*;

    fn scene() -> (tempfile::TempDir, Tails, Origin) {
        let dir = tempfile::tempdir().unwrap();
        let tails = Tails::new(dir.path().to_owned());
        (dir, tails, Origin::new("site-a").unwrap())
    }

    fn contents(tails: &Tails) -> Vec<Vec<u8>> {
        tails.list().unwrap().iter().map(|tail| std::fs::read(tail.name.path(&tails.dir)).unwrap()).collect()
    }

    #[test]
    fn a_cut_that_is_tried_again_leaves_no_record_twice() {
        let records = history(10, 6, 0);
        let whole = bytes(&records);
        for given in 0..=records.len() {
            let (_dir, tails, origin) = scene();
            // Interrupted after some records: the process ends, or the same one begins again.
            let mut writer = tails.writer();
            writer.take(&origin, EPOCH, Aside::Records(&records[..given])).unwrap();
            let mut again = if given % 2 == 0 { tails.writer() } else { writer };
            for step in records.chunks(4) {
                again.take(&origin, EPOCH, Aside::Records(step)).unwrap();
            }
            assert_eq!(contents(&tails), std::slice::from_ref(&whole), "{given} before");
        }
    }

    #[test]
    fn a_torn_end_is_cut_off_wherever_it_is_torn() {
        let records = history(10, 3, 9);
        let whole = bytes(&records);
        for len in 0..whole.len() {
            for rest in [&b""[..], &[0; 700]] {
                let (_dir, tails, origin) = scene();
                let path = TailName::numbered(&origin, EPOCH, 1).path(&tails.dir);
                std::fs::write(&path, [&whole[..len], rest].concat()).unwrap();
                tails.writer().take(&origin, EPOCH, Aside::Records(&records)).unwrap();
                assert_eq!(contents(&tails), std::slice::from_ref(&whole), "torn at {len}");
            }
        }
    }

    #[test]
    fn what_is_sound_behind_damage_is_never_cut_off() {
        let (_dir, tails, origin) = scene();
        let records = history(10, 3, 0);
        let mut damaged = bytes(&records);
        damaged[records[0].len() + 20] ^= 1;
        damaged.resize(damaged.len() + TORN_LEN_MAX as usize, 7);
        std::fs::write(TailName::numbered(&origin, EPOCH, 1).path(&tails.dir), &damaged).unwrap();
        tails.writer().take(&origin, EPOCH, Aside::Records(&records)).unwrap();
        assert_eq!(contents(&tails), [damaged, bytes(&records[1..])]);
    }

    #[test]
    fn another_history_of_the_same_epoch_gets_a_file_of_its_own() {
        let (_dir, tails, origin) = scene();
        let first = history(10, 4, 0);
        tails.writer().take(&origin, EPOCH, Aside::Records(&first)).unwrap();
        // The same common point, other records; then a third history that shares the beginning of the first.
        let other = history(10, 2, 1);
        let branch = chain(first[1].position(), history(0, 1, 2).iter().map(draft_of));
        let third = [&first[..2], &branch].concat();
        for _again in 0..2 {
            tails.writer().take(&origin, EPOCH, Aside::Records(&other)).unwrap();
            tails.writer().take(&origin, EPOCH, Aside::Records(&third)).unwrap();
        }
        assert_eq!(contents(&tails), [bytes(&first), bytes(&other), bytes(&branch)]);
        let names: Vec<String> = tails.list().unwrap().iter().map(|tail| tail.name.epoch().to_owned()).collect();
        assert_eq!(names, ["3-12345678", "3-12345678.2", "3-12345678.3"]);
    }

    fn draft_of(record: &Record) -> lockstep_storage::record::Draft {
        lockstep_storage::record::Draft::new(record.mutation().unwrap(), record.payload.clone()).unwrap()
    }

    #[test]
    fn a_tail_that_is_discarded_meanwhile_begins_anew() {
        let (_dir, tails, origin) = scene();
        let records = history(10, 4, 0);
        let mut writer = tails.writer();
        writer.take(&origin, EPOCH, Aside::Records(&records[..2])).unwrap();
        tails.discard(&TailName::new(origin.clone(), "3-12345678").unwrap()).unwrap();
        assert!(tails.list().unwrap().is_empty());
        writer.take(&origin, EPOCH, Aside::Records(&records[2..])).unwrap();
        assert_eq!(contents(&tails), [bytes(&records[2..])]);
        assert_eq!(records[2].header.seq, Seq(13));
    }
}
