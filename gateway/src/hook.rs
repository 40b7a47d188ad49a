//! The operator's hook: the program of `[failover] on_change`, run when this node's role for an origin changes. That is where
//! a DNS update hangs.
//!
//! - One run at a time, in the order of the changes; where it lags behind, only the newest role of an origin counts.
//! - A run that fails is tried again with a growing pause, as long as that role is still the current one.
//! - A run that takes too long is killed, with everything that it started and that stays in its process group.
//! - The node never waits for it, and what it prints is logged, bounded.
//!
//! What was told last stands in `hook.announced` in the data directory, written before a run and after one that went well. So
//! a restart tells nothing again, unless the role is another one than was told last or the last run did not end well. An
//! origin that is seen for the first time, or for the first time with a hook, counts as told in the role that it starts
//! with: to configure a hook switches nothing by itself.

mod announced;
mod run;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lockstep_mirror::client::{Client, Role, RoleChange};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::announced::Announced;

/// Longest time of a run.
const RUN_TIMEOUT: Duration = Duration::from_mins(1);
/// Pause after a first failure, and after many.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_mins(1);

/// A run of the hook that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookRun {
    /// What it was told.
    pub change: RoleChange,
    /// When it ended, milliseconds since 1970.
    pub ended_ms: u64,
    /// Did it end well?
    pub good: bool,
    /// How it ended, in words.
    pub outcome: String,
    /// How many times the same was tried so far.
    pub tries: u32,
}

/// A hook at work. It ends when this is dropped, and what it runs is killed.
#[derive(Debug)]
pub struct HookHandle {
    last: Arc<Mutex<Option<HookRun>>>,
    task: JoinHandle<()>,
}

impl HookHandle {
    /// The run that ended last, in this process.
    #[must_use]
    pub fn last(&self) -> Option<HookRun> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for HookHandle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a hook is, and how patient the node is with it.
#[derive(Debug, Clone)]
struct Hook {
    /// A program and its arguments.
    command: Vec<String>,
    run_timeout: Duration,
    pause_min: Duration,
    pause_max: Duration,
}

/// Watches the roles of a node from now on; none without a command. Needs a tokio runtime.
#[must_use]
pub fn start(client: &Client, command: &[String], data_dir: &Path) -> Option<HookHandle> {
    let hook = Hook { command: command.to_vec(), run_timeout: RUN_TIMEOUT, pause_min: PAUSE_MIN, pause_max: PAUSE_MAX };
    (!command.is_empty()).then(|| spawn(hook, client.roles(), data_dir.join(announced::FILE_NAME)))
}

fn spawn(hook: Hook, roles: watch::Receiver<Vec<RoleChange>>, file: PathBuf) -> HookHandle {
    let last = Arc::default();
    let runner = Runner { hook, announced: Announced::load(file), failures: BTreeMap::new(), last: Arc::clone(&last) };
    HookHandle { last, task: tokio::spawn(runner.watch(roles)) }
}

/// A change that the hook could not be told.
struct Failure {
    number: u64,
    tries: u32,
    not_before: Instant,
}

struct Runner {
    hook: Hook,
    announced: Announced,
    /// By origin.
    failures: BTreeMap<String, Failure>,
    last: Arc<Mutex<Option<HookRun>>>,
}

/// What is to be done.
enum Next {
    Run(RoleChange),
    /// Something is to be tried again then.
    Pause(Instant),
    Nothing,
}

impl Runner {
    async fn watch(mut self, mut roles: watch::Receiver<Vec<RoleChange>>) {
        loop {
            let newest = roles.borrow_and_update().clone();
            self.announced.meet(&newest).await;
            match self.next(newest) {
                Next::Run(change) => self.run(change).await,
                Next::Pause(until) => {
                    tokio::select! {
                        changed = roles.changed() => if changed.is_err() { return },
                        () = tokio::time::sleep_until(until) => {}
                    }
                }
                Next::Nothing => {
                    if roles.changed().await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// The oldest change that may be told now.
    fn next(&mut self, mut changes: Vec<RoleChange>) -> Next {
        changes.retain(|change| !self.announced.knows(change));
        changes.sort_by_key(|change| change.number);
        self.failures.retain(|origin, failure| {
            changes.iter().any(|change| change.origin.as_str() == origin && change.number == failure.number)
        });
        let now = Instant::now();
        let due = |change: &RoleChange| self.failures.get(change.origin.as_str()).map_or(now, |f| f.not_before);
        if let Some(change) = changes.iter().find(|change| due(change) <= now) {
            return Next::Run(change.clone());
        }
        changes.iter().map(due).min().map_or(Next::Nothing, Next::Pause)
    }

    async fn run(&mut self, change: RoleChange) {
        self.announced.begin(&change).await;
        let origin = change.origin.as_str().to_owned();
        let outcome = run::run(&self.hook, &change).await;
        let (good, words) = match outcome {
            Ok(()) => (true, "exit 0".to_owned()),
            Err(words) => (false, words),
        };
        let tries = self.failures.get(&origin).map_or(0, |failure| failure.tries) + 1;
        if good {
            self.announced.end(&change).await;
            self.failures.remove(&origin);
            tracing::info!(%origin, role = role_name(change.role), "the hook was told: {words}");
        } else {
            let pause = self.pause(tries);
            let failure = Failure { number: change.number, tries, not_before: Instant::now() + pause };
            self.failures.insert(origin.clone(), failure);
            tracing::warn!(%origin, role = role_name(change.role), "the hook failed: {words}; next try in {pause:?}");
        }
        let run = HookRun { change, ended_ms: crate::admin::wall_ms(), good, outcome: words, tries };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(run);
    }

    fn pause(&self, tries: u32) -> Duration {
        let factor = 1_u32.checked_shl(tries.saturating_sub(1)).unwrap_or(u32::MAX);
        self.hook.pause_min.saturating_mul(factor).min(self.hook.pause_max)
    }
}

/// As the hook and `hook.announced` name a role.
fn role_name(role: Role) -> &'static str {
    crate::admin::status::role_name(role)
}

#[cfg(test)]
mod tests;
