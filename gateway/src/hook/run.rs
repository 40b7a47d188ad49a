//! One run of the hook: its environment, its time, its output. It gets the node's environment without what is secret in it.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use lockstep_mirror::client::RoleChange;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::timeout;

use super::{Hook, role_name};

/// Longest line of output that is logged, in bytes; the rest of a longer one is left out.
const LINE_LEN_MAX: usize = 500;
/// Most lines that are logged of each of a run's two outputs.
const LINES_MAX: usize = 100;
/// How long output is waited for when the hook itself has ended: what it left running may hold it open for ever.
const OUTPUT_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs it to its end. What it prints is logged.
///
/// # Errors
/// In words, when it cannot be run, fails, or takes too long.
pub(super) async fn run(hook: &Hook, change: &RoleChange) -> Result<(), String> {
    let (program, arguments) = hook.command.split_first().ok_or("there is no hook")?;
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let ours = name.to_str().is_some_and(|name| name.starts_with("LOCKSTEP_") || name.starts_with("MINIO_ROOT_"));
        if ours {
            command.env_remove(name);
        }
    }
    command
        .args(arguments)
        .env("LOCKSTEP_ORIGIN", change.origin.as_str())
        .env("LOCKSTEP_ROLE", role_name(change.role))
        .env("LOCKSTEP_EPOCH", change.epoch.to_string())
        .env("LOCKSTEP_SEQ", change.seq.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| format!("{program} cannot be run: {error}"))?;
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
    let origin = change.origin.as_str();
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let output = async { tokio::join!(log_lines(stdout, origin), log_lines(stderr, origin)) };
    let mut output = std::pin::pin!(output);
    let mut printed = false;
    let ended = timeout(hook.run_timeout, async {
        loop {
            tokio::select! {
                ended = child.wait() => break ended,
                _ = &mut output, if !printed => printed = true,
            }
        }
    });
    let ended = ended.await;
    if ended.is_err() {
        group.kill();
        let _reaped = child.wait().await;
    }
    // The number may be another process's from now on.
    group.0 = None;
    if !printed {
        let _held_open = timeout(OUTPUT_TIMEOUT, output).await;
    }
    match ended {
        Err(_) => Err(format!("it was killed after {:?}", hook.run_timeout)),
        Ok(Err(error)) => Err(format!("it cannot be waited for: {error}")),
        Ok(Ok(status)) => in_words(status),
    }
}

fn in_words(status: ExitStatus) -> Result<(), String> {
    if status.success() { Ok(()) } else { Err(status.to_string()) }
}

/// Everything that a run has started, as far as it has not left the group. Ends with it.
struct Group(Option<Pid>);

impl Group {
    fn kill(&mut self) {
        if let Some(group) = self.0.take() {
            let _gone_already = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Logs an output line by line to its end.
async fn log_lines(output: Option<impl AsyncRead + Unpin>, origin: &str) {
    let Some(mut output) = output else { return };
    let mut lines = Lines::default();
    let mut buffer = [0; 4096];
    while let Ok(len @ 1..) = output.read(&mut buffer).await {
        lines.take(&buffer[..len], &mut |line| tracing::info!(%origin, "hook: {line}"));
    }
    lines.end(&mut |line| tracing::info!(%origin, "hook: {line}"));
}

/// Cuts output into lines of bounded length and number.
#[derive(Default)]
struct Lines {
    line: Vec<u8>,
    cut: bool,
    count: usize,
}

impl Lines {
    fn take(&mut self, bytes: &[u8], each: &mut dyn FnMut(&str)) {
        for byte in bytes {
            if *byte == b'\n' {
                self.finish(each);
            } else if self.line.len() < LINE_LEN_MAX {
                self.line.push(*byte);
            } else {
                self.cut = true;
            }
        }
    }

    fn finish(&mut self, each: &mut dyn FnMut(&str)) {
        if self.count < LINES_MAX {
            let text: String = String::from_utf8_lossy(&self.line).chars().filter(|c| !c.is_control()).collect();
            each(&format!("{text}{}", if self.cut { " …" } else { "" }));
        }
        self.count += 1;
        self.cut = false;
        self.line.clear();
    }

    fn end(mut self, each: &mut dyn FnMut(&str)) {
        if !self.line.is_empty() {
            self.finish(each);
        }
        if self.count > LINES_MAX {
            each(&format!("({} more lines are not shown)", self.count - LINES_MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_bounded_in_lines_and_length() {
        let mut lines = Lines::default();
        let mut shown = Vec::new();
        lines.take(b"one\ntw", &mut |line| shown.push(line.to_owned()));
        lines.take(b"o\n\x1b[31m\xff", &mut |line| shown.push(line.to_owned()));
        lines.end(&mut |line| shown.push(line.to_owned()));
        assert_eq!(shown, ["one", "two", "[31m\u{fffd}"]);

        let mut lines = Lines::default();
        let mut shown = Vec::new();
        lines.take(&b"x".repeat(100_000), &mut |line| shown.push(line.to_owned()));
        lines.take(&b"\ny".repeat(1000), &mut |line| shown.push(line.to_owned()));
        assert!(lines.line.capacity() <= 2 * LINE_LEN_MAX);
        lines.end(&mut |line| shown.push(line.to_owned()));
        assert_eq!((shown.len(), shown[0].len()), (LINES_MAX + 1, LINE_LEN_MAX + " …".len()));
        assert_eq!(shown[LINES_MAX], "(901 more lines are not shown)");
    }
}
