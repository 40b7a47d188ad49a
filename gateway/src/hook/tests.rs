//! The hook as a shell script that writes down what it was told.

use std::os::unix::fs::PermissionsExt;

use lockstep_storage::id::{Epoch, Origin, Seq};
use tempfile::TempDir;

use super::*;

/// Nothing takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_mins(1);

struct Scene {
    dir: TempDir,
    roles: watch::Sender<Vec<RoleChange>>,
    number: u64,
}

impl Scene {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), roles: watch::Sender::new(Vec::new()), number: 0 }
    }

    /// A node that starts with these roles, and a hook that runs `script`; `$OUT` is where it may write.
    fn start(&self, script: &str) -> HookHandle {
        let path = self.dir.path().join("hook.sh");
        let out = self.dir.path().join("out");
        std::fs::write(&path, format!("#!/bin/sh\nOUT='{}'\n{script}\n", out.display())).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let hook = Hook {
            // Through the shell: a file that was just written may not be executable yet for another thread's child.
            command: vec!["/bin/sh".into(), path.display().to_string()],
            run_timeout: PATIENCE,
            pause_min: Duration::from_millis(1),
            pause_max: Duration::from_millis(5),
        };
        spawn(hook, self.roles.subscribe(), self.dir.path().join(announced::FILE_NAME))
    }

    fn change(&mut self, origin: &str, began: Role, role: Role) {
        self.number += 1;
        let origin = Origin::new(origin).unwrap();
        let epoch = Epoch::default().next(origin.node_id());
        let (seq, number) = (Seq(self.number * 10), self.number);
        self.roles.send_modify(|roles| {
            roles.retain(|change| change.origin != origin);
            roles.push(RoleChange { origin, role, began, epoch, seq, number });
        });
    }

    /// The process ends: the roles are those of the next one.
    fn restart(&mut self) {
        self.roles = watch::Sender::new(Vec::new());
    }

    fn out(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("out")).unwrap_or_default()
    }

    fn announced(&self) -> String {
        std::fs::read_to_string(self.dir.path().join(announced::FILE_NAME)).unwrap_or_default()
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !is_so(self) {
            assert!(began.elapsed() < PATIENCE, "not {what}: {:?}, {:?}", self.out(), self.announced());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

const TELL: &str = "echo $LOCKSTEP_ORIGIN $LOCKSTEP_ROLE $LOCKSTEP_EPOCH $LOCKSTEP_SEQ >> $OUT";

#[tokio::test]
async fn a_change_is_told_once_and_a_restart_tells_nothing() {
    let mut scene = Scene::new();
    let hook = scene.start(TELL);
    scene.change("site-a", Role::Destination, Role::Destination);
    scene.change("site-a", Role::Destination, Role::Source);
    scene.until("told", |s| s.announced() == "site-a source done\n").await;
    let told = "site-a source 1-4796d49f 20\n";
    assert_eq!(scene.out(), told);
    scene.until("shown", |_| hook.last().is_some()).await;
    let last = hook.last().unwrap();
    assert_eq!((last.good, last.outcome.as_str(), last.tries), (true, "exit 0", 1));
    drop(hook);

    scene.restart();
    scene.change("site-a", Role::Source, Role::Source);
    let _hook = scene.start(TELL);
    // The next change shows that nothing was told before it.
    scene.change("site-a", Role::Source, Role::Fenced);
    scene.until("told", |s| s.announced() == "site-a fenced done\n").await;
    assert_eq!(scene.out(), format!("{told}site-a fenced 1-4796d49f 40\n"));
}

#[tokio::test]
async fn a_change_before_the_first_look_is_told() {
    let mut scene = Scene::new();
    scene.change("site-a", Role::Source, Role::Fenced);
    let _hook = scene.start(TELL);
    scene.until("told", |s| s.announced() == "site-a fenced done\n").await;
}

#[tokio::test]
async fn a_restart_tells_what_is_new_or_did_not_end_well() {
    for kept in ["site-a destination done\n", "site-a source begun\n"] {
        let mut scene = Scene::new();
        std::fs::write(scene.dir.path().join(announced::FILE_NAME), kept).unwrap();
        scene.change("site-a", Role::Source, Role::Source);
        let _hook = scene.start(TELL);
        scene.until("told", |s| s.announced() == "site-a source done\n").await;
        assert_eq!(scene.out(), "site-a source 1-4796d49f 10\n", "{kept}");
    }
}

#[tokio::test]
async fn a_failure_is_tried_again_while_the_role_is_current() {
    let mut scene = Scene::new();
    // Fails as a source for ever, as anything else at the first two tries.
    let script = "echo $LOCKSTEP_ROLE >> $OUT\n[ $LOCKSTEP_ROLE = source ] && exit 3\n[ $(grep -c fenced $OUT) -ge 3 ]";
    let hook = scene.start(script);
    scene.change("site-a", Role::Destination, Role::Source);
    scene.until("tried again", |s| s.out().lines().count() >= 4).await;
    let last = hook.last().unwrap();
    assert!(!last.good && last.outcome.contains('3') && last.tries >= 3, "{last:?}");
    scene.change("site-a", Role::Destination, Role::Fenced);
    scene.until("told", |s| s.announced() == "site-a fenced done\n").await;
    let out = scene.out();
    let (sources, fenced): (Vec<&str>, Vec<&str>) = out.lines().partition(|line| *line == "source");
    assert_eq!(fenced.len(), 3, "{out}");
    assert!(out.lines().take(sources.len()).all(|line| line == "source"), "the newest role wins: {out}");
}

#[tokio::test]
async fn what_it_lags_behind_is_not_told() {
    let mut scene = Scene::new();
    let go = scene.dir.path().join("out.go");
    assert!(std::process::Command::new("mkfifo").arg(&go).status().unwrap().success());
    // The first run waits until it is let go on.
    let script = format!("[ -e $OUT ] || cat $OUT.go\n{TELL}");
    let _hook = scene.start(&script);
    scene.change("site-a", Role::Destination, Role::Source);
    scene.until("begun", |s| s.announced() == "site-a source begun\n").await;
    scene.change("site-a", Role::Destination, Role::Fenced);
    scene.change("site-b", Role::Source, Role::Fenced);
    scene.change("site-a", Role::Destination, Role::Destination);
    // Opening it waits for the script, which the hook's task has yet to start.
    tokio::task::spawn_blocking(move || std::fs::write(&go, "").unwrap()).await.unwrap();
    scene.until("told", |s| s.announced() == "site-a destination done\nsite-b fenced done\n").await;
    let told: Vec<String> = scene.out().lines().map(|line| line.split(' ').take(2).collect()).collect();
    assert_eq!(told, ["site-asource", "site-bfenced", "site-adestination"]);
}

#[tokio::test]
async fn a_run_that_takes_too_long_is_killed_with_its_children() {
    let scene = Scene::new();
    let path = scene.dir.path().join("hook.sh");
    // A grandchild that holds the output open.
    std::fs::write(&path, "sleep 1000 &\necho $! > \"$1\"\nwait\n").unwrap();
    let pid = scene.dir.path().join("pid");
    let command = ["/bin/sh".to_owned(), path.display().to_string(), pid.display().to_string()];
    let hook = Hook {
        command: command.to_vec(),
        run_timeout: Duration::from_secs(2),
        pause_min: PATIENCE,
        pause_max: PATIENCE,
    };
    let handle = spawn(hook, scene.roles.subscribe(), scene.dir.path().join(announced::FILE_NAME));
    let mut scene = scene;
    scene.change("site-a", Role::Destination, Role::Source);
    scene.until("killed", |_| handle.last().is_some()).await;
    assert!(handle.last().unwrap().outcome.contains("killed after 2s"), "{:?}", handle.last());
    let pid = std::fs::read_to_string(pid).unwrap();
    let gone = |_: &Scene| {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        // Nobody may have reaped it yet.
        stat.is_empty() || stat.contains(") Z ")
    };
    scene.until("gone", gone).await;
    assert_eq!(scene.announced(), "site-a source begun\n");
}

#[tokio::test]
async fn a_hook_that_is_not_there_is_said() {
    let mut scene = Scene::new();
    let hook = Hook {
        command: vec!["/nonexistent/hook".into()],
        run_timeout: PATIENCE,
        pause_min: PATIENCE,
        pause_max: PATIENCE,
    };
    let handle = spawn(hook, scene.roles.subscribe(), scene.dir.path().join(announced::FILE_NAME));
    scene.change("site-a", Role::Destination, Role::Source);
    scene.until("tried", |_| handle.last().is_some()).await;
    assert!(handle.last().unwrap().outcome.contains("/nonexistent/hook cannot be run"));
}
