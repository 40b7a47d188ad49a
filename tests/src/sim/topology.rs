//! Who mirrors whom: the sites of a run, and the origins of which one site has a mirror of another's.

use lockstep_storage::id::Origin;

/// A site. Its node's name is its letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "letters are names")]
pub enum Site {
    A,
    B,
    C,
}

/// How many sites there may be.
pub const SITES: usize = 3;

impl Site {
    /// Each that there may be.
    pub const ALL: [Self; SITES] = [Self::A, Self::B, Self::C];

    /// Counted from 0.
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }

    /// The origin of its clients' writes.
    #[must_use]
    pub fn origin(self) -> Origin {
        let name = match self {
            Self::A => "a",
            Self::B => "b",
            Self::C => "c",
        };
        Origin::new(name).unwrap_or_else(|_| unreachable!("a name"))
    }
}

/// An origin with a mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pair {
    /// The origin's own node.
    pub home: Site,
    /// Its destination.
    pub mirror: Site,
}

impl Pair {
    /// Both.
    #[must_use]
    pub fn sites(self) -> [Site; 2] {
        [self.home, self.mirror]
    }

    /// Is this one of the two?
    #[must_use]
    pub fn has(self, site: Site) -> bool {
        self.sites().contains(&site)
    }

    /// The other one of the two.
    #[must_use]
    pub fn other(self, site: Site) -> Site {
        if site == self.home { self.mirror } else { self.home }
    }

    /// Whose writes.
    #[must_use]
    pub fn origin(self) -> Origin {
        self.home.origin()
    }
}

/// Who mirrors whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topology {
    /// A to B.
    OneWay,
    /// A to B and B to A.
    BothWays,
    /// A to B and C to B.
    FanIn,
    /// A to B, B to C and C to A.
    Ring,
}

const A_B: Pair = Pair { home: Site::A, mirror: Site::B };
const B_A: Pair = Pair { home: Site::B, mirror: Site::A };
const C_B: Pair = Pair { home: Site::C, mirror: Site::B };
const B_C: Pair = Pair { home: Site::B, mirror: Site::C };
const C_A: Pair = Pair { home: Site::C, mirror: Site::A };

impl Topology {
    /// The origins with a mirror; that of site A is the first.
    #[must_use]
    pub fn pairs(self) -> &'static [Pair] {
        match self {
            Self::OneWay => &[A_B],
            Self::BothWays => &[A_B, B_A],
            Self::FanIn => &[A_B, C_B],
            Self::Ring => &[A_B, B_C, C_A],
        }
    }

    /// The sites that there are.
    #[must_use]
    pub fn sites(self) -> &'static [Site] {
        match self {
            Self::OneWay | Self::BothWays => &Site::ALL[..2],
            Self::FanIn | Self::Ring => &Site::ALL,
        }
    }

    /// The pair of a site's origin, where it has a mirror.
    #[must_use]
    pub fn pair_of(self, home: Site) -> Option<Pair> {
        self.pairs().iter().copied().find(|pair| pair.home == home)
    }
}
