//! RocksDB's snapshots and pinned values borrow the database; ours own a share of it instead, so that they can be kept for
//! as long as a reader needs them, on any thread. `self_cell` keeps owner and borrower together without unsafe code here.

use std::sync::Arc;

use bytes::Bytes;
use rocksdb::{DBPinnableSlice, ReadOptions, Snapshot};
use self_cell::self_cell;

use super::{PINNED_LEN_MIN, Store, error};
use crate::image::{Family, ImageError};

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

self_cell!(
    /// A value where RocksDB has it: in the buffer that it read a blob into, for one.
    struct PinnedValue {
        owner: Arc<Store>,
        #[covariant]
        dependent: DBPinnableSlice,
    }
);

impl AsRef<[u8]> for PinnedValue {
    fn as_ref(&self) -> &[u8] {
        self.borrow_dependent()
    }
}

/// Stands for the two ways in which there is no value to pin.
struct NoValue(Result<(), ImageError>);

/// The value of a key, without a copy where it is long.
pub(super) fn get(
    store: &Arc<Store>,
    family: Family,
    key: &[u8],
    options: &ReadOptions,
) -> Result<Option<Bytes>, ImageError> {
    let pinned = PinnedValue::try_new(Arc::clone(store), |store| {
        let family = store.family(family).map_err(|e| NoValue(Err(e)))?;
        match store.db.get_pinned_cf_opt(family, key, options) {
            Ok(value) => value.ok_or(NoValue(Ok(()))),
            Err(e) => Err(NoValue(Err(error(&e)))),
        }
    });
    match pinned {
        Ok(value) if value.as_ref().len() < PINNED_LEN_MIN => Ok(Some(Bytes::copy_from_slice(value.as_ref()))),
        Ok(value) => Ok(Some(Bytes::from_owner(value))),
        Err(NoValue(failed)) => failed.map(|()| None),
    }
}
