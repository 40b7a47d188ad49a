//! RocksDB's snapshots borrow the database; ours own a share of it instead, so that they can be kept for as long as a
//! reader needs them, on any thread. `self_cell` keeps owner and borrower together without unsafe code here.

use std::sync::Arc;

use rocksdb::Snapshot;
use self_cell::self_cell;

use super::Store;

self_cell!(
    /// A snapshot with the database that it is of.
    pub(super) struct OwnedSnapshot {
        owner: Arc<Store>,
        #[covariant]
        dependent: Snapshot,
    }
);

impl OwnedSnapshot {
    pub(super) fn take(store: Arc<Store>) -> Self {
        Self::new(store, |store| store.db.snapshot())
    }
}
