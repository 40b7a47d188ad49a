//! Clients that people use, as they come: the scripts in `tests/clients`, each against nodes in this process. A client that
//! is not installed is skipped, with a sentence that says so.

use std::path::Path;
use std::process::{Command, Stdio};

use lockstep_tests::node::{Node, SECRET_KEY};

/// Does this command end with 0?
fn works(program: &str, arguments: &[&str]) -> bool {
    let ran =
        Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    ran.is_ok_and(|status| status.success())
}

/// Runs a script with the node as its S3 endpoint; it says what it does, and fails where something was not as it should be.
fn run(program: &str, script: &str, node: &Node) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(script);
    let ran = Command::new(program)
        .arg(&script)
        .env("AWS_ENDPOINT_URL", format!("http://{}", node.s3))
        .env("AWS_ACCESS_KEY_ID", node.access_key())
        .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        .stdin(Stdio::null())
        .output()
        .expect("it was just found");
    let (said, failed) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    println!("{said}");
    assert!(ran.status.success(), "{}\n{said}\n{failed}", script.display());
}

#[tokio::test]
async fn the_aws_cli_works_without_a_special_flag() {
    if !works("aws", &["--version"]) || !works("bash", &["--version"]) {
        eprintln!("SKIPPED: the aws CLI is not installed here, so it was not tried.");
        return;
    }
    run("bash", "aws_cli.sh", &Node::alone().await);
}

#[tokio::test]
async fn boto3_works_without_a_special_setting_and_what_it_writes_is_mirrored() {
    if !works("python3", &["-c", "import boto3"]) {
        eprintln!("SKIPPED: boto3 is not installed here, so it was not tried.");
        return;
    }
    let (a, b) = Node::pair().await;
    run("python3", "boto3_run.py", &a);
    let status = a.client.status();
    let own = status.origins.iter().find(|origin| origin.origin.as_str() == "site-a").expect("its own origin");
    assert_eq!((own.degraded_acks, own.mirrored_acks > 20), (0, true), "{own:?}");
    drop(b);
}
