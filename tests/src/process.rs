//! Failures between two real `lockstep serve` processes: one is killed with SIGKILL, or the link between them is cut, while
//! writers write. Afterwards what clients were told is held against what both sites have.
//!
//! # Layout
//! - [`between`]: the link, as something that can be cut, healed and delayed: by a [`proxy`] on loopback, or between two
//!   [`hosts`].
//! - [`scene`]: two sites and their writers, and the comparison that ends every round.
//! - [`source`], [`destination`], [`link`]: what fails in a round; [`flap`]: a link that comes and goes; [`storm`]: one
//!   failure after the other; [`failback`]: failover and return.
//! - [`cut_back`]: the return of a source whose log has what its destination lacks.
//! - [`baseline`]: a destination that is made anew, and a source that went another way.
//! - [`large`]: what a baseline of many objects takes and costs.
//! - [`history`]: many clients meet at a few keys while sites fail and change roles; [`clients`] are they.
//! - [`figures`]: what a round found.
//! - [`nodes`]: nodes for tests of their own, in any number; [`disk`]: a disk for one, that can be full.

pub mod baseline;
pub mod between;
pub mod clients;
pub mod cut_back;
pub mod destination;
pub mod disk;
pub mod failback;
pub mod figures;
pub mod flap;
pub mod history;
pub mod hosts;
pub mod large;
pub mod link;
pub mod nodes;
pub mod proxy;
pub mod scene;
pub mod source;
pub mod storm;

use std::fmt;
use std::str::FromStr;

use self::figures::Figures;
use self::scene::Options;

/// What fails in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The source is killed and its destination promoted.
    Promote,
    /// The destination is killed and comes back.
    Destination,
    /// The source is killed and comes back to its destination.
    Source,
    /// Both are killed; the source comes back first and waits.
    Both,
    /// Both are killed; the source comes back and is told to go on alone.
    Alone,
    /// The destination is killed, later the source too, which comes back first and goes on alone by itself. Not `strict`.
    OutOfSync,
    /// The link is cut, one way or both, and heals.
    Cut,
    /// The link breaks and comes back again and again.
    Flap,
    /// Kills and cuts one after the other.
    Storm,
    /// The source is killed, its destination promoted; the source comes back as the destination, and gets the origin back.
    Failback,
    /// The source dies with records that its destination lacks, and returns after a promote: by a cut, without a baseline.
    Return,
    /// Clients meet at a few keys while either site fails and the origin changes hands: what they are told is one history.
    History,
    /// The destination begins anew, with nothing, while writers go on; either end is killed meanwhile.
    Baseline,
    /// The source answers alone and dies, its destination is promoted; it comes back. Not `strict`.
    Diverged,
    /// The destination's data directory is gone; it is rebuilt by command.
    Rebuild,
    /// As a baseline, of as many small objects as are asked for, under a steady pace of writes: figures.
    Large,
}

/// All kinds with their names.
pub const KINDS: [(&str, Kind); 16] = [
    ("promote", Kind::Promote),
    ("destination", Kind::Destination),
    ("source", Kind::Source),
    ("both", Kind::Both),
    ("alone", Kind::Alone),
    ("out-of-sync", Kind::OutOfSync),
    ("cut", Kind::Cut),
    ("flap", Kind::Flap),
    ("storm", Kind::Storm),
    ("failback", Kind::Failback),
    ("return", Kind::Return),
    ("history", Kind::History),
    ("baseline", Kind::Baseline),
    ("diverged", Kind::Diverged),
    ("rebuild", Kind::Rebuild),
    ("large", Kind::Large),
];

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = KINDS.iter().find(|(_, kind)| kind == self).map_or("?", |(name, _)| name);
        f.write_str(name)
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = KINDS.iter().find(|(name, _)| *name == text);
        found.map(|(_, kind)| *kind).ok_or_else(|| format!("there is no kind of round called {text}"))
    }
}

/// Runs one round in a directory of its own.
///
/// # Errors
/// When a step fails; what differs from what clients were told is in the figures.
pub async fn round(kind: Kind, options: &Options) -> Result<Figures, String> {
    match kind {
        Kind::Promote | Kind::Flap if options.housing.is_some() => Err("this kind runs on loopback only".into()),
        Kind::Promote => source::killed_and_promoted(options).await,
        Kind::Destination => destination::killed(options).await,
        Kind::Source => source::killed(options).await,
        Kind::Both => source::killed_with_its_destination(options, false).await,
        Kind::Alone => source::killed_with_its_destination(options, true).await,
        Kind::OutOfSync => source::killed_out_of_sync(options).await,
        Kind::Cut => link::cut(options).await,
        Kind::Flap => flap::flap(options).await,
        Kind::Storm => storm::storm(options).await,
        Kind::Failback => failback::there_and_back(options).await,
        Kind::Return => cut_back::returned(options).await,
        Kind::History => history::history(options).await,
        Kind::Baseline => baseline::made_anew(options).await,
        Kind::Rebuild => baseline::rebuilt(options).await,
        Kind::Large => large::large(options).await,
        Kind::Diverged => baseline::went_another_way(options).await,
    }
}
