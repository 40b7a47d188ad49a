//! Makes a scenario from a seed: a workload of few clients on few keys, and faults that come in episodes, so that some
//! runs are calm, some have one bad day and a few have everything at once.

use lockstep_mirror::plan::{AckLevel, Policy};

use super::random::Random;
use super::scenario::{BACKLOG_LIMIT, Order, Scenario, Site, Step, Write};

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
    let mut draw = Draw { random, at: 50, steps: Vec::new(), lost: false };
    draw.write(Write::CreateBucket { bucket: 0 });
    draw.write(Write::CreateBucket { bucket: 1 });
    let trouble = draw.random.weighted(&[(1, 0), (3, 4), (4, 10), (2, 25)]);
    let steps = draw.random.between(10, 60);
    for _ in 0..steps {
        if draw.random.chance(trouble) {
            draw.trouble();
        } else {
            draw.work();
        }
    }
    Scenario { noise, policy, ack, link_timeout_ms, sync_interval_ms, way_back, backlog_limit, steps: draw.steps }
}

struct Draw {
    random: Random,
    at: u64,
    steps: Vec<(u64, Step)>,
    lost: bool,
}

impl Draw {
    fn push(&mut self, step: Step) {
        self.steps.push((self.at, step));
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
            0 => Some(Site::A),
            1 => Some(Site::B),
            _ => None,
        };
        self.push(Step::Write { write, at, require });
    }

    fn site(&mut self) -> Site {
        self.random.weighted(&[(1, Site::A), (1, Site::B)])
    }

    fn key(&mut self) -> u8 {
        self.random.below(KEYS) as u8
    }

    fn chunks(&mut self) -> u8 {
        // The last is more than a segment holds.
        self.random.weighted(&[(24, 0), (18, 1), (12, 2), (6, 4), (3, 16)])
    }

    fn work(&mut self) {
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
        self.pause();
        let site = self.site();
        match self.random.below(42) {
            0..4 => self.episode(Step::Crash(site), Some(Step::Restart(site))),
            4..6 => {
                let effects = self.random.below(80) as u32;
                self.episode(Step::CrashAfter(site, effects), None);
            }

            6..9 => self.episode(Step::Cut(site), Some(Step::Heal)),
            9..11 => {
                self.push(Step::Cut(site.peer()));
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
            18 => self.episode(Step::Order(Site::A, Order::Pause), Some(Step::Order(Site::A, Order::Resume))),
            19 => {
                self.push(Step::Crash(Site::A));
                self.push(Step::Cut(Site::B));
                self.push(Step::Restart(Site::A));
                self.episode(Step::Order(Site::A, Order::Alone), Some(Step::Heal));
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
            27 if self.random.chance(50) => self.episode(Step::Renew(Site::B), None),
            25 => {
                self.push(Step::Crash(Site::A));
                self.episode(Step::Crash(Site::B), Some(Step::Restart(Site::B)));
                self.push(Step::Restart(Site::A));
            }
            28..30 => self.baseline(),
            30 | 36 | 37 => {
                // Something to be damaged, and something after it that vouches for it.
                for _ in 0..self.random.between(2, 6) {
                    self.at += self.random.between(3, 40);
                    let (key, chunks) = (self.key(), self.random.below(3) as u8);
                    self.write(Write::Put { key, chunks });
                }
                self.at += self.random.between(5, 90);
                self.episode(Step::Rot(site), Some(Step::Restart(site)));
            }
            31 if self.random.chance(50) => {
                self.push(Step::LoseEngine(Site::B));
                self.push(Step::Restart(Site::B));
                let order = self.random.weighted(&[(3, Order::Rebuild), (1, Order::RebuildLossy)]);
                self.episode(Step::Order(Site::B, order), None);
            }
            32..36 => self.failback(),
            _ => self.failover(),
        }
    }

    /// The source's disk is slower than the link: the mirror has records that the source has lost when it comes back, and
    /// then the power fails once more.
    fn lagging_disk(&mut self) {
        self.push(Step::SlowDisk(Site::A));
        for _ in 0..self.random.between(2, 5) {
            self.at += self.random.below(8);
            let (key, chunks) = (self.key(), self.random.below(3) as u8);
            self.write(Write::Put { key, chunks });
        }
        self.at += self.random.between(5, 40);
        self.push(Step::Crash(Site::A));
        self.push(Step::Restart(Site::A));
        if self.random.chance(60) {
            let effects = self.random.between(3, 12) as u32;
            self.push(Step::CrashAfter(Site::A, effects));
        } else {
            // Clients who read what they change come while the source gets its records back.
            for _ in 0..self.random.between(2, 6) {
                self.at += self.random.below(16);
                let (key, chunks) = (self.key(), self.random.below(2) as u8);
                self.write(Write::PutIf { key, chunks });
            }
        }
        self.push(Step::FastDisk(Site::A));
    }

    /// The mirror begins anew, or is away for long; what it gets then is interrupted at either end, or not.
    fn baseline(&mut self) {
        if self.random.chance(60) {
            self.push(Step::Order(Site::A, Order::Sync));
            self.at += self.random.between(50, 400);
            self.push(Step::Renew(Site::B));
        } else {
            self.push(Step::Crash(Site::B));
            for _ in 0..self.random.between(4, 12) {
                self.work();
            }
            self.at += self.random.between(400, 1_500);
            self.push(Step::Restart(Site::B));
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
                3 => self.push(Step::Order(Site::B, Order::PromoteLossy)),
                4 => self.episode(Step::Full(Site::B), Some(Step::Space(Site::B))),
                _ => self.work(),
            }
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
        self.push(Step::Restart(Site::A));
        self.push(Step::Restart(Site::B));
        self.at += self.random.between(200, 3_000);
        if self.random.chance(10) {
            self.push(Step::Order(Site::B, Order::FailbackDry));
        }
        let site = self.random.weighted(&[(4, Site::B), (1, Site::A)]);
        if self.random.chance(40) {
            let (failing, effects) = (self.site(), self.random.below(25) as u32);
            self.push(Step::CrashAfter(failing, effects));
        }
        self.push(Step::Order(site, Order::Failback));
        if self.random.chance(30) {
            // The other one goes before it has taken the offer, and the operator does not wait for it.
            self.at += self.random.between(1, 12);
            self.push(Step::Crash(site.peer()));
            self.at += self.random.between(20, 200);
            self.push(Step::Order(site, Order::PromoteLossy));
        }
        for _ in 0..self.random.below(4) {
            self.work();
        }
        match self.random.below(8) {
            0 => self.push(Step::Cut(site)),
            1 => self.push(Step::Crash(site)),
            2 => self.push(Step::Crash(site.peer())),
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
            self.push(Step::Restart(Site::A));
            self.push(Step::Restart(Site::B));
        }
    }

    /// Site A goes down, is cut off, burns down or is well, and B is promoted.
    fn failover(&mut self) {
        match self.random.below(5) {
            0 => self.push(Step::Crash(Site::A)),
            1 => self.push(Step::Cut(Site::A)),
            2 => self.push(Step::Cut(Site::B)),
            3 if !self.lost => {
                self.lost = true;
                self.push(Step::Lose(Site::A));
            }
            _ => {}
        }
        for _ in 0..self.random.below(4) {
            self.work();
        }
        if self.random.chance(30) {
            let effects = self.random.below(12) as u32;
            self.push(Step::CrashAfter(Site::B, effects));
        }
        let order = self.random.weighted(&[(2, Order::Promote), (1, Order::PromoteLossy)]);
        self.push(Step::Order(Site::B, order));
        for _ in 0..self.random.below(10) {
            self.work();
        }
        if self.random.chance(80) {
            self.push(Step::Heal);
            self.push(Step::Restart(Site::A));
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
