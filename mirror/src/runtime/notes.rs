//! The log of events: every line that says what became of an origin, its stream, its disks or its peer's clock is written
//! here, with the same fields under the same names.

use lockstep_storage::id::Origin;

use crate::client::Role;
use crate::note::{Level, Note};

/// Writes one line.
pub(super) fn write(origin: &Origin, note: &Note) {
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                event = note.what.as_str(),
                %origin,
                peer = note.peer.as_ref().map(tracing::field::display),
                role = note.role.map(Role::as_str).map(tracing::field::display),
                from = note.from.map(tracing::field::display),
                to = note.to.map(tracing::field::display),
                reason = note.reason.as_deref(),
                retry_ms = note.retry_ms,
                epoch = note.epoch.map(tracing::field::display),
                first = note.first.map(tracing::field::display),
                seq = note.seq.map(tracing::field::display),
                count = note.count,
                bytes = note.bytes,
                ms = note.ms,
                skew_ms = note.skew_ms,
            )
        };
    }
    match note.what.level() {
        Level::Info => line!(info),
        Level::Warn => line!(warn),
    }
}
