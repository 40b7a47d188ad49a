//! A record that cannot be applied, and would not be by a second try: its bytes are damaged, or it is of no known kind (F42).
//!
//! The image stays before it and is read as it was. A destination goes on taking the log and acknowledges what it persists; a
//! source takes no more writes, for it could not answer them, and sends what it has. The record is named wherever somebody
//! asks, and a promote here is refused: it would never end. What ends it is another image: a baseline, or a cut before it.

use lockstep_storage::id::Seq;

use super::Context;
use super::log::{Log, Side};

impl Log {
    /// The worker has met it, and has said so in the log.
    pub(super) fn on_stuck(&mut self, at: Seq, reason: String, cx: &mut Context) {
        // Said of an image that a baseline has replaced since.
        if at <= self.applied.seq {
            return;
        }
        self.stuck = Some((at, reason));
        let Some(text) = self.why_stuck() else { return };
        match &self.side {
            Side::Source(_) => {
                self.refuse_submissions(&text, cx);
                self.give_up(&text, 0, false, cx);
                self.refuse_points(&text, cx);
            }
            Side::Destination(destination) => {
                // The fence stands, or is on its way: whoever asked for it does not wait for ever.
                if let Some(ticket) = destination.promotion.as_ref().and_then(|promotion| promotion.ticket) {
                    cx.reply_error(ticket, text);
                }
            }
        }
    }

    /// One sentence that names the record; none where every record can be applied, as far as is known.
    pub(super) fn why_stuck(&self) -> Option<String> {
        let (at, reason) = self.stuck.as_ref()?;
        let (origin, before) = (&self.origin, at.prev());
        Some(format!("record {at} of {origin} cannot be applied, the image stays at {before}: {reason}"))
    }
}
