//! Reads a tail: hostile bytes. One record is in memory at a time, so at most [`RECORD_LEN_MAX`] bytes whatever the file
//! holds; every head and every payload is verified before it is shown.
//!
//! A payload that does not verify is said and passed over, because its record's head says how long it is. Behind a head that
//! does not verify nothing can be trusted: reading ends there, and [`Reader::damage`] says where and why.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use bytes::Bytes;
use lockstep_storage::id::{Position, Seq};
#[cfg(doc)]
use lockstep_storage::record::RECORD_LEN_MAX;
use lockstep_storage::record::{HEADER_LEN, Header, Record, RecordError, verify_head};

/// Bytes read from the file at once.
const BUFFER_LEN: usize = 256 << 10;

/// Where a tail cannot be read any further, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Offset of the first byte that is not understood.
    pub offset: u64,
    /// Bytes from there to the end of the file.
    pub bytes: u64,
    /// What is wrong, in a few words.
    pub reason: String,
}

/// A record's head, verified; its payload is still in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The fixed part.
    pub header: Header,
    /// Header and op as encoded.
    pub bytes: Bytes,
    /// Where the record begins in the file.
    pub offset: u64,
    /// Is it the child of the record before? The first one that is read always is.
    pub follows: bool,
}

impl Head {
    /// The record without its payload.
    #[must_use]
    pub fn record(&self) -> Record {
        Record { header: self.header, head: self.bytes.clone(), payload: Bytes::new() }
    }

    /// Its place in the history.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { epoch: self.header.epoch, seq: self.header.seq, checksum: self.header.checksum }
    }
}

/// A tail that is being read.
pub struct Reader<R> {
    input: BufReader<R>,
    len: u64,
    at: u64,
    /// Payload of the last head, not read yet.
    unread: u32,
    before: Option<Position>,
    damage: Option<Damage>,
}

impl Reader<File> {
    /// From the first record on. What is appended after this call is not read.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::from(File::open(path)?, 0)
    }
}

impl<R: Read + Seek> Reader<R> {
    /// From the record at `offset` on.
    ///
    /// # Errors
    /// When the input cannot say how long it is, or cannot go there.
    pub fn from(mut input: R, offset: u64) -> io::Result<Self> {
        let len = input.seek(SeekFrom::End(0))?;
        let at = input.seek(SeekFrom::Start(offset.min(len)))?;
        let input = BufReader::with_capacity(BUFFER_LEN, input);
        Ok(Self { input, len, at, unread: 0, before: None, damage: None })
    }

    /// Length of the file in bytes, when it was opened.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        self.len
    }

    /// Where the next record would begin.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.at + u64::from(self.unread)
    }

    /// Why there is no next record, where the file does not end with the last one.
    #[must_use]
    pub fn damage(&self) -> Option<&Damage> {
        self.damage.as_ref()
    }

    /// The next record's head; its payload is passed over unless [`Reader::payload`] comes next. None at the end, and
    /// where the file is damaged.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn next_head(&mut self) -> io::Result<Option<Head>> {
        let passed = std::mem::take(&mut self.unread);
        self.input.seek_relative(i64::from(passed))?;
        self.at += u64::from(passed);
        if self.at == self.len || self.damage.is_some() {
            return Ok(None);
        }
        let (header, bytes) = match self.head() {
            Ok(found) => found,
            Err(Stop::Damage(reason)) => {
                self.damage = Some(Damage { offset: self.at, bytes: self.len - self.at, reason });
                return Ok(None);
            }
            Err(Stop::Io(error)) => return Err(error),
        };
        let head = Head {
            header,
            offset: self.at,
            follows: self.before.is_none_or(|p| p.checksum == header.parent && p.seq.next() == header.seq),
            bytes,
        };
        self.at += head.bytes.len() as u64;
        self.unread = header.payload_len;
        self.before = Some(head.position());
        Ok(Some(head))
    }

    /// The payload of the head that was read last, verified.
    ///
    /// # Errors
    /// When the file cannot be read; in it, when the bytes are not those that the head names. Reading may go on then.
    pub fn payload(&mut self, head: &Head) -> io::Result<Result<Bytes, RecordError>> {
        let len = std::mem::take(&mut self.unread);
        let payload = self.take(len as usize)?;
        self.at += u64::from(len);
        Ok(Record::from_parts(head.bytes.clone(), payload).map(|record| record.payload))
    }

    fn take(&mut self, len: usize) -> io::Result<Bytes> {
        let mut bytes = vec![0; len];
        self.input.read_exact(&mut bytes)?;
        Ok(bytes.into())
    }

    fn head(&mut self) -> Result<(Header, Bytes), Stop> {
        let left = self.len - self.at;
        if left < HEADER_LEN as u64 {
            return Err(Stop::Damage(format!("{left} bytes of a record")));
        }
        let mut bytes = vec![0; HEADER_LEN];
        self.input.read_exact(&mut bytes)?;
        let header = Header::decode(&bytes)?;
        if left < header.record_len() as u64 {
            let Header { seq, .. } = header;
            return Err(Stop::Damage(format!("{left} of {} bytes of record {seq}", header.record_len())));
        }
        bytes.resize(HEADER_LEN + header.op_len as usize, 0);
        self.input.read_exact(&mut bytes[HEADER_LEN..])?;
        let header = verify_head(&bytes)?;
        if header.seq == Seq::ZERO {
            return Err(Stop::Damage("a record with the seq 0".into()));
        }
        Ok((header, bytes.into()))
    }
}

/// Why there is no head.
enum Stop {
    Damage(String),
    Io(io::Error),
}

impl From<RecordError> for Stop {
    fn from(error: RecordError) -> Self {
        Self::Damage(error.to_string())
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // It was cut while it was read.
            io::ErrorKind::UnexpectedEof => Self::Damage("the file ends here".into()),
            _ => Self::Io(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::super::samples::{bytes, history};
    use super::*;

    /// Seqs of the sound records, seqs of damaged payloads, and where reading ended.
    fn read(file: Vec<u8>) -> (Vec<u64>, Vec<u64>, Option<Damage>) {
        let mut reader = Reader::from(Cursor::new(file), 0).unwrap();
        let (mut sound, mut bad) = (Vec::new(), Vec::new());
        while let Some(head) = reader.next_head().unwrap() {
            let list = if reader.payload(&head).unwrap().is_ok() { &mut sound } else { &mut bad };
            list.push(head.header.seq.0);
        }
        (sound, bad, reader.damage().cloned())
    }

    #[test]
    fn a_sound_tail_is_read_to_its_end() {
        let records = history(10, 5, 0);
        assert_eq!(read(bytes(&records)), (vec![11, 12, 13, 14, 15], vec![], None));
        assert_eq!(read(Vec::new()), (vec![], vec![], None));
    }

    #[test]
    fn every_cut_is_named_and_keeps_what_is_before_it() {
        let records = history(10, 3, 0);
        let whole = bytes(&records);
        let ends: Vec<usize> = records
            .iter()
            .scan(0, |end, r| {
                *end += r.len();
                Some(*end)
            })
            .collect();
        for len in 0..whole.len() {
            let (sound, bad, damage) = read(whole[..len].to_vec());
            let complete = ends.iter().filter(|end| **end <= len).count();
            assert_eq!((sound.len(), bad.len()), (complete, 0), "cut at {len}");
            let last = ends[..complete].last().copied().unwrap_or_default();
            let expected = (last < len).then_some((last as u64, (len - last) as u64));
            assert_eq!(damage.map(|d| (d.offset, d.bytes)), expected, "cut at {len}");
        }
    }

    #[test]
    fn a_damaged_payload_costs_its_record_and_a_damaged_head_what_follows() {
        let records = history(10, 3, 0);
        let whole = bytes(&records);
        let mut file = whole.clone();
        file[records[0].len() + records[1].head.len()] ^= 1;
        assert_eq!(read(file), (vec![11, 13], vec![12], None));
        let mut file = whole;
        file[records[0].len() + 20] ^= 1;
        let (sound, bad, damage) = read(file);
        assert_eq!((sound, bad), (vec![11], vec![]));
        assert_eq!(damage.map(|d| d.offset), Some(records[0].len() as u64));
    }

    #[test]
    fn a_record_of_another_history_is_told() {
        let mut records = history(10, 2, 0);
        records.extend(history(10, 2, 0));
        let mut reader = Reader::from(Cursor::new(bytes(&records)), 0).unwrap();
        let mut follows = Vec::new();
        while let Some(head) = reader.next_head().unwrap() {
            follows.push(head.follows);
        }
        assert_eq!(follows, [true, true, false, true]);
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_bad(at in 0_usize..600, with in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut file = bytes(&history(0, 4, 0));
            let at = at.min(file.len());
            let end = file.len().min(at + with.len());
            file.splice(at..end, with);
            let len = file.len() as u64;
            let (sound, bad, damage) = read(file);
            prop_assert!(sound.len() + bad.len() <= 4 || damage.is_some());
            prop_assert!(damage.is_none_or(|d| d.offset + d.bytes == len));
        }
    }
}
