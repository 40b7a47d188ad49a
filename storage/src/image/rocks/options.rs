//! How RocksDB is set up. Each choice that was measured, or that a rule of ours rests on, says so.

use std::path::PathBuf;

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, LogLevel, Options, WriteBufferManager,
};

use crate::id::Origin;
use crate::image::Family;

/// What all engines of a node share, so that its memory is one sum: cheap to clone.
#[derive(Clone)]
pub struct RocksShared {
    cache: Cache,
    write_buffers: WriteBufferManager,
}

impl RocksShared {
    /// A block cache of so many bytes, and a budget for the write buffers of all origins: at nine tenths of it the engine
    /// that is being written flushes, whatever its own buffers hold.
    #[must_use]
    pub fn new(cache_bytes: usize, write_buffers_bytes: usize) -> Self {
        Self {
            cache: Cache::new_lru_cache(cache_bytes),
            // It never stalls writers: one origin's flush must not hold up another origin.
            write_buffers: WriteBufferManager::new_write_buffer_manager(write_buffers_bytes, false),
        }
    }

    /// Bytes in the cache and in the write buffers, now.
    #[must_use]
    pub fn usage(&self) -> (usize, usize) {
        (self.cache.get_usage(), self.write_buffers.get_usage())
    }
}

/// How to open an engine.
#[derive(Clone)]
pub struct RocksOptions {
    /// Its directory: nothing else lies there.
    pub dir: PathBuf,
    /// The origin, which the column families are named after.
    pub origin: Origin,
    /// What it shares with the node's other engines.
    pub shared: RocksShared,
    /// Size of one write buffer of the places of bodies, in bytes.
    pub body_buffer_bytes: usize,
    /// Size of one write buffer of records, in bytes. Records of small objects hold their bytes.
    pub log_buffer_bytes: usize,
    /// Size of one write buffer of the image, in bytes.
    pub image_buffer_bytes: usize,
    /// Write buffers a family: one is written, the others are being flushed. Writers wait when all are full.
    pub buffers_max: i32,
    /// Threads for flushes and compactions.
    pub background_jobs: i32,
    /// Flush and compact past the page cache, where the file system can: measured at twice the speed.
    pub direct_io: bool,
}

impl RocksOptions {
    /// The usual settings.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, origin: Origin, shared: RocksShared) -> Self {
        Self {
            dir: dir.into(),
            origin,
            shared,
            body_buffer_bytes: 16 << 20,
            log_buffer_bytes: 32 << 20,
            image_buffer_bytes: 64 << 20,
            buffers_max: 6,
            background_jobs: 4,
            direct_io: true,
        }
    }

    pub(super) fn database(&self, direct_io: bool) -> Options {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        // Without RocksDB's log only this makes what a crash leaves a prefix of the commits, over all families.
        options.set_atomic_flush(true);
        options.set_use_direct_io_for_flush_and_compaction(direct_io);
        options.set_write_buffer_manager(&self.shared.write_buffers);
        options.set_max_background_jobs(self.background_jobs);
        options.set_paranoid_checks(true);
        options.set_max_open_files(1024);
        options.set_log_level(LogLevel::Warn);
        options.set_keep_log_file_num(4);
        options.set_max_log_file_size(4 << 20);
        options
    }

    pub(super) fn family(&self, name: &str, family: Family) -> ColumnFamilyDescriptor {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&self.shared.cache);
        table.set_cache_index_and_filter_blocks(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        let mut options = Options::default();
        options.set_write_buffer_manager(&self.shared.write_buffers);
        options.set_max_write_buffer_number(self.buffers_max);
        // By default every file is compacted again after 30 days, and blobs are moved with it.
        options.set_ttl(0);
        // A spill is a flush of its own, so first-level files come at the pace of segments, not of buffers.
        options.set_level_zero_file_num_compaction_trigger(4);
        options.set_level_zero_slowdown_writes_trigger(40);
        options.set_level_zero_stop_writes_trigger(60);
        match family {
            Family::Log => {
                options.set_write_buffer_size(self.log_buffer_bytes);
                options.set_compression_type(DBCompressionType::Lz4);
            }
            Family::Body => {
                options.set_write_buffer_size(self.body_buffer_bytes);
                options.set_compression_type(DBCompressionType::Lz4);
                options.set_level_compaction_dynamic_level_bytes(true);
                // A new chunk's key is looked up too: it must not displace another chunk unseen.
                table.set_bloom_filter(10.0, false);
            }
            Family::Image => {
                options.set_write_buffer_size(self.image_buffer_bytes);
                options.set_compression_type(DBCompressionType::Lz4);
                options.set_level_compaction_dynamic_level_bytes(true);
                // Most writes look up a key that is not there: the object that they may displace. Whole keys, no prefix
                // extractor: lists seek in total order.
                table.set_bloom_filter(10.0, false);
                table.set_block_size(16 << 10);
            }
        }
        options.set_block_based_table_factory(&table);
        ColumnFamilyDescriptor::new(name, options)
    }
}
