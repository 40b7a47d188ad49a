//! A scenario: everything that happens to the sites from outside, as a list of steps with their times. A seed makes
//! one; a failing one is printed as text and can be pasted as a named test. What happens inside (latencies, what a crash
//! leaves) is drawn from its `noise`, so a scenario decides a run as a seed does.

use std::fmt;
use std::str::FromStr;

use lockstep_mirror::plan::{AckLevel, Policy};

pub use super::topology::Site;
use super::topology::{Pair, Topology};

/// What an operator orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Sync,
    Pause,
    Resume,
    Alone,
    DryRun,
    Promote,
    PromoteLossy,
    Failback,
    FailbackDry,
    Rebuild,
    RebuildLossy,
    Shutdown,
}

/// What a client wants. Keys are few, so that clients meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    CreateBucket {
        bucket: u8,
    },
    DeleteBucket {
        bucket: u8,
    },
    /// `chunks` 0 is an inline object.
    Put {
        key: u8,
        chunks: u8,
    },
    /// As [`Write::Put`], if the object is still the one that the client knows: reads first, so it locks.
    PutIf {
        key: u8,
        chunks: u8,
    },
    Delete {
        key: u8,
    },
    Copy {
        from: u8,
        to: u8,
    },
    CreateUpload {
        upload: u8,
    },
    Part {
        upload: u8,
        number: u8,
        chunks: u8,
    },
    Complete {
        upload: u8,
    },
    Abort {
        upload: u8,
    },
    /// A client that goes away before its object is whole.
    Abandon {
        chunks: u8,
    },
}

/// One thing that happens from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A client's write, to whom clients are directed to, or to this site.
    Write {
        write: Write,
        at: Option<Site>,
        require: Option<AckLevel>,
    },
    Read {
        at: Site,
        key: u8,
    },
    Crash(Site),
    /// The power fails after so many more things that its core asks for, between any two of them; it starts again by itself.
    CrashAfter(Site, u32),
    Restart(Site),
    /// The site burns down: NVRAM and engine too.
    Lose(Site),
    /// The site begins anew, with an empty NVRAM and no engine.
    Renew(Site),
    /// The power fails, and a durable record in the middle of the log is damaged.
    Rot(Site),
    /// The power fails, and the end of the log is damaged, so that it seems to end before.
    Shear(Site),
    /// The power fails, and the engine of the origin is gone.
    LoseEngine(Site),
    /// A chunk of a body is damaged, of those that the other site has too.
    RotChunk(Site),
    /// The engine of the origin is damaged, where the site is its destination: found while it runs, or at the next start.
    DamageEngine(Site),
    /// Nothing that this site sends arrives.
    Cut(Site),
    Heal,
    /// Standing connections break.
    Reset,
    /// A connection that is gone delivers one of its messages once more.
    Replay,
    SlowDisk(Site),
    FastDisk(Site),
    Full(Site),
    Space(Site),
    /// The next persist fails.
    FailPersist(Site),
    /// The engine's next flush fails for good.
    FailFlush(Site),
    /// The process is paused for so many milliseconds; what arrives meanwhile waits in its inbox.
    Stall(Site, u64),
    /// The wall clock jumps, in milliseconds.
    Clock(Site, i64),
    Order(Site, Order),
}

/// A step, when it comes and whom it concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timed {
    /// In milliseconds from the start.
    pub at: u64,
    /// The home of the origin that it is about, where it is about one.
    pub of: Site,
    /// What happens.
    pub step: Step,
}

/// A whole scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    /// Decides latencies, surviving sectors and the like.
    pub noise: u64,
    /// The stream's policy.
    pub policy: Policy,
    /// The stream's ack level.
    pub ack: AckLevel,
    /// The stream's `link_timeout`, in milliseconds.
    pub link_timeout_ms: u64,
    /// Time between consistency points, in milliseconds.
    pub sync_interval_ms: u64,
    /// Who mirrors whom.
    pub topology: Topology,
    /// Mirrors know the way back: once one is promoted, its writes go to the origin's home.
    pub way_back: bool,
    /// Most bytes that wait for a destination that is away.
    pub backlog_limit: u64,
    /// What happens.
    pub steps: Vec<Timed>,
}

impl Scenario {
    /// The origin that a step is about.
    #[must_use]
    pub fn pair(&self, of: Site) -> Pair {
        self.topology.pair_of(of).unwrap_or(self.topology.pairs()[0])
    }
}

/// A backlog that no scenario fills.
pub const BACKLOG_LIMIT: u64 = 1 << 30;

const POLICIES: [(&str, Policy); 3] = [("strict", Policy::Strict), ("sync", Policy::Sync), ("async", Policy::Async)];
const LEVELS: [(&str, AckLevel); 3] =
    [("received", AckLevel::Received), ("durable", AckLevel::Durable), ("applied", AckLevel::Applied)];
const SITES: [(&str, Site); 3] = [("a", Site::A), ("b", Site::B), ("c", Site::C)];
const TOPOLOGIES: [(&str, Topology); 4] = [
    ("one-way", Topology::OneWay),
    ("both-ways", Topology::BothWays),
    ("fan-in", Topology::FanIn),
    ("ring", Topology::Ring),
];
const ORDERS: [(&str, Order); 12] = [
    ("sync", Order::Sync),
    ("pause", Order::Pause),
    ("resume", Order::Resume),
    ("alone", Order::Alone),
    ("dry-run", Order::DryRun),
    ("promote", Order::Promote),
    ("promote-lossy", Order::PromoteLossy),
    ("failback", Order::Failback),
    ("failback-dry", Order::FailbackDry),
    ("rebuild", Order::Rebuild),
    ("rebuild-lossy", Order::RebuildLossy),
    ("shutdown", Order::Shutdown),
];

fn word<T: Copy + PartialEq>(table: &[(&'static str, T)], value: T) -> &'static str {
    table.iter().find(|(_, v)| *v == value).map_or("?", |(name, _)| name)
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (policy, ack) = (word(&POLICIES, self.policy), word(&LEVELS, self.ack));
        let (timeout, interval) = (self.link_timeout_ms, self.sync_interval_ms);
        let back = if self.way_back { " way-back" } else { "" };
        write!(f, "noise {} policy {policy} ack {ack} timeout {timeout} interval {interval}{back}", self.noise)?;
        if self.backlog_limit != BACKLOG_LIMIT {
            write!(f, " backlog {}", self.backlog_limit)?;
        }
        if self.topology != Topology::OneWay {
            write!(f, " sites {}", word(&TOPOLOGIES, self.topology))?;
        }
        writeln!(f)?;
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Timed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>6} {}", self.at, self.step)?;
        if self.of == Site::A { Ok(()) } else { write!(f, " of {}", word(&SITES, self.of)) }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let site = |site: &Site| word(&SITES, *site);
        match self {
            Self::Write { write, at, require } => {
                write!(f, "{write}")?;
                if let Some(at) = at {
                    write!(f, " at {}", site(at))?;
                }
                if let Some(level) = require {
                    write!(f, " require {}", word(&LEVELS, *level))?;
                }
                Ok(())
            }
            Self::Read { at, key } => write!(f, "read {} {key}", site(at)),
            Self::Crash(s) => write!(f, "crash {}", site(s)),
            Self::CrashAfter(s, effects) => write!(f, "crash-after {} {effects}", site(s)),
            Self::Restart(s) => write!(f, "restart {}", site(s)),
            Self::Lose(s) => write!(f, "lose {}", site(s)),
            Self::Renew(s) => write!(f, "renew {}", site(s)),
            Self::Rot(s) => write!(f, "rot {}", site(s)),
            Self::Shear(s) => write!(f, "shear {}", site(s)),
            Self::LoseEngine(s) => write!(f, "lose-engine {}", site(s)),
            Self::RotChunk(s) => write!(f, "rot-chunk {}", site(s)),
            Self::DamageEngine(s) => write!(f, "damage-engine {}", site(s)),
            Self::Cut(s) => write!(f, "cut {}", site(s)),
            Self::Heal => f.write_str("heal"),
            Self::Reset => f.write_str("reset"),
            Self::Replay => f.write_str("replay"),
            Self::SlowDisk(s) => write!(f, "slow-disk {}", site(s)),
            Self::FastDisk(s) => write!(f, "fast-disk {}", site(s)),
            Self::Full(s) => write!(f, "full {}", site(s)),
            Self::Space(s) => write!(f, "space {}", site(s)),
            Self::FailPersist(s) => write!(f, "fail-persist {}", site(s)),
            Self::FailFlush(s) => write!(f, "fail-flush {}", site(s)),
            Self::Stall(s, ms) => write!(f, "stall {} {ms}", site(s)),
            Self::Clock(s, ms) => write!(f, "clock {} {ms}", site(s)),
            Self::Order(s, order) => write!(f, "order {} {}", site(s), word(&ORDERS, *order)),
        }
    }
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateBucket { bucket } => write!(f, "create-bucket {bucket}"),
            Self::DeleteBucket { bucket } => write!(f, "delete-bucket {bucket}"),
            Self::Put { key, chunks } => write!(f, "put {key} {chunks}"),
            Self::PutIf { key, chunks } => write!(f, "put-if {key} {chunks}"),
            Self::Delete { key } => write!(f, "delete {key}"),
            Self::Copy { from, to } => write!(f, "copy {from} {to}"),
            Self::CreateUpload { upload } => write!(f, "create-upload {upload}"),
            Self::Part { upload, number, chunks } => write!(f, "part {upload} {number} {chunks}"),
            Self::Complete { upload } => write!(f, "complete {upload}"),
            Self::Abort { upload } => write!(f, "abort {upload}"),
            Self::Abandon { chunks } => write!(f, "abandon {chunks}"),
        }
    }
}

/// Words of a line, taken one by one.
struct Words<'a> {
    line: &'a str,
    words: std::str::SplitWhitespace<'a>,
}

impl<'a> Words<'a> {
    fn new(line: &'a str) -> Self {
        Self { line, words: line.split_whitespace() }
    }

    fn word(&mut self) -> Result<&'a str, String> {
        self.words.next().ok_or_else(|| format!("'{}' ends too early", self.line))
    }

    fn number<T: FromStr>(&mut self) -> Result<T, String> {
        let word = self.word()?;
        word.parse().map_err(|_| format!("'{word}' in '{}' is not a number here", self.line))
    }

    fn of<T: Copy>(&mut self, table: &[(&'static str, T)]) -> Result<T, String> {
        let word = self.word()?;
        let found = table.iter().find(|(name, _)| *name == word);
        found.map(|(_, value)| *value).ok_or_else(|| format!("'{word}' in '{}' is not known", self.line))
    }

    fn field<T>(&mut self, name: &str, read: impl FnOnce(&mut Self) -> Result<T, String>) -> Result<T, String> {
        let word = self.word()?;
        if word != name {
            return Err(format!("'{name}' should stand where '{word}' does in '{}'", self.line));
        }
        read(self)
    }
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let mut head = Words::new(lines.next().unwrap_or_default());
        let mut scenario = Self {
            noise: head.field("noise", Words::number)?,
            policy: head.field("policy", |w| w.of(&POLICIES))?,
            ack: head.field("ack", |w| w.of(&LEVELS))?,
            link_timeout_ms: head.field("timeout", Words::number)?,
            sync_interval_ms: head.field("interval", Words::number)?,
            topology: Topology::OneWay,
            way_back: false,
            backlog_limit: BACKLOG_LIMIT,
            steps: Vec::new(),
        };
        while let Ok(word) = head.word() {
            match word {
                "way-back" => scenario.way_back = true,
                "backlog" => scenario.backlog_limit = head.number()?,
                "sites" => scenario.topology = head.of(&TOPOLOGIES)?,
                other => return Err(format!("'{other}' in '{}' is not known", head.line)),
            }
        }
        for line in lines {
            let (what, of) = line.rsplit_once(" of ").map_or((line, Ok(Site::A)), |(what, of)| {
                let pair = Words::new(of).of(&SITES).map(|home| scenario.topology.pair_of(home));
                let home = pair.and_then(|pair| pair.ok_or_else(|| format!("'{of}' in '{line}' has no mirror")));
                (what, home.map(|pair| pair.home))
            });
            let mut words = Words::new(what);
            let at = words.number()?;
            scenario.steps.push(Timed { at, of: of?, step: step(&mut words)? });
        }
        Ok(scenario)
    }
}

fn step(words: &mut Words) -> Result<Step, String> {
    let name = words.word()?;
    Ok(match name {
        "read" => Step::Read { at: words.of(&SITES)?, key: words.number()? },
        "crash" => Step::Crash(words.of(&SITES)?),
        "crash-after" => Step::CrashAfter(words.of(&SITES)?, words.number()?),
        "restart" => Step::Restart(words.of(&SITES)?),
        "lose" => Step::Lose(words.of(&SITES)?),
        "renew" => Step::Renew(words.of(&SITES)?),
        "rot" => Step::Rot(words.of(&SITES)?),
        "shear" => Step::Shear(words.of(&SITES)?),
        "lose-engine" => Step::LoseEngine(words.of(&SITES)?),
        "rot-chunk" => Step::RotChunk(words.of(&SITES)?),
        "damage-engine" => Step::DamageEngine(words.of(&SITES)?),
        "cut" => Step::Cut(words.of(&SITES)?),
        "heal" => Step::Heal,
        "reset" => Step::Reset,
        "replay" => Step::Replay,
        "slow-disk" => Step::SlowDisk(words.of(&SITES)?),
        "fast-disk" => Step::FastDisk(words.of(&SITES)?),
        "full" => Step::Full(words.of(&SITES)?),
        "space" => Step::Space(words.of(&SITES)?),
        "fail-persist" => Step::FailPersist(words.of(&SITES)?),
        "fail-flush" => Step::FailFlush(words.of(&SITES)?),
        "stall" => Step::Stall(words.of(&SITES)?, words.number()?),
        "clock" => Step::Clock(words.of(&SITES)?, words.number()?),
        "order" => Step::Order(words.of(&SITES)?, words.of(&ORDERS)?),
        _ => {
            let write = write(name, words)?;
            let (mut at, mut require) = (None, None);
            while let Ok(word) = words.word() {
                match word {
                    "at" => at = Some(words.of(&SITES)?),
                    "require" => require = Some(words.of(&LEVELS)?),
                    other => return Err(format!("'{other}' in '{}' is not known", words.line)),
                }
            }
            Step::Write { write, at, require }
        }
    })
}

fn write(name: &str, words: &mut Words) -> Result<Write, String> {
    Ok(match name {
        "create-bucket" => Write::CreateBucket { bucket: words.number()? },
        "delete-bucket" => Write::DeleteBucket { bucket: words.number()? },
        "put" => Write::Put { key: words.number()?, chunks: words.number()? },
        "put-if" => Write::PutIf { key: words.number()?, chunks: words.number()? },
        "delete" => Write::Delete { key: words.number()? },
        "copy" => Write::Copy { from: words.number()?, to: words.number()? },
        "create-upload" => Write::CreateUpload { upload: words.number()? },
        "part" => Write::Part { upload: words.number()?, number: words.number()?, chunks: words.number()? },
        "complete" => Write::Complete { upload: words.number()? },
        "abort" => Write::Abort { upload: words.number()? },
        "abandon" => Write::Abandon { chunks: words.number()? },
        other => return Err(format!("'{other}' is no step")),
    })
}
