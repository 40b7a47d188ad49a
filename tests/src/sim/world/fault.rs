//! Steps of the scenario: what clients, operators and bad luck do. And the start of a process.

use std::collections::VecDeque;
use std::fmt::Write;

use bytes::Bytes;
use lockstep_mirror::event::{Command, Effect, Event, Ticket};
use lockstep_storage::id::{Origin, Seq};
use lockstep_storage::image::{Change, Engine, Family, Image, keys};
use lockstep_storage::nvram::Nvram;
use lockstep_storage::superblock::{PARTITIONS_AT, StoredRole, Superblock};

use super::{Happening, World};
use crate::sim::coverage::Seen;
use crate::sim::engines::SimGenerations;
use crate::sim::mistake::Mistake;
use crate::sim::model::{Checked, broken};
use crate::sim::scenario::{Order, Site, Step, Timed};
use crate::sim::site::{Dying, Process, SiteState, Worker};
use crate::sim::topology::Pair;

impl World {
    /// One step of the scenario.
    pub(super) fn step(&mut self, timed: Timed) -> Checked {
        let (step, pair) = (timed.step, self.pair(timed.of));
        self.trace.note([self.now, 7, 0, 3], |line| {
            let _infallible = write!(line, "== {step} of {}", pair.origin());
        });
        match step {
            Step::Write { write, at, require } => self.client_begins(pair, write, at, require),
            Step::Read { at, key } => self.client_reads(pair, at, key),
            // Nor does one that nobody has a copy of.
            Step::Lose(site) if self.serves_for_another(site) => Ok(()),
            Step::Crash(_)
            | Step::CrashAfter(..)
            | Step::Lose(_)
            | Step::Rot(_)
            | Step::Shear(_)
            | Step::LoseEngine(_) => {
                self.goes_down(pair, step);
                Ok(())
            }
            Step::RotChunk(site) => {
                self.rot_chunk(pair, site);
                Ok(())
            }
            Step::DamageEngine(site) => self.damage_engine(pair, site),
            Step::Restart(site) => self.start(site),
            // A site that serves an origin alone has no copy elsewhere to begin anew from.
            Step::Renew(site) if !self.model.may_begin_anew(site) => Ok(()),
            Step::Renew(site) => self.renew(site),
            Step::Cut(site) => {
                self.sites[site.index()].cut = true;
                Ok(())
            }
            Step::Heal => {
                self.heal();
                Ok(())
            }
            Step::Reset => {
                self.reset_links();
                Ok(())
            }
            Step::Replay => self.replay(),
            Step::SlowDisk(site) | Step::FastDisk(site) => {
                self.sites[site.index()].slow = matches!(step, Step::SlowDisk(_));
                Ok(())
            }
            Step::Full(site) | Step::Space(site) => {
                let full = matches!(step, Step::Full(_));
                self.sites[site.index()].full = full;
                self.sites[site.index()].engines.set_full(full);
                Ok(())
            }
            Step::FailPersist(site) => {
                // Of a process that runs: one that starts on a broken device does not, and that is all.
                self.sites[site.index()].nvram.fail_persists = self.boot(site).is_some();
                Ok(())
            }
            Step::FailFlush(site) => {
                self.sites[site.index()].flush_fails = self.boot(site).is_some();
                Ok(())
            }
            Step::Stall(site, ms) => {
                self.stall(site, ms);
                Ok(())
            }
            Step::Clock(site, ms) => {
                if ms < 0 {
                    self.seen.note(Seen::ClockWentBack);
                }
                self.sites[site.index()].wall_offset += ms;
                Ok(())
            }
            Step::Order(site, order) => self.order(pair, site, order),
        }
    }

    /// Does the site take the writes of another one's origin?
    fn serves_for_another(&self, site: Site) -> bool {
        self.topology.pairs().iter().any(|pair| pair.mirror == site && self.model.holder(*pair) == site)
    }

    /// A site goes down, with what that takes along.
    fn goes_down(&mut self, pair: Pair, step: Step) {
        match step {
            Step::Crash(site) => self.crash(site),
            Step::CrashAfter(site, effects) => self.arm(site, effects),
            Step::Lose(site) => self.lose(site),
            Step::Rot(site) => self.rot(pair, site, false),
            Step::Shear(site) => self.rot(pair, site, true),
            Step::LoseEngine(site) => self.lose_engine(pair, site),
            _ => {}
        }
    }

    /// The site is gone for good.
    fn lose(&mut self, site: Site) {
        self.seen.note(Seen::SiteLost);
        self.crash(site);
        self.sites[site.index()].lost = true;
        self.model.site_lost(site);
    }

    /// The site begins anew, with nothing.
    fn renew(&mut self, site: Site) -> Checked {
        let home = self.topology.pair_of(site).is_some();
        self.seen.note(if home { Seen::SourceRenewed } else { Seen::SiteRenewed });
        self.crash(site);
        self.sites[site.index()].renew();
        self.model.renewed(site);
        self.start(site)
    }

    /// An operator's command.
    pub(super) fn order(&mut self, pair: Pair, site: Site, order: Order) -> Checked {
        // No operator lets a new machine go on, or gives up the only copy for what it has, without looking at the other one.
        let reckless = matches!(order, Order::Alone | Order::RebuildLossy) && self.model.is_anew(&pair.origin());
        if self.boot(site).is_none() || reckless {
            return Ok(());
        }
        let ticket = Ticket(self.clients.ticket());
        self.orders.push((ticket, site, pair, order));
        let origin = pair.origin();
        let promote = |dry_run, accept_loss| Command::Promote { origin: origin.clone(), dry_run, accept_loss };
        let command = match order {
            Order::Sync => Command::Sync { origin: Some(origin) },
            Order::Pause => Command::Pause { origin },
            Order::Resume => Command::Resume { origin, alone: false },
            Order::Alone => Command::Resume { origin, alone: true },
            Order::DryRun => promote(true, false),
            Order::Promote => promote(false, false),
            Order::PromoteLossy => promote(false, true),
            Order::Rebuild => Command::Rebuild { origin, accept_loss: false },
            Order::RebuildLossy => Command::Rebuild { origin, accept_loss: true },
            Order::Failback => Command::Failback { origin, dry_run: false },
            Order::FailbackDry => Command::Failback { origin, dry_run: true },
            Order::Shutdown => Command::Shutdown,
        };
        self.feed(site, Event::Command { ticket, command })
    }

    /// The process at a site is gone, and what its devices had not made durable with it, as the noise decides.
    pub(super) fn crash(&mut self, site: Site) {
        if self.boot(site).is_none() {
            return;
        }
        self.cover_crash(site);
        self.drop_links(site);
        self.orders.retain(|(_, at, ..)| *at != site);
        self.menders.retain(|_, mender| mender.site != site);
        self.clients.process_gone(site);
        self.model.crashed(site);
        let state = &mut self.sites[site.index()];
        state.power_off(&mut self.noise);
        self.damage_shows(site);
    }

    /// A process starts, where none runs. Now and then the power goes again in the middle of it.
    pub(super) fn start(&mut self, site: Site) -> Checked {
        if self.sites[site.index()].lost || self.boot(site).is_some() {
            return Ok(());
        }
        if !self.calm && self.noise.chance(6) {
            let persists = self.noise.below(3);
            if !self.try_start(site, persists)? {
                self.seen.note(Seen::CrashInStart);
                let state = &mut self.sites[site.index()];
                state.power_off(&mut self.noise);
            }
        }
        if self.boot(site).is_none() && !self.try_start(site, u64::MAX)? {
            return broken(1, format!("{site:?} does not start again"));
        }
        Ok(())
    }

    /// Starts a process; false where the power went before it was up.
    fn try_start(&mut self, site: Site, persists: u64) -> Checked<bool> {
        self.tampered_restart(site);
        let now = self.moment(site);
        let (noise, mistake) = (self.noise.word(), self.mistake);
        let state = &mut self.sites[site.index()];
        let plan = state.plan.clone();
        let (nvram, mut engines) = (&mut state.nvram, state.engines.clone());
        let mut device = Dying { device: nvram, persists_left: persists };
        let started = match lockstep_mirror::start::start(&mut device, &plan, noise, &mut engines, now) {
            Ok(started) => started,
            Err(_) if persists < u64::MAX => return Ok(false),
            Err(error) => return broken(1, format!("{site:?} does not start again: {error}")),
        };
        let superblock = Superblock::load(&mut state.nvram).ok().flatten();
        let Some((superblock, _)) = superblock else { return broken(1, format!("{site:?} has no superblock")) };
        state.boots += 1;
        let boot = state.boots;
        let workers: Vec<Worker> =
            started.images.into_iter().map(|(origin, image)| worker(state, origin, image, mistake)).collect();
        let mut found = Vec::new();
        for worker in &workers {
            match worker.engine.image().progress() {
                Ok(progress) => found.push((worker.origin.clone(), progress)),
                Err(error) => return broken(4, format!("{site:?} cannot read its image: {error}")),
            }
        }
        state.process = Some(Process {
            node: started.node,
            boot,
            started: self.now,
            device: VecDeque::default(),
            persisting: false,
            device_failed: false,
            device_wrote_records: false,
            workers,
            idle_due: false,
            accepted: 0,
            stalled: false,
            waking: false,
            inbox: VecDeque::default(),
            effects_left: None,
        });
        self.trace.note([self.now, site.index() as u64, u64::from(boot), 4], |line| {
            let at: Vec<String> =
                found.iter().map(|(o, p)| format!("{o} at {} applied {}", p.appended, p.applied)).collect();
            let _infallible = write!(line, "== {site:?} is up: {}", at.join(", "));
        });
        let (torn, gone) = self.model.recovered(site, &superblock, &found)?;
        if torn {
            self.seen.note(Seen::TornTail);
        }
        self.was_set_aside(site, &gone)?;
        let mut effects = started.effects;
        for (origin, progress) in found {
            self.check_image(site, &origin)?;
            if self.mistake == Some(Mistake::AllOfNvramApplied) {
                effects.push(Effect::Apply { origin, through: progress.appended.seq });
            }
        }
        self.carry_out(site, boot, &mut effects)?;
        self.schedule(1, Happening::Tick(site, boot));
        Ok(true)
    }

    /// Mistakes that show at a restart are made to what it finds.
    fn tampered_restart(&mut self, site: Site) {
        let Some(mistake) = self.mistake else { return };
        let Ok(Some((mut superblock, counter))) = Superblock::load(&mut self.sites[site.index()].nvram) else { return };
        for entry in &mut superblock.origins {
            match mistake {
                Mistake::OldGenerationAccepted => {
                    entry.generation_floor = 0;
                    // A cut stores it with what it cuts, too.
                    let engine = self.sites[site.index()].engines.engine(&entry.origin, entry.engine_generation);
                    let forgotten = Change::Delete(Family::Image, keys::GENERATION_FLOOR.to_vec());
                    let _works = engine.commit(vec![forgotten]).and_then(|()| engine.flush());
                }
                Mistake::EpochKeptAfterRestart if entry.epochs.len() > 1 => {
                    entry.epochs.pop();
                }
                Mistake::EndForgotten => entry.persisted = Seq::ZERO,
                Mistake::NewSourceTakesWrites if entry.peer_incarnation == 0 => entry.peer_incarnation = 1,
                Mistake::DamageForgotten => entry.damaged = false,
                Mistake::GenerationForgotten if entry.engine_generation > 1 => entry.engine_generation -= 1,
                Mistake::FenceForgotten if entry.role != StoredRole::Destination => entry.role = StoredRole::Source,
                _ => {}
            }
        }
        let changed = matches!(
            mistake,
            Mistake::OldGenerationAccepted
                | Mistake::EpochKeptAfterRestart
                | Mistake::FenceForgotten
                | Mistake::DamageForgotten
                | Mistake::GenerationForgotten
                | Mistake::NewSourceTakesWrites
                | Mistake::EndForgotten
        );
        if changed && let Ok((offset, bytes)) = superblock.encode(counter) {
            let nvram = &mut self.sites[site.index()].nvram;
            let _works = nvram.write(offset, &[bytes]).and_then(|()| nvram.persist());
        }
    }

    /// Mistakes of the superblock are made to what is written.
    pub(super) fn tampered_superblock(&mut self, site: Site, offset: u64, pieces: Vec<Bytes>) -> Vec<Bytes> {
        let Some(mistake) = self.mistake.filter(|_| offset < PARTITIONS_AT) else { return pieces };
        let Ok(Some((mut superblock, counter))) = Superblock::decode(&pieces.concat()) else { return pieces };
        for entry in &mut superblock.origins {
            let stored = self.model.stored(site, &entry.origin);
            match mistake {
                Mistake::InSyncFromMemory => entry.in_sync |= stored.is_some_and(|stored| stored.in_sync),
                Mistake::InSyncKeptByPromote => entry.in_sync |= entry.promoted,
                Mistake::AloneAfterReturn => entry.promoted |= stored.is_some_and(|stored| stored.promoted),
                _ => {}
            }
        }
        superblock.encode(counter).map(|(_, bytes)| vec![bytes]).unwrap_or(pieces)
    }
}

fn worker(state: &SiteState, origin: Origin, image: Image, mistake: Option<Mistake>) -> Worker {
    let forgets_flush = mistake == Some(Mistake::BaselineUnflushed);
    let generations = SimGenerations::new(&state.engines, &origin, forgets_flush);
    let forgets_chunks = mistake == Some(Mistake::ChunksForgotten);
    Worker::new(origin, image, generations, &state.tails, forgets_chunks)
}
