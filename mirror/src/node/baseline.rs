//! A baseline: the destination's image is made anew from the source's, because records that it lacks are trimmed, or
//! because it holds another history.
//!
//! The source freezes its image at a record N, keeps every record after it, and sends the frozen image in pieces, as fast as
//! the destination stores them and the plan allows; writes go on. The destination fills an engine of the next generation;
//! its own image stays, and may be promoted, until one write of the superblock puts the new one in its place. Then it is at
//! record N, and gets what follows as any destination that is behind.
//!
//! Either end may crash at any moment: what is frozen and what is filled are durable, and go on where they were.
//!
//! # Layout
//! - [`give`]: the source's end.
//! - [`take`]: the destination's.

pub(super) mod give;
pub(super) mod take;
