//! Compares an image with what its records say: the digest of a reference that applied the same records to an empty
//! image, the bytes of every body that it names, and that no other body is left.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use lockstep_storage::id::{BodyId, ChunkId, Origin, Position};
use lockstep_storage::image::memory::MemoryEngine;
use lockstep_storage::image::{Engine, Family, Image, ImageError, ListQuery, View};
use lockstep_storage::op::Extent;
use lockstep_storage::record::Record;

use super::model::{Checked, Model, Violation, broken};
use super::scenario::Site;

/// Images that were built from records alone, one a site and origin, kept as long as history goes on from them.
#[derive(Default)]
pub struct References {
    images: BTreeMap<(Site, Origin), (Image, Position)>,
}

fn failed(what: &str) -> impl FnOnce(ImageError) -> Violation {
    move |error| Violation { rule: 4, what: format!("{what}: {error}") }
}

impl References {
    /// The image after exactly these records.
    fn at(&mut self, site: Site, origin: &Origin, line: &[Position], model: &Model) -> Checked<Image> {
        let target = line.last().copied().unwrap_or_default();
        let reusable = self.images.get(&(site, origin.clone())).filter(|(_, at)| {
            let index = (at.seq.0 as usize).checked_sub(1);
            index.is_none_or(|index| line.get(index) == Some(at))
        });
        let (image, from) = match reusable {
            Some((image, at)) => (image.clone(), at.seq.0 as usize),
            None => (Image::new(Arc::new(MemoryEngine::new())), 0),
        };
        let records: Vec<Record> = model.records(&line[from..]).cloned().collect();
        image.append(&records).map_err(failed("the records of the model"))?;
        while image.apply(target.seq, 1000).map_err(failed("the records of the model"))?.seq < target.seq {}
        self.images.insert((site, origin.clone()), (image.clone(), target));
        Ok(image)
    }

    /// Rule 4: the image is the result of a prefix of its records, and every body that it names is there with its bytes.
    pub fn check(&mut self, site: Site, origin: &Origin, image: &Image, model: &Model) -> Checked {
        let Some(log) = model.log(site, origin) else { return Ok(()) };
        let view = image.view();
        let applied = view.progress().map_err(failed("progress"))?.applied;
        if !log.holds(applied) {
            return broken(
                4,
                format!("the image of {origin} at {site:?} is at {applied}, which its log does not hold"),
            );
        }
        let reference = self.at(site, origin, &log.line[..applied.seq.0 as usize], model)?;
        let found = view.digest().map_err(failed("digest"))?;
        let expected = reference.view().digest().map_err(failed("digest"))?;
        if found != expected {
            return broken(4, format!("the image of {origin} at {site:?} at {applied} is not what its records make"));
        }
        for (body, extent) in bodies(&view)? {
            for index in 0..extent.len.div_ceil(u64::from(extent.chunk_len.max(1))) as u32 {
                let chunk = view.chunk(body, index);
                let rotten = model.rotten.contains(&(origin.clone(), ChunkId { body, index }));
                if rotten && matches!(chunk, Err(ImageError::Chunk { .. })) {
                    continue;
                }
                if chunk.as_ref().ok() != model.chunk(origin, body, index) {
                    let (at, error) = (body.seq, chunk.err().map(|e| e.to_string()).unwrap_or_default());
                    return broken(
                        1,
                        format!("chunk {index} of body {at} of {origin} at {site:?} cannot be read: {error}"),
                    );
                }
            }
        }
        Ok(())
    }
}

/// Every body that objects and parts name.
pub(super) fn bodies(view: &View) -> Checked<BTreeMap<BodyId, Extent>> {
    let mut found = BTreeMap::new();
    for (bucket, _) in view.buckets("", 100).map_err(failed("buckets"))? {
        let query = ListQuery { bucket: bucket.clone(), limit: 1000, ..ListQuery::default() };
        for (_, object) in view.list_objects(&query).map_err(failed("objects"))?.items {
            found.extend(object.extents.iter().map(|e| (BodyId::from(e.body), *e)));
        }
        for (_, upload, _) in view.list_uploads(&query, "").map_err(failed("uploads"))?.items {
            for (_, part) in view.parts(&upload, 0, 1000).map_err(failed("parts"))? {
                found.extend(part.extents.iter().map(|e| (BodyId::from(e.body), *e)));
            }
        }
    }
    Ok(found)
}

/// Rule 9: every body is named or gone.
pub fn nothing_is_left(site: Site, origin: &Origin, image: &Image, engine: &MemoryEngine) -> Checked {
    let view = image.view();
    let named: HashSet<BodyId> = bodies(&view)?.into_keys().collect();
    let mut left: HashSet<u64> = HashSet::new();
    let mut each = |key: &[u8], _: &[u8]| {
        let word = |at: usize| key.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_be_bytes);
        if !named.iter().any(|b| (b.epoch.counter, b.epoch.node.0, b.seq.0) == (word(0), word(8), word(16))) {
            left.insert(word(16));
        }
        true
    };
    engine.snapshot().scan(Family::Body, &[], &[0xff; 40], &mut each).map_err(failed("bodies"))?;
    match left.iter().min() {
        None => Ok(()),
        Some(body) => {
            let count = left.len();
            broken(
                9,
                format!("{count} bodies of {origin} at {site:?} are neither named nor collected, the first is {body}"),
            )
        }
    }
}
