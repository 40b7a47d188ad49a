//! What a damaged chunk asks of a worker: at the end that has it, look it up; at the other, check what came and put it in place.

use lockstep_storage::image::{ImageError, Mended};
use lockstep_storage::record::payload_crc;

use super::{Worker, is_damage};
use crate::event::{RepairStep, RepairTask};

impl Worker {
    pub(super) fn mend(&self, task: RepairTask) -> Result<RepairStep, ImageError> {
        match task {
            RepairTask::Read { connection, chunk } => {
                let bytes = match self.image.view().chunk(chunk.body, chunk.index) {
                    Ok(bytes) => Some(bytes),
                    // Whatever is damaged: the peer has asked, and this end goes on.
                    Err(error) if is_damage(&error) => None,
                    Err(error) => return Err(error),
                };
                let crc = bytes.as_ref().map_or(0, |bytes| payload_crc(bytes));
                Ok(RepairStep::Read { connection, chunk, bytes, crc })
            }
            RepairTask::Put { chunk, bytes, vouched } => {
                let mended = match self.image.repair(chunk, &bytes, vouched) {
                    Err(error) if is_damage(&error) => Mended::Barred,
                    mended => mended?,
                };
                Ok(RepairStep::Put { chunk, mended })
            }
        }
    }
}
