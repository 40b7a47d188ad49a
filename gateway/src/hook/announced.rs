//! What the hook was told last of every origin, in a file that outlives the process: a line an origin, with the role and
//! whether the run ended well. A file that cannot be read counts as none: then nothing is told until a role changes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use lockstep_mirror::client::RoleChange;

use super::role_name;
use crate::secret;

/// Name of the file in the data directory.
pub(super) const FILE_NAME: &str = "hook.announced";
/// Bytes of the file that are read: far more than all origins of a node need.
const FILE_LEN_MAX: u64 = 1 << 20;

/// How far the hook was told.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    role: String,
    /// The run ended well.
    done: bool,
}

/// What was told, and the file that keeps it.
#[derive(Debug)]
pub(super) struct Announced {
    file: PathBuf,
    /// By origin.
    told: BTreeMap<String, Told>,
}

impl Announced {
    pub(super) fn load(file: PathBuf) -> Self {
        let mut text = String::new();
        let read = File::open(&file).and_then(|opened| opened.take(FILE_LEN_MAX).read_to_string(&mut text));
        if let Err(error) = read
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!("{}: {error}: nothing is known of what the hook was told", file.display());
        }
        let line = |line: &str| {
            let mut words = line.split(' ');
            let (origin, role, state) = (words.next()?, words.next()?, words.next()?);
            Some((origin.to_owned(), Told { role: role.to_owned(), done: state == "done" }))
        };
        Self { file, told: text.lines().filter_map(line).collect() }
    }

    /// Counts origins that are new here as told in the role that they began with.
    pub(super) async fn meet(&mut self, changes: &[RoleChange]) {
        let known = self.told.len();
        for change in changes {
            let began = Told { role: role_name(change.began).to_owned(), done: true };
            self.told.entry(change.origin.as_str().to_owned()).or_insert(began);
        }
        if self.told.len() > known {
            self.store().await;
        }
    }

    /// Was the hook told this, and did it end well?
    pub(super) fn knows(&self, change: &RoleChange) -> bool {
        let told = self.told.get(change.origin.as_str());
        told.is_some_and(|told| told.done && told.role == role_name(change.role))
    }

    /// Before a run: what it does is not known until it has ended well.
    pub(super) async fn begin(&mut self, change: &RoleChange) {
        self.set(change, false).await;
    }

    /// After a run that ended well.
    pub(super) async fn end(&mut self, change: &RoleChange) {
        self.set(change, true).await;
    }

    async fn set(&mut self, change: &RoleChange, done: bool) {
        let told = Told { role: role_name(change.role).to_owned(), done };
        let before = self.told.insert(change.origin.as_str().to_owned(), told.clone());
        if before != Some(told) {
            self.store().await;
        }
    }

    /// A file that cannot be written costs a run after the next restart, not the one that is due now.
    async fn store(&self) {
        let state = |told: &Told| if told.done { "done" } else { "begun" };
        let line = |(origin, told): (&String, &Told)| format!("{origin} {} {}\n", told.role, state(told));
        let (file, text) = (self.file.clone(), self.told.iter().map(line).collect::<String>());
        let stored = tokio::task::spawn_blocking(move || {
            secret::store(&file, &text).map_err(|error| format!("{}: {error}", file.display()))
        });
        if let Ok(Err(error)) = stored.await {
            tracing::warn!("what the hook was told cannot be kept: {error}");
        }
    }
}
