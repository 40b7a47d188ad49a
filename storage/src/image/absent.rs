//! The engine of an origin whose files are damaged: there is nothing in it, and nothing can be put in. It stands in its place
//! until a baseline has filled another one, and keeps the damaged files until then.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::{Change, Cursor, Engine, Family, ImageError, KeyValue, Tables};

type OnRetire = Box<dyn FnOnce() + Send>;

/// An engine that is not there.
pub struct AbsentEngine {
    on_retire: Mutex<Option<OnRetire>>,
}

impl AbsentEngine {
    /// One in the place of files that go by `on_retire`, when another engine is the origin's.
    #[must_use]
    pub fn new(on_retire: impl FnOnce() + Send + 'static) -> Self {
        Self { on_retire: Mutex::new(Some(Box::new(on_retire))) }
    }
}

impl Engine for AbsentEngine {
    fn commit(&self, _changes: Vec<Change>) -> Result<(), ImageError> {
        Err(ImageError::Engine("the files of this engine are damaged".into()))
    }

    fn snapshot(&self) -> Arc<dyn Tables> {
        Arc::new(Nothing)
    }

    fn flush(&self) -> Result<(), ImageError> {
        Ok(())
    }

    fn freeze(&self) -> Result<(), ImageError> {
        Err(ImageError::Engine("the files of this engine are damaged".into()))
    }

    fn frozen(&self) -> Option<Arc<dyn Tables>> {
        None
    }

    fn thaw(&self) -> Result<(), ImageError> {
        Ok(())
    }

    fn retire(&self) {
        let retire = self.on_retire.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(retire) = retire {
            retire();
        }
    }

    fn figures(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

/// What is seen of it.
struct Nothing;

impl Tables for Nothing {
    fn get(&self, _family: Family, _key: &[u8]) -> Result<Option<Bytes>, ImageError> {
        Ok(None)
    }

    fn scan(
        &self,
        _family: Family,
        _from: &[u8],
        _until: &[u8],
        _each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), ImageError> {
        Ok(())
    }

    fn cursor<'a>(&'a self, _family: Family, _until: &[u8]) -> Result<Box<dyn Cursor + 'a>, ImageError> {
        Ok(Box::new(Self))
    }
}

impl Cursor for Nothing {
    fn seek(&mut self, _key: &[u8]) {}

    fn next(&mut self) {}

    fn entry(&self) -> Result<Option<KeyValue<'_>>, ImageError> {
        Ok(None)
    }
}
