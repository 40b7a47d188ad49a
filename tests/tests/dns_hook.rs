//! The hook that moves a DNS name, as it ships: a real node, its `[failover]` hook, nsupdate, and a real BIND with a zone of its
//! own. Runs where named, nsupdate and dig are installed; says so where they are not.

use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use http::Method;
use lockstep_gateway::cli::client::AdminClient;
use lockstep_mirror::status::StreamState;
use lockstep_tests::node::{Node, Options, TOKEN};
use serde_json::{Value, json};

const NAME: &str = "s3.site-a.example.";
/// Nothing takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_millis(20);
const KEY: &str =
    "key \"lockstep\" { algorithm hmac-sha256; secret \"bG9ja3N0ZXAgdGVzdHMgbG9ja3N0ZXAgdGVzdHMhISE=\"; };\n";

/// Where a program is; Debian keeps named where a user's path does not lead.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let dirs = path.split(':').chain(["/usr/sbin", "/usr/local/sbin"]).map(Path::new);
    dirs.map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// A name server of its own. It ends when this is dropped.
struct Named {
    child: Child,
    port: u16,
}

impl Drop for Named {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Named {
    /// On a free port; named cannot choose one itself, so another one is tried where it was taken meanwhile.
    fn start(dir: &Path, program: &Path) -> Self {
        // Where AppArmor confines named to its own directories, it does so by the program's path.
        let copy = dir.join("named");
        std::fs::copy(program, &copy).expect("a copy of named");
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).expect("rights");
        std::fs::write(dir.join("dns.key"), KEY).expect("a key");
        for _attempt in 0..10 {
            let port = free_port();
            let zone = "$TTL 30\n@ SOA ns admin 1 60 60 600 30\n@ NS ns\nns A 127.0.0.1\ns3.site-a A 192.0.2.1\n";
            std::fs::write(dir.join("zone"), zone).expect("a zone");
            let shown = dir.display();
            let config = format!(
                "options {{ directory \"{shown}\"; listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; \
                 pid-file none; recursion no; dnssec-validation no; }};\ncontrols {{ }};\n{KEY}\
                 zone \"example\" {{ type primary; file \"zone\"; update-policy {{ grant lockstep name {NAME} A AAAA; }}; \
                 }};\n"
            );
            std::fs::write(dir.join("named.conf"), config).expect("a configuration");
            let log = std::fs::File::create(dir.join("named.log")).expect("a log");
            let child = Command::new(&copy)
                .arg("-g")
                .arg("-c")
                .arg(dir.join("named.conf"))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .expect("named");
            let mut named = Self { child, port };
            if named.answers(dir) {
                return named;
            }
        }
        panic!("named does not answer: {}", std::fs::read_to_string(dir.join("named.log")).unwrap_or_default());
    }

    fn answers(&mut self, dir: &Path) -> bool {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            let log = std::fs::read_to_string(dir.join("named.log")).unwrap_or_default();
            if !matches!(self.child.try_wait(), Ok(None)) || log.contains("address in use") {
                return false;
            }
            if self.address() == "192.0.2.1" {
                return true;
            }
            std::thread::sleep(PAUSE);
        }
        false
    }

    /// What the name is now.
    fn address(&self) -> String {
        let port = self.port.to_string();
        let dig = Command::new("dig")
            .args(["@127.0.0.1", "-p", &port, "+short", "+tries=1", "+time=2", NAME, "A"])
            .output()
            .expect("dig");
        String::from_utf8_lossy(&dig.stdout).trim().to_owned()
    }
}

fn free_port() -> u16 {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = tcp.local_addr().expect("an address");
        if UdpSocket::bind(address).is_ok() {
            return address.port();
        }
    }
}

fn hook() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/hooks/dns-nsupdate.sh")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promote_moves_the_name() {
    let (Some(program), Some(_), Some(_)) = (find("named"), find("nsupdate"), find("dig")) else {
        eprintln!(
            "SKIPPED: named, nsupdate and dig (bind9, bind9-dnsutils) are not all installed here, so the DNS hook was not tried."
        );
        return;
    };
    let dir = tempfile::tempdir().expect("a directory");
    let named = Named::start(dir.path(), &program);
    let (port, key) = (named.port.to_string(), dir.path().join("dns.key").display().to_string());
    let arguments = [
        "--server",
        "127.0.0.1",
        "--port",
        &port,
        "--zone",
        "example",
        "--key",
        &key,
        "--name",
        NAME,
        "--address",
        "192.0.2.2",
        "--origin",
        "site-a",
    ];
    let command: Vec<String> =
        std::iter::once(hook().display().to_string()).chain(arguments.map(str::to_owned)).collect();
    let tables = format!(
        "[[mirror.source]]\nnode = \"site-a\"\nnvram = \"24MiB\"\n[failover]\non_change = {}\n",
        Value::from(command)
    );
    let b = Node::start(Options { node: "site-b", tables, s3: String::new() }).await;
    let tables = format!("[mirror.destination]\nnode = \"site-b\"\nurl = \"http://{}\"\n", b.mirror);
    let a = Node::start(Options { tables, ..Options::default() }).await;
    a.wait_for("in sync", |state| state == StreamState::InSync).await;
    drop(a);
    // Neither its start nor its source's end is a change of B's role.
    assert_eq!(named.address(), "192.0.2.1");

    let admin = AdminClient::with_token(&format!("http://{}", b.admin), TOKEN.into()).expect("an address");
    let promote = json!({ "origin": "site-a", "accept_loss": true });
    admin.call(Method::POST, "/v1/promote", Some(promote)).await.expect("a promote");
    let began = Instant::now();
    let told = loop {
        let status = admin.call(Method::GET, "/v1/status", None).await.expect("a status");
        if status["hook"]["good"] == true {
            break status["hook"].clone();
        }
        assert!(began.elapsed() < PATIENCE, "the hook did not end well: {}", status["hook"]);
        tokio::time::sleep(PAUSE).await;
    };
    assert_eq!((&told["origin"], &told["role"]), (&json!("site-a"), &json!("source")), "{told}");
    assert_eq!(named.address(), "192.0.2.2");

    // The same script at a node that is deposed, or is told of another origin, leaves the name alone.
    for (origin, role) in [("site-a", "fenced"), ("site-a", "destination"), ("site-b", "source")] {
        let ran = Command::new(hook())
            .args(arguments)
            .args(["--address", "192.0.2.3"])
            .envs([("LOCKSTEP_ORIGIN", origin), ("LOCKSTEP_ROLE", role)])
            .status();
        assert!(ran.expect("the script").success(), "{origin} {role}");
        assert_eq!(named.address(), "192.0.2.2", "{origin} {role}");
    }
    // A name server that does not take it makes the hook fail, so that it is tried again.
    let refused = Command::new(hook())
        .args(arguments)
        .args(["--name", "other.example."])
        .envs([("LOCKSTEP_ORIGIN", "site-a"), ("LOCKSTEP_ROLE", "source")])
        .stderr(Stdio::null())
        .status();
    assert!(!refused.expect("the script").success(), "an update that the zone refuses");
}
