//! Makes a scenario from a seed: a workload of few clients on few keys, and faults that come in episodes, so that some
//! runs are calm, some have one bad day and a few have everything at once.

mod decay;

use lockstep_mirror::plan::{AckLevel, Policy};

use super::random::Random;
use super::scenario::{BACKLOG_LIMIT, Order, Scenario, Site, Step, Timed, Write};
use super::topology::{Pair, Topology};

/// Keys that clients use: 0 to 3 in bucket 0, 4 in bucket 1.
pub const KEYS: u64 = 5;
/// Uploads that clients use.
pub const UPLOADS: u64 = 2;

/// The scenario of a seed.
#[must_use]
pub fn scenario(seed: u64) -> Scenario {
    let mut random = Random::new(seed);
    let policy = random.weighted(&[(5, Policy::Sync), (3, Policy::Strict), (2, Policy::Async)]);
    let ack = random.weighted(&[(6, AckLevel::Durable), (2, AckLevel::Received), (1, AckLevel::Applied)]);
    let link_timeout_ms = random.weighted(&[(2, 400), (2, 1_000), (1, 3_000)]);
    // What waits to be applied waits for steps of a worker that may be slow.
    let link_timeout_ms = if ack == AckLevel::Applied { link_timeout_ms.max(1_000) } else { link_timeout_ms };
    let sync_interval_ms = random.weighted(&[(2, 300), (2, 1_000), (1, 5_000)]);
    let noise = random.word();
    let way_back = random.chance(60);
    let backlog_limit = random.weighted(&[(7, BACKLOG_LIMIT), (2, 20_000), (1, 4_000)]);
    let topology = Random::new(seed ^ TOPOLOGY_NOISE).weighted(&[
        (6, Topology::OneWay),
        (2, Topology::BothWays),
        (1, Topology::FanIn),
        (1, Topology::Ring),
    ]);
    let pairs = topology.pairs();
    let mut draw = Draw { random, pairs, pair: pairs[0], at: 50, steps: Vec::new(), lost: false };
    for pair in pairs {
        draw.pair = *pair;
        draw.write(Write::CreateBucket { bucket: 0 });
        draw.write(Write::CreateBucket { bucket: 1 });
    }
    let trouble = draw.random.weighted(&[(1, 0), (3, 4), (4, 10), (2, 25)]);
    let steps = draw.random.between(10, 60);
    for _ in 0..steps {
        if draw.random.chance(trouble) {
            draw.trouble();
        } else {
            draw.work();
        }
    }
    Scenario {
        noise,
        policy,
        ack,
        link_timeout_ms,
        sync_interval_ms,
        topology,
        way_back,
        backlog_limit,
        steps: draw.steps,
    }
}

/// So that who mirrors whom is drawn apart from all else.
const TOPOLOGY_NOISE: u64 = 0x746f_706f_6c6f_6779;

struct Draw {
    random: Random,
    pairs: &'static [Pair],
    /// What is drawn is about this one.
    pair: Pair,
    at: u64,
    steps: Vec<Timed>,
    lost: bool,
}

impl Draw {
    fn push(&mut self, step: Step) {
        self.steps.push(Timed { at: self.at, of: self.pair.home, step });
    }

    /// Time goes on: mostly a little, so that steps meet; now and then long enough for timers.
    fn pause(&mut self) {
        self.at += match self.random.below(20) {
            0 => self.random.between(1_000, 4_000),
            1..4 => self.random.between(100, 600),
            4..12 => self.random.between(3, 60),
            _ => self.random.below(4),
        };
    }

    fn write(&mut self, write: Write) {
        let require = match self.random.below(40) {
            0..3 => Some(AckLevel::Durable),
            3 => Some(AckLevel::Received),
            4..6 => Some(AckLevel::Applied),
            _ => None,
        };
        let at = match self.random.below(30) {
            0 => Some(self.home()),
            1 => Some(self.mirror()),
            _ => None,
        };
        self.push(Step::Write { write, at, require });
    }

    /// Another origin's turn, where there are some.
    fn turn(&mut self) {
        if self.pairs.len() > 1 {
            self.pair = self.pairs[self.random.below(self.pairs.len() as u64) as usize];
        }
    }

    fn home(&self) -> Site {
        self.pair.home
    }

    fn mirror(&self) -> Site {
        self.pair.mirror
    }

    fn site(&mut self) -> Site {
        self.random.weighted(&[(1, self.home()), (1, self.mirror())])
    }

    fn key(&mut self) -> u8 {
        self.random.below(KEYS) as u8
    }

    fn chunks(&mut self) -> u8 {
        // The last is more than a segment holds.
        self.random.weighted(&[(24, 0), (18, 1), (12, 2), (6, 4), (3, 16)])
    }

    fn work(&mut self) {
        let pair = self.pair;
        self.turn();
        self.work_of_pair();
        self.pair = pair;
    }

    fn work_of_pair(&mut self) {
        self.pause();
        let key = self.key();
        let upload = self.random.below(UPLOADS) as u8;
        let chunks = self.chunks();
        match self.random.below(32) {
            0 => {
                let bucket = self.bit();
                self.write(Write::CreateBucket { bucket });
            }
            1 => {
                let bucket = self.bit();
                self.write(Write::DeleteBucket { bucket });
            }
            2..5 => self.write(Write::Delete { key }),
            5..8 => {
                let to = self.key();
                self.write(Write::Copy { from: key, to });
            }
            8..10 => self.write(Write::CreateUpload { upload }),
            10..13 => {
                let number = 1 + self.bit();
                self.write(Write::Part { upload, number, chunks: chunks.max(1) });
            }
            13 => self.write(Write::Complete { upload }),
            14 => self.write(Write::Abort { upload }),
            15 => self.write(Write::Abandon { chunks: chunks.max(1) }),
            16..19 => {
                let at = self.site();
                self.push(Step::Read { at, key });
            }
            19 => {
                let site = self.site();
                let order = self.random.weighted(&[(6, Order::Sync), (1, Order::DryRun)]);
                self.push(Step::Order(site, order));
            }
            20..23 => self.write(Write::PutIf { key, chunks }),
            _ => self.write(Write::Put { key, chunks }),
        }
    }

    fn bit(&mut self) -> u8 {
        self.random.below(2) as u8
    }

    /// An episode: something breaks, life goes on, mostly it is mended.
    fn trouble(&mut self) {
        self.turn();
        self.pause();
        if self.pairs.len() > 1 && self.random.chance(12) {
            return self.all_full();
        }
        if self.random.chance(10) {
            return self.decay();
        }
        let site = self.site();
        match self.random.below(42) {
            0..4 => self.episode(Step::Crash(site), Some(Step::Restart(site))),
            4..6 => {
                let effects = self.random.below(80) as u32;
                self.episode(Step::CrashAfter(site, effects), None);
            }

            6..9 => self.episode(Step::Cut(site), Some(Step::Heal)),
            9..11 => {
                self.push(Step::Cut(self.pair.other(site)));
                self.episode(Step::Cut(site), Some(Step::Heal));
            }
            11..13 => self.push(Step::Reset),
            13 => self.push(Step::Replay),
            14 => self.episode(Step::SlowDisk(site), Some(Step::FastDisk(site))),
            15 => self.episode(Step::Full(site), Some(Step::Space(site))),
            16 => self.episode(Step::FailPersist(site), Some(Step::Restart(site))),
            17 => {
                let ms = i64::from(self.random.between(0, 20_000) as u32) - 10_000;
                self.push(Step::Clock(site, ms));
            }
            18 => self.episode(Step::Order(self.home(), Order::Pause), Some(Step::Order(self.home(), Order::Resume))),
            19 => {
                self.push(Step::Crash(self.home()));
                self.push(Step::Cut(self.mirror()));
                self.push(Step::Restart(self.home()));
                self.episode(Step::Order(self.home(), Order::Alone), Some(Step::Heal));
            }
            20 => self.episode(Step::Order(site, Order::Shutdown), Some(Step::Crash(site))),
            21..23 => {
                // With a write under way, whose ack finds nobody.
                // Mostly a little longer than one of the link's timeouts.
                let least = self.random.weighted(&[(3, 400), (3, 1_000), (2, 3_000), (2, 50)]);
                let (key, ms) = (self.key(), least + self.random.below(if least == 50 { 4_000 } else { 200 }));
                self.write(Write::Put { key, chunks: 0 });
                self.at += self.random.below(8);
                self.episode(Step::Stall(site, ms), None);
            }
            23 => self.episode(Step::FailFlush(site), Some(Step::Restart(site))),
            24 | 26 => self.lagging_disk(),
            27 if self.random.chance(60) => {
                let site = self.random.weighted(&[(5, self.mirror()), (1, self.home())]);
                self.episode(Step::Renew(site), None);
            }
            25 => {
                self.push(Step::Crash(self.home()));
                self.episode(Step::Crash(self.mirror()), Some(Step::Restart(self.mirror())));
                self.push(Step::Restart(self.home()));
            }
            28..30 => self.baseline(),
            30 | 36 | 37 => self.rot(site),
            31 if self.random.chance(50) => {
                self.push(Step::LoseEngine(self.mirror()));
                self.push(Step::Restart(self.mirror()));
                let order = self.random.weighted(&[(3, Order::Rebuild), (1, Order::RebuildLossy)]);
                self.episode(Step::Order(self.mirror(), order), None);
            }
            32..36 => self.failback(),
            38 => self.shear(),
            _ => self.failover(),
        }
    }

    /// Every source writes more than its partition holds, and engines are slow to take it.
    fn all_full(&mut self) {
        let pair = self.pair;
        for each in self.pairs {
            self.push(Step::SlowDisk(each.home));
        }
        for _ in 0..self.random.between(2, 5) {
            for each in self.pairs {
                self.pair = *each;
                let (key, chunks) = (self.key(), self.random.between(12, 20) as u8);
                self.write(Write::Put { key, chunks });
                self.at += self.random.below(3);
            }
        }
        self.pair = pair;
        self.at += self.random.between(100, 3_000);
        for each in self.pairs {
            self.push(Step::FastDisk(each.home));
        }
    }

    /// The source's disk is slower than the link: the mirror has records that the source has lost when it comes back, and
    /// then the power fails once more.
    fn lagging_disk(&mut self) {
        self.push(Step::SlowDisk(self.home()));
        for _ in 0..self.random.between(2, 5) {
            self.at += self.random.below(8);
            let (key, chunks) = (self.key(), self.random.below(3) as u8);
            self.write(Write::Put { key, chunks });
        }
        self.at += self.random.between(5, 40);
        self.push(Step::Crash(self.home()));
        self.push(Step::Restart(self.home()));
        if self.random.chance(60) {
            let effects = self.random.between(3, 12) as u32;
            self.push(Step::CrashAfter(self.home(), effects));
        } else {
            // Clients who read what they change come while the source gets its records back.
            for _ in 0..self.random.between(2, 6) {
                self.at += self.random.below(16);
                let (key, chunks) = (self.key(), self.random.below(2) as u8);
                self.write(Write::PutIf { key, chunks });
            }
        }
        self.push(Step::FastDisk(self.home()));
    }

    /// The mirror begins anew, or is away for long; what it gets then is interrupted at either end, or not.
    fn baseline(&mut self) {
        if self.random.chance(60) {
            self.push(Step::Order(self.home(), Order::Sync));
            self.at += self.random.between(50, 400);
            self.push(Step::Renew(self.mirror()));
        } else {
            self.push(Step::Crash(self.mirror()));
            for _ in 0..self.random.between(4, 12) {
                self.work();
            }
            self.at += self.random.between(400, 1_500);
            self.push(Step::Restart(self.mirror()));
        }
        for _ in 0..self.random.below(4) {
            self.at += self.random.between(5, 250);
            let site = self.site();
            match self.random.below(6) {
                0 => self.push(Step::Reset),
                1 => self.episode(Step::Crash(site), Some(Step::Restart(site))),
                2 => {
                    let effects = self.random.below(60) as u32;
                    self.push(Step::CrashAfter(site, effects));
                }
                3 => self.push(Step::Order(self.mirror(), Order::PromoteLossy)),
                4 => self.episode(Step::Full(self.mirror()), Some(Step::Space(self.mirror()))),
                _ => self.work(),
            }
        }
    }

    /// Something to be damaged, and something after it that vouches for it.
    fn rot(&mut self, site: Site) {
        for _ in 0..self.random.between(2, 6) {
            self.at += self.random.between(3, 40);
            let (key, chunks) = (self.key(), self.random.below(3) as u8);
            self.write(Write::Put { key, chunks });
        }
        self.at += self.random.between(5, 90);
        self.episode(Step::Rot(site), Some(Step::Restart(site)));
    }

    /// A log loses its end, after a superblock that knows of it; the other site may be away when it starts again, and
    /// somebody wants to go on.
    fn shear(&mut self) {
        self.push(Step::Order(self.home(), Order::Sync));
        for _ in 0..self.random.between(3, 8) {
            self.at += self.random.below(30);
            let (key, chunks) = (self.key(), self.random.below(2) as u8);
            self.write(Write::Put { key, chunks });
        }
        self.at += self.random.between(5, 60);
        let site = self.random.weighted(&[(3, self.mirror()), (1, self.home())]);
        self.push(Step::Shear(site));
        if self.random.chance(60) {
            self.push(Step::Crash(self.pair.other(site)));
        }
        self.push(Step::Restart(site));
        if self.random.chance(60) {
            self.at += self.random.below(50);
            self.push(Step::Order(self.mirror(), Order::Promote));
        }
    }

    fn episode(&mut self, begin: Step, end: Option<Step>) {
        self.push(begin);
        for _ in 0..self.random.below(8) {
            self.work();
        }
        self.pause();
        if let Some(end) = end
            && self.random.chance(85)
        {
            self.push(end);
            if end == Step::Heal && self.random.chance(45) {
                let (site, effects) = (self.site(), self.random.below(60) as u32);
                self.push(Step::CrashAfter(site, effects));
            }
            if let Step::Crash(site) = end {
                self.push(Step::Restart(site));
            }
        }
    }

    /// Everything is mended, and the origin goes back, or is asked to, where it is now; somebody may fail on the way.
    fn failback(&mut self) {
        self.push(Step::Heal);
        self.push(Step::Restart(self.home()));
        self.push(Step::Restart(self.mirror()));
        self.at += self.random.between(200, 3_000);
        if self.random.chance(10) {
            self.push(Step::Order(self.mirror(), Order::FailbackDry));
        }
        let site = self.random.weighted(&[(4, self.mirror()), (1, self.home())]);
        if self.random.chance(40) {
            let (failing, effects) = (self.site(), self.random.below(25) as u32);
            self.push(Step::CrashAfter(failing, effects));
        }
        self.push(Step::Order(site, Order::Failback));
        if self.random.chance(30) {
            // The other one goes before it has taken the offer, and the operator does not wait for it.
            self.at += self.random.between(1, 12);
            self.push(Step::Crash(self.pair.other(site)));
            self.at += self.random.between(20, 200);
            self.push(Step::Order(site, Order::PromoteLossy));
        }
        for _ in 0..self.random.below(4) {
            self.work();
        }
        match self.random.below(8) {
            0 => self.push(Step::Cut(site)),
            1 => self.push(Step::Crash(site)),
            2 => self.push(Step::Crash(self.pair.other(site))),
            3 => self.push(Step::Reset),
            _ => {}
        }
        for _ in 0..self.random.below(6) {
            self.work();
        }
        if self.random.chance(15) {
            self.push(Step::Order(site, Order::PromoteLossy));
        }
        if self.random.chance(80) {
            self.push(Step::Heal);
            self.push(Step::Restart(self.home()));
            self.push(Step::Restart(self.mirror()));
        }
    }

    /// Site A goes down, is cut off, burns down or is well, and B is promoted.
    fn failover(&mut self) {
        match self.random.below(5) {
            0 => self.push(Step::Crash(self.home())),
            1 => self.push(Step::Cut(self.home())),
            2 => self.push(Step::Cut(self.mirror())),
            3 if !self.lost => {
                self.lost = true;
                self.push(Step::Lose(self.home()));
            }
            _ => {}
        }
        for _ in 0..self.random.below(4) {
            self.work();
        }
        if self.random.chance(30) {
            let effects = self.random.below(12) as u32;
            self.push(Step::CrashAfter(self.mirror(), effects));
        }
        let order = self.random.weighted(&[(2, Order::Promote), (1, Order::PromoteLossy)]);
        self.push(Step::Order(self.mirror(), order));
        for _ in 0..self.random.below(10) {
            self.work();
        }
        if self.random.chance(80) {
            self.push(Step::Heal);
            self.push(Step::Restart(self.home()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_can_be_read_back_from_its_text() {
        for seed in 0..300 {
            let made = scenario(seed);
            assert_eq!(made.to_string().parse::<Scenario>(), Ok(made));
        }
    }
}
