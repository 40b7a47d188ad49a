//! The two-site demo with Docker, as a user runs it: a client writes to an S3 name, the site behind the name is killed, the
//! other one promoted, the name moved, and the same client reads everything back. Runs where a Docker engine does; says so
//! where none is.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What a command printed, where it ended with 0.
fn output_of(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Why the demo cannot run here, in one sentence.
fn missing() -> Option<&'static str> {
    if output_of("docker", &["info"]).is_none() {
        return Some("no Docker engine answers here");
    }
    if output_of("docker", &["compose", "version"]).is_none() && output_of("docker-compose", &["version"]).is_none() {
        return Some("neither 'docker compose' nor docker-compose is installed here");
    }
    let root = output_of("id", &["-u"]).is_some_and(|id| id.trim() == "0");
    let can_make_base = root && output_of("debootstrap", &["--version"]).is_some();
    if output_of("docker", &["image", "inspect", "debian:bookworm-slim"]).is_none()
        && !can_make_base
        && output_of("docker", &["pull", "--quiet", "debian:bookworm-slim"]).is_none()
    {
        return Some("the image debian:bookworm-slim is not here and can be neither pulled nor made");
    }
    None
}

/// The program beside the directory of this test's own: `cargo test --workspace` builds both.
fn program() -> PathBuf {
    let this = std::env::current_exe().expect("this test has a path");
    let built = this.parent().and_then(Path::parent).expect("deps has a parent").join("lockstep");
    assert!(built.exists(), "{} is not built: run the whole workspace's tests, or make build", built.display());
    built
}

#[test]
fn the_name_moves_to_the_promoted_site_and_everything_is_read_back() {
    if let Some(reason) = missing() {
        // Past the test runner's capture: a skipped test must not look like one that ran.
        let _unheard = writeln!(std::io::stderr(), "skipped the demo with Docker: {reason}");
        return;
    }
    let name = format!("lockstep-test-{}", std::process::id());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/compose-demo.sh");
    let Output { status, stdout, stderr } = Command::new(script)
        .arg("--program")
        .arg(program())
        .env("COMPOSE_PROJECT_NAME", &name)
        .env("LOCKSTEP_TAG", &name)
        .output()
        .expect("the script starts");
    let images = ["site", "dns", "client"].map(|part| format!("lockstep-{part}:{name}"));
    let _absent = Command::new("docker").args(["image", "rm"]).args(images).output();
    let (said, failed) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{said}\n{failed}");
    assert!(said.contains("everything that was acknowledged was read back"), "{said}\n{failed}");
}
