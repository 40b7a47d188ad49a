//! Two sites as child processes, on free loopback ports, with their data under one directory.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use serde_json::Value;

use super::workload::Random;
use crate::cli::client::{AdminClient, read_token};
use crate::config::KeyPair;

/// Time between two looks at a status that is waited for.
const POLL_PAUSE: Duration = Duration::from_millis(20);

/// How site A mirrors to site B.
#[derive(Debug, Clone)]
pub struct Stream {
    /// `strict`, `sync` or `async`.
    pub policy: &'static str,
    /// As in the configuration.
    pub link_timeout: &'static str,
}

/// One site.
pub struct Site {
    /// Its node name.
    pub name: &'static str,
    /// Where it speaks S3: host and port.
    pub s3: String,
    /// Where it takes its peers' streams: host and port.
    pub mirror: String,
    /// Its admin address.
    pub admin: String,
    /// Its root key.
    pub key: KeyPair,
    /// Its data directory.
    pub dir: PathBuf,
    /// Its log.
    pub log: PathBuf,
    /// The words that start a program where this site runs, before the program: none for a child of this process.
    pub prefix: Vec<String>,
    program: PathBuf,
    config: PathBuf,
    child: Option<Child>,
}

/// An address where nobody listens. Its port is below those that the system gives to outgoing connections: while a site
/// is down none of them can take its place.
fn free_address() -> Result<String, String> {
    static TAKEN: AtomicU64 = AtomicU64::new(0);
    // One behind the other from where this process begins: no two of its sites are told the same.
    let first = Random::new(u64::from(std::process::id())).below(20_000);
    let mut error = String::new();
    for _ in 0..100 {
        let port = 10_000 + (first + TAKEN.fetch_add(1, Ordering::Relaxed)) % 20_000;
        let address = format!("127.0.0.1:{port}");
        match TcpListener::bind(&address) {
            Ok(_) => return Ok(address),
            Err(cause) => error = cause.to_string(),
        }
    }
    Err(format!("no free port: {error}"))
}

impl Site {
    /// A site under `root` that is not running yet, run by `program`.
    ///
    /// # Errors
    /// When a directory or a port cannot be had.
    pub fn new(root: &Path, program: &Path, name: &'static str) -> Result<Self, String> {
        let dir = root.join(name);
        std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        Ok(Self {
            name,
            s3: free_address()?,
            admin: format!("http://{}", free_address()?),
            mirror: free_address()?,
            key: KeyPair { access_key: format!("DEMO{}", name.to_uppercase()), secret_key: crate::secret::token() },
            log: root.join(format!("{name}.log")),
            prefix: Vec::new(),
            program: program.to_owned(),
            config: root.join(format!("{name}.toml")),
            dir,
            child: None,
        })
    }

    /// Writes its configuration: `stream` is the TOML of its mirror.
    fn configure(&self, secret: &Path, stream: &str) -> Result<(), String> {
        let text = format!(
            "node = \"{}\"\ndata_dir = \"{}\"\n[s3]\nlisten = \"{}\"\n[root]\naccess_key = \"{}\"\nsecret_key = \"{}\"\n\
             [admin]\nlisten = \"{}\"\n[nvram]\nsize = \"64MiB\"\n[mirror]\nlisten = \"{}\"\nsecret_file = \"{}\"\n{stream}",
            self.name,
            self.dir.display(),
            self.s3,
            self.key.access_key,
            self.key.secret_key,
            self.admin.trim_start_matches("http://"),
            self.mirror,
            secret.display(),
        );
        std::fs::write(&self.config, text).map_err(|e| format!("{}: {e}", self.config.display()))
    }

    /// Starts it.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn start(&mut self) -> Result<(), String> {
        let log = File::options().create(true).append(true).open(&self.log).map_err(|e| e.to_string())?;
        let errors = log.try_clone().map_err(|e| e.to_string())?;
        let mut words = self.prefix.iter().map(AsRef::as_ref).chain([self.program.as_os_str()]);
        let child = Command::new(words.next().unwrap_or_default())
            .args(words)
            .args(["serve", "--config"])
            .arg(&self.config)
            .env_remove("LOCKSTEP_ADMIN_TOKEN")
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(|e| format!("{}: {e}", self.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Starts it where it does not run.
    ///
    /// # Errors
    /// As [`Site::start`].
    pub fn start_again(&mut self) -> Result<(), String> {
        if self.child.is_some() { Ok(()) } else { self.start() }
    }

    /// SIGKILL: no chance to say goodbye. Says whether it was running until now.
    pub fn kill(&mut self) -> bool {
        let Some(mut child) = self.child.take() else { return false };
        let ran = matches!(child.try_wait(), Ok(None));
        let _gone = child.kill();
        let _reaped = child.wait();
        ran
    }

    /// Does its process run?
    pub fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Its process id, where it was started.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Leaves it running; its process id.
    pub fn leave(&mut self) -> Option<u32> {
        self.child.take().map(|child| child.id())
    }

    /// Its admin interface.
    ///
    /// # Errors
    /// When it has not written its token yet.
    pub fn admin(&self) -> Result<AdminClient, String> {
        AdminClient::with_token(&self.admin, read_token(&self.token_file())?)
    }

    /// Runs the program as an operator does, against this site; what it prints.
    ///
    /// # Errors
    /// With its sentence when it refuses, and what it printed all the same: what differs, for example.
    pub async fn operate(&self, words: &[&str]) -> Result<String, String> {
        let run = tokio::process::Command::new(&self.program)
            .args(words)
            .args(["--admin", &self.admin, "--token-file"])
            .arg(self.token_file())
            .env_remove("LOCKSTEP_ADMIN_TOKEN")
            .stdin(Stdio::null())
            .output();
        let output = run.await.map_err(|e| format!("{}: {e}", self.program.display()))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() {
            return Ok(text(&output.stdout));
        }
        Err(format!("{}\n{}", text(&output.stderr), text(&output.stdout)).trim_end().to_owned())
    }

    /// Where it keeps its admin token.
    #[must_use]
    pub fn token_file(&self) -> PathBuf {
        self.dir.join("admin.token")
    }

    /// What its status says of an origin, as JSON.
    ///
    /// # Errors
    /// When it does not answer or does not know the origin.
    pub async fn origin(&self, origin: &str) -> Result<Value, String> {
        let status = self.admin()?.call(Method::GET, "/v1/status", None).await?;
        let found = status["origins"].as_array().and_then(|all| all.iter().find(|o| o["origin"] == origin));
        found.cloned().ok_or_else(|| format!("{} does not know {origin}", self.name))
    }

    /// Waits until an origin's stream is in this state; how long that took.
    ///
    /// # Errors
    /// When it is not after `patience`, with what was seen last.
    pub async fn wait_for(&self, origin: &str, state: &str, patience: Duration) -> Result<Duration, String> {
        self.wait_until(origin, state, patience, |found| found["state"] == state).await
    }

    /// Waits until what status says of an origin is right, `what` in words; how long that took.
    ///
    /// # Errors
    /// When it is not after `patience`, with what was seen last.
    pub async fn wait_until(
        &self,
        origin: &str,
        what: &str,
        patience: Duration,
        is_right: impl Fn(&Value) -> bool,
    ) -> Result<Duration, String> {
        let began = Instant::now();
        let mut seen = String::new();
        while began.elapsed() < patience {
            match self.origin(origin).await {
                Ok(found) if is_right(&found) => return Ok(began.elapsed()),
                Ok(found) => seen = format!("{} ({})", found["state"], found["reason"]),
                Err(error) => seen = error,
            }
            tokio::time::sleep(POLL_PAUSE).await;
        }
        Err(format!("{} did not see {origin} {what} within {patience:?}: {seen}", self.name))
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A source and its destination.
pub struct Pair {
    /// The source.
    pub a: Site,
    /// Its destination.
    pub b: Site,
}

impl Pair {
    /// Two sites under `root` that are not running yet.
    ///
    /// # Errors
    /// When a directory or a port cannot be had.
    pub fn new(root: &Path, program: &Path) -> Result<Self, String> {
        Ok(Self { a: Site::new(root, program, "site-a")?, b: Site::new(root, program, "site-b")? })
    }

    /// Starts both and waits until they are in sync. A reaches B at `link`, host and port: B's own, or a proxy's before it.
    ///
    /// # Errors
    /// When a site does not start or the two do not come into sync.
    pub async fn start(&mut self, root: &Path, stream: &Stream, link: &str) -> Result<(), String> {
        let back = self.a.mirror.clone();
        self.start_linked(root, stream, link, &back).await
    }

    /// As [`Pair::start`]; on the way back B reaches A at `back`.
    ///
    /// # Errors
    /// As [`Pair::start`].
    pub async fn start_linked(&mut self, root: &Path, stream: &Stream, link: &str, back: &str) -> Result<(), String> {
        let secret = root.join("mirror.key");
        std::fs::write(&secret, crate::secret::token()).map_err(|e| e.to_string())?;
        let to_b = format!(
            "[mirror.destination]\nnode = \"site-b\"\nurl = \"http://{link}\"\npolicy = \"{}\"\nlink_timeout = \"{}\"\n",
            stream.policy, stream.link_timeout
        );
        self.a.configure(&secret, &to_b)?;
        let from_a = format!(
            "[[mirror.source]]\nnode = \"site-a\"\nnvram = \"64MiB\"\nurl = \"http://{back}\"\npolicy = \"{}\"\nlink_timeout = \"{}\"\n",
            stream.policy, stream.link_timeout
        );
        self.b.configure(&secret, &from_a)?;
        self.b.start()?;
        self.a.start()?;
        self.a.wait_for("site-a", "in_sync", Duration::from_mins(1)).await.map(drop)
    }
}
