//! What is particular to an engine: faults and crashes of the double, files of RocksDB, and the cost of a list.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use lockstep_storage::id::{ChunkId, Origin, Seq};
use lockstep_storage::image::memory::{Fault, FaultPoint, MemoryEngine};
use lockstep_storage::image::rocks::{RocksEngine, RocksOptions};
use lockstep_storage::image::{Change, Cursor, Engine, Family, Image, ImageError, KeyValue, ListQuery, Mended, Tables};
use lockstep_storage::record::payload_crc;
use tempfile::TempDir;

use super::bed::{Bed, History, copy_files, create_bucket, put_object, rocks_options};

#[test]
fn the_double_loses_any_suffix_of_the_unflushed_commits() {
    let engine = Arc::new(MemoryEngine::new());
    let (image, mut history) = (Image::new(engine.clone()), History::default());
    for n in 0..6 {
        if n == 2 {
            image.flush().expect("flushes");
        }
        image.append(&[history.record(create_bucket(&format!("bucket-{n}")), b"")]).expect("appends");
    }
    assert_eq!(engine.unflushed(), 4);
    for survive in 0..9 {
        let after = Image::new(Arc::new(engine.crash(survive)));
        assert_eq!(after.progress().expect("reads").appended.seq, Seq(2 + survive.min(4) as u64));
    }
    assert_eq!(image.progress().expect("reads").appended.seq, Seq(6));
}

#[test]
fn the_double_fails_when_it_is_told_to() {
    let engine = Arc::new(MemoryEngine::new());
    let (image, mut history) = (Image::new(engine.clone()), History::default());
    let record = history.record(create_bucket("bk"), b"");
    engine.inject(FaultPoint::Commit, Fault::NoSpace);
    engine.inject(FaultPoint::Flush, Fault::Broken);
    assert!(matches!(image.append(std::slice::from_ref(&record)), Err(ImageError::NoSpace)));
    image.append(&[record]).expect("nothing was changed, so it still follows");
    assert!(matches!(image.flush(), Err(ImageError::Engine(_))));
    assert_eq!(engine.crash(0).unflushed() + engine.unflushed(), 1);
    image.flush().expect("flushes");
    assert_eq!(engine.unflushed(), 0);
}

fn filled(dir: &Path) -> Bed {
    let mut bed = Bed::rocks();
    bed.write(create_bucket("bk"), b"");
    for n in 0..50 {
        let body = bed.write_body(&[&[n; 9_000]]);
        bed.write(put_object("bk", &format!("k{n}"), &[body]), b"");
    }
    bed.image.flush().expect("flushes");
    fs::create_dir_all(dir).expect("makes a directory");
    bed.copy_engine(dir);
    bed
}

fn open(dir: &Path) -> Result<Image, ImageError> {
    RocksEngine::open(&rocks_options(dir)).map(|engine| Image::new(Arc::new(engine)))
}

#[test]
fn a_damaged_directory_is_an_error_value() {
    let parent = TempDir::new().expect("a directory");
    let sound = parent.path().join("sound");
    drop(filled(&sound));
    let names: Vec<_> = fs::read_dir(&sound).expect("reads").map(|entry| entry.expect("reads").file_name()).collect();
    let mut refused = 0;
    for (n, name) in names.iter().enumerate() {
        for damage in ["removed", "emptied", "scrambled"] {
            let dir = parent.path().join(format!("{damage}-{n}"));
            fs::create_dir(&dir).expect("makes a directory");
            copy_files(&sound, &dir);
            let file = dir.join(name);
            match damage {
                "removed" => fs::remove_file(&file).expect("removes"),
                "emptied" => fs::write(&file, b"").expect("writes"),
                _ => {
                    let bytes: Vec<u8> = fs::read(&file).expect("reads").iter().map(|byte| byte ^ 0x55).collect();
                    fs::write(&file, bytes).expect("writes");
                }
            }
            // Options and lock may be lost; whatever is found must then be read without harm, or refused.
            let read = open(&dir).and_then(|image| {
                image.view().digest()?;
                image.read_log(Seq(1), usize::MAX).map(|records| records.len())
            });
            refused += usize::from(read.is_err());
        }
    }
    assert!(refused >= 10, "{refused} of {} refused", 3 * names.len());
}

#[test]
fn a_directory_belongs_to_one_origin_and_one_process() {
    let dir = TempDir::new().expect("a directory");
    let options = rocks_options(dir.path());
    let engine = RocksEngine::open(&options).expect("opens");
    assert!(RocksEngine::open(&options).is_err(), "open already");
    drop(engine);
    let other = RocksOptions { origin: Origin::new("site-b").expect("a name"), ..options.clone() };
    assert!(RocksEngine::open(&other).is_err(), "another origin's");
    assert!(RocksEngine::open(&options).is_ok());
}

#[test]
fn an_engine_that_flushes_by_itself_leaves_a_prefix() {
    let dir = TempDir::new().expect("a directory");
    let options = RocksOptions {
        body_buffer_bytes: 128 << 10,
        log_buffer_bytes: 64 << 10,
        image_buffer_bytes: 64 << 10,
        ..rocks_options(dir.path())
    };
    let engine = Arc::new(RocksEngine::open(&options).expect("opens"));
    let (image, mut history) = (Image::new(engine), History::default());
    let twin = Image::new(Arc::new(MemoryEngine::new()));
    let mut records = vec![history.record(create_bucket("bk"), b"")];
    for n in 0..300_u32 {
        let (body, extent) = history.body(&[&[n as u8; 5_000], &[1; 100]]);
        records.extend(body);
        records.push(history.record(put_object("bk", &format!("k{}", n % 50), &[extent]), b""));
    }
    for run in records.chunks(3) {
        let last = image.append(run).expect("appends").seq;
        image.apply(last, usize::MAX).expect("applies");
    }
    // Its flushes are under way beside the writer.
    let crashes = (0..500).map(|_| crash_image(dir.path()));
    let has_flushed = |image: &Image| image.progress().expect("reads").applied.seq > Seq(0);
    let after = crashes.into_iter().find(has_flushed).expect("it flushes by itself");
    let progress = after.progress().expect("reads");
    assert_eq!(after.read_log(Seq(1), usize::MAX).expect("all there").len() as u64, progress.appended.seq.0);
    twin.append(&records).expect("appends");
    twin.apply(progress.applied.seq, usize::MAX).expect("applies");
    assert_eq!(after.view().digest().expect("reads"), twin.view().digest().expect("reads"));
}

/// Opens a copy of a directory that is in use. While it is being copied a file may go that the copy's manifest names:
/// a crash leaves no such state, so it is copied again then.
fn crash_image(dir: &Path) -> Image {
    for _ in 0..100 {
        let copy = TempDir::new().expect("a directory").keep();
        let mut files: Vec<_> = fs::read_dir(dir).expect("reads").map(|entry| entry.expect("reads").path()).collect();
        // What names files comes before the files.
        files.sort_by_key(|path| path.extension().is_some());
        let copied = files.iter().try_for_each(|path| {
            let name = path.file_name().expect("a name");
            fs::copy(path, copy.join(name)).map(|_| ())
        });
        if copied.is_ok()
            && let Ok(image) = open(&copy)
        {
            return image;
        }
        fs::remove_dir_all(&copy).expect("removes");
    }
    panic!("no copy of {} could be opened", dir.display());
}

/// An engine that counts how often a cursor moves.
struct Counting {
    engine: MemoryEngine,
    moves: Arc<AtomicUsize>,
}

struct CountingTables(Arc<dyn Tables>, Arc<AtomicUsize>);

struct CountingCursor<'a>(Box<dyn Cursor + 'a>, Arc<AtomicUsize>);

impl Engine for Counting {
    fn commit(&self, changes: Vec<Change>) -> Result<(), ImageError> {
        self.engine.commit(changes)
    }

    fn snapshot(&self) -> Arc<dyn Tables> {
        Arc::new(CountingTables(self.engine.snapshot(), Arc::clone(&self.moves)))
    }

    fn flush(&self) -> Result<(), ImageError> {
        self.engine.flush()
    }

    fn freeze(&self) -> Result<(), ImageError> {
        self.engine.freeze()
    }

    fn frozen(&self) -> Option<Arc<dyn Tables>> {
        self.engine.frozen()
    }

    fn thaw(&self) -> Result<(), ImageError> {
        self.engine.thaw()
    }

    fn retire(&self) {
        self.engine.retire();
    }

    fn figures(&self) -> Vec<(&'static str, u64)> {
        self.engine.figures()
    }
}

impl Tables for CountingTables {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, ImageError> {
        self.0.get(family, key)
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        until: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), ImageError> {
        self.0.scan(family, from, until, each)
    }

    fn cursor<'a>(&'a self, family: Family, until: &[u8]) -> Result<Box<dyn Cursor + 'a>, ImageError> {
        Ok(Box::new(CountingCursor(self.0.cursor(family, until)?, Arc::clone(&self.1))))
    }
}

impl Cursor for CountingCursor<'_> {
    fn seek(&mut self, key: &[u8]) {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.seek(key);
    }

    fn next(&mut self) {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.next();
    }

    fn entry(&self) -> Result<Option<KeyValue<'_>>, ImageError> {
        self.0.entry()
    }
}

#[test]
fn a_common_prefix_costs_one_seek() {
    let moves = Arc::new(AtomicUsize::new(0));
    let image = Image::new(Arc::new(Counting { engine: MemoryEngine::new(), moves: Arc::clone(&moves) }));
    let mut history = History::default();
    let mut records = vec![history.record(create_bucket("bk"), b"")];
    for top in ["a/", "b/", "c/"] {
        records.extend((0..3_000).map(|n| history.record(put_object("bk", &format!("{top}{n}"), &[]), b"")));
    }
    records.push(history.record(put_object("bk", "z", &[]), b""));
    image.append(&records).expect("appends");
    image.apply(history.last.seq, usize::MAX).expect("applies");
    let query = ListQuery { bucket: "bk".into(), delimiter: "/".into(), limit: 1_000, ..ListQuery::default() };
    moves.store(0, Ordering::Relaxed);
    let page = image.view().list_objects(&query).expect("reads");
    assert_eq!((page.prefixes.len(), page.items.len()), (3, 1));
    assert_eq!(moves.load(Ordering::Relaxed), 5, "one to start, one a prefix, one past the object");
}

/// The names of the body files in a directory.
fn body_files(dir: &Path) -> Vec<std::path::PathBuf> {
    let paths = fs::read_dir(dir).expect("reads").map(|entry| entry.expect("reads").path());
    let mut files: Vec<_> = paths.filter(|path| path.extension().is_some_and(|e| e == "body")).collect();
    files.sort();
    files
}

fn disk_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    body_files(dir).iter().map(|path| fs::metadata(path).expect("reads").blocks() * 512).sum()
}

#[test]
fn chunks_that_a_power_loss_took_are_put_back_from_their_records() {
    let dir = TempDir::new().expect("a directory");
    let mut history = History::default();
    let (records, extent) = history.body(&[&[1; 9_000], &[2; 9_000], &[3; 100]]);
    {
        let image = open(dir.path()).expect("opens");
        image.append(&records).expect("appends");
        image.flush().expect("flushes");
    }
    for file in body_files(dir.path()) {
        let len = fs::metadata(&file).expect("reads").len();
        fs::write(&file, vec![0; len as usize]).expect("writes");
    }
    let image = open(dir.path()).expect("opens");
    let chunk = |index| image.view().chunk(extent.body.into(), index);
    assert!(chunk(0).is_err() && chunk(1).is_err(), "their bytes are gone");
    assert_eq!(image.restore(&records).expect("restores"), 2, "the short one stood with its key");
    assert_eq!(image.restore(&records).expect("restores"), 0, "nothing is left to do");
    for (index, byte) in [(0, 1), (1, 2)] {
        assert_eq!(chunk(index).expect("reads"), vec![byte; 9_000]);
    }
    let mut other = History { epoch: history.epoch.next(lockstep_storage::id::NodeId(3)), ..History::default() };
    let (foreign, _) = other.body(&[&[9; 9_000]]);
    assert_eq!(image.restore(&foreign).expect("restores"), 0, "a body that the container does not know");
}

#[test]
fn a_dropped_body_gives_its_space_back_when_its_last_reader_has_gone() {
    let dir = TempDir::new().expect("a directory");
    let image = open(dir.path()).expect("opens");
    let mut history = History::default();
    let (records, extent) = history.body(&[&vec![7; 1 << 20], &vec![8; 1 << 20]]);
    image.append(&records).expect("appends");
    let abandon = history.record(super::bed::abandon(extent), b"");
    image.append(std::slice::from_ref(&abandon)).expect("appends");
    image.apply(abandon.header.seq, 99).expect("applies");
    image.flush().expect("flushes");
    let before = disk_bytes(dir.path());
    let reader = image.view();
    assert_eq!(image.collect(abandon.header.seq, 99).expect("collects"), 0);
    image.flush().expect("flushes");
    assert_eq!(reader.chunk(extent.body.into(), 1).expect("a reader keeps it"), vec![8; 1 << 20]);
    assert_eq!(disk_bytes(dir.path()), before, "nothing is freed under a reader");
    drop(reader);
    image.flush().expect("flushes");
    assert!(disk_bytes(dir.path()) + (2 << 20) <= before, "its blocks are free");
    drop(image);
    let image = open(dir.path()).expect("opens");
    assert!(image.view().chunk(extent.body.into(), 0).is_err());
}

#[test]
fn a_chunk_that_is_cut_short_is_repaired_in_another_place_and_its_own_is_freed() {
    let dir = TempDir::new().expect("a directory");
    let image = open(dir.path()).expect("opens");
    let mut history = History::default();
    let (records, extent) = history.body(&[&vec![7; 1 << 20], &vec![8; 1 << 20]]);
    image.append(&records).expect("appends");
    image.flush().expect("flushes");
    let file = body_files(dir.path()).remove(0);
    fs::OpenOptions::new().write(true).open(&file).expect("opens").set_len(1_500_000).expect("is shorter");
    let before = disk_bytes(dir.path());
    let chunk = ChunkId { body: extent.body.into(), index: 1 };
    let read = |image: &Image| image.view().chunk(chunk.body, chunk.index);
    assert!(read(&image).is_err_and(|error| error.to_string().contains("cut short")));
    let right = Bytes::from(vec![8; 1 << 20]);
    assert_eq!(image.repair(chunk, &right, Some(payload_crc(&right))).expect("works"), Mended::Done);
    assert_eq!(read(&image).expect("repaired"), right);
    image.flush().expect("flushes");
    assert!(disk_bytes(dir.path()) <= before + (1 << 20), "the damaged place is free");
    drop(image);
    let image = open(dir.path()).expect("opens");
    assert_eq!(read(&image).expect("for good"), right);
    assert_eq!(image.view().chunk(chunk.body, 0).expect("was sound"), vec![7; 1 << 20]);
    let first = Bytes::from(vec![7; 1 << 20]);
    // The whole file is gone: each of its chunks is damaged, and nothing else.
    fs::remove_file(&file).expect("removes");
    drop(image);
    let image = open(dir.path()).expect("opens");
    assert!(matches!(image.view().chunk(chunk.body, 0), Err(ImageError::Chunk { .. })));
    assert_eq!(image.repair(ChunkId { index: 0, ..chunk }, &first, None).expect("works"), Mended::Done);
    assert_eq!(image.view().chunk(chunk.body, 0).expect("repaired"), vec![7; 1 << 20]);
}

#[test]
fn what_was_dropped_before_a_crash_is_freed_after_it_and_an_empty_file_goes() {
    let dir = TempDir::new().expect("a directory");
    let image = open(dir.path()).expect("opens");
    let mut history = History::default();
    let (mut records, extent) = history.body(&[&vec![7; 1 << 20]]);
    records.push(history.record(super::bed::abandon(extent), b""));
    let last = image.append(&records).expect("appends").seq;
    image.apply(last, 99).expect("applies");
    let reader = image.view();
    image.collect(last, 99).expect("collects");
    image.flush().expect("flushes");
    assert_eq!(body_files(dir.path()).len(), 1, "a reader keeps it");
    let copy = TempDir::new().expect("a directory");
    copy_files(dir.path(), copy.path());
    drop(reader);
    let after = open(copy.path()).expect("opens");
    assert_eq!(body_files(copy.path()), Vec::<std::path::PathBuf>::new());
    assert!(after.view().chunk(extent.body.into(), 0).is_err());
}

#[test]
fn what_the_device_would_not_free_is_freed_at_the_next_flush() {
    let dir = TempDir::new().expect("a directory");
    let image = open(dir.path()).expect("opens");
    let mut history = History::default();
    let (mut records, extent) = history.body(&[&vec![7; 1 << 20]]);
    records.push(history.record(super::bed::abandon(extent), b""));
    let last = image.append(&records).expect("appends").seq;
    image.apply(last, 99).expect("applies");
    image.flush().expect("flushes");
    let before = disk_bytes(dir.path());
    image.collect(last, 99).expect("collects");
    // A directory in the place of the file cannot be opened for writing.
    let (file, aside) = (body_files(dir.path()).remove(0), dir.path().join("aside"));
    fs::rename(&file, &aside).expect("renames");
    fs::create_dir(&file).expect("makes a directory");
    assert!(image.flush().is_err(), "nothing can be freed");
    fs::remove_dir(&file).expect("removes");
    fs::rename(&aside, &file).expect("renames");
    image.flush().expect("flushes");
    assert!(disk_bytes(dir.path()) + (1 << 20) <= before, "its blocks are free, without a restart");
}
