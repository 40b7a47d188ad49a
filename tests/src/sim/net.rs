//! The links: connections between processes, each a pair of ordered streams of messages, as TCP is. Nothing is lost or
//! reordered within a connection that stands; one that breaks loses the end of what was under way; what is left of an old
//! one may arrive after a new one stands.

use std::collections::VecDeque;

use lockstep_mirror::event::Connection;
use lockstep_mirror::message::Message;
use lockstep_storage::id::{Origin, Seq};

use super::scenario::Site;

/// One end of a connection.
#[derive(Debug, Clone, Copy)]
pub struct End {
    /// Where.
    pub site: Site,
    /// In which process.
    pub boot: u32,
    /// Its number there.
    pub number: Connection,
    /// This end has neither closed nor heard of the end.
    pub open: bool,
}

/// What travels.
#[derive(Debug, Clone)]
pub enum Parcel {
    /// A message.
    Message(Message),
    /// The other end has gone.
    End,
}

/// A connection.
#[derive(Debug)]
pub struct Link {
    /// Whose stream.
    pub origin: Origin,
    /// The opener, then the one that accepted.
    pub ends: [End; 2],
    /// What is under way to each end.
    pub queues: [VecDeque<Parcel>; 2],
    /// When the last of it arrives.
    pub last_arrival: [u64; 2],
    /// Arrivals that wait for a cut link to heal.
    pub held: [u32; 2],
    /// Messages that each end has had, for stale deliveries.
    pub spent: [Vec<Message>; 2],
    /// The last record that the source has sent.
    pub sent: Seq,
    /// The consistency point that it has asked for.
    pub asked: Seq,
    /// Bytes of records that the source has sent, and how many it was granted.
    pub spent_bytes: u64,
    /// As its end has heard.
    pub credit: u64,
}

impl Link {
    /// A connection that both ends have.
    #[must_use]
    pub fn new(origin: Origin, opener: End, acceptor: End) -> Self {
        Self {
            origin,
            ends: [opener, acceptor],
            queues: Default::default(),
            last_arrival: [0; 2],
            held: [0; 2],
            spent: Default::default(),
            sent: Seq::ZERO,
            asked: Seq::ZERO,
            spent_bytes: 0,
            credit: 0,
        }
    }

    /// The end that this process has under this number.
    #[must_use]
    pub fn end(&self, site: Site, boot: u32, number: Connection) -> Option<usize> {
        self.ends.iter().position(|end| (end.site, end.boot, end.number) == (site, boot, number))
    }
}
