//! Two sites as child processes of the program itself, on free loopback ports, with their data under one directory.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use http::Method;

use crate::cli::client::AdminClient;
use crate::config::KeyPair;

/// One site.
pub struct Site {
    /// Its node name.
    pub name: &'static str,
    /// Where it speaks S3: host and port.
    pub s3: String,
    /// Its admin address.
    pub admin: String,
    /// Its root key.
    pub key: KeyPair,
    /// Its data directory.
    pub dir: PathBuf,
    /// Its log.
    pub log: PathBuf,
    mirror: String,
    config: PathBuf,
    child: Option<Child>,
}

fn free_address() -> Result<String, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    listener.local_addr().map(|a| a.to_string()).map_err(|e| e.to_string())
}

impl Site {
    /// A site under `root` that is not running yet.
    ///
    /// # Errors
    /// When a directory or a port cannot be had.
    pub fn new(root: &Path, name: &'static str) -> Result<Self, String> {
        let dir = root.join(name);
        std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        Ok(Self {
            name,
            s3: free_address()?,
            admin: format!("http://{}", free_address()?),
            mirror: free_address()?,
            key: KeyPair { access_key: format!("DEMO{}", name.to_uppercase()), secret_key: crate::secret::token() },
            log: root.join(format!("{name}.log")),
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
    pub fn start(&mut self, program: &Path) -> Result<(), String> {
        let log = File::options().create(true).append(true).open(&self.log).map_err(|e| e.to_string())?;
        let errors = log.try_clone().map_err(|e| e.to_string())?;
        let child = Command::new(program)
            .args(["serve", "--config"])
            .arg(&self.config)
            .env_remove("LOCKSTEP_ADMIN_TOKEN")
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(|e| format!("{}: {e}", program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// SIGKILL: no chance to say goodbye.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _gone = child.kill();
            let _reaped = child.wait();
        }
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
        let token = std::fs::read_to_string(self.dir.join("admin.token")).map_err(|e| e.to_string())?;
        AdminClient::with_token(&self.admin, token.trim().to_owned())
    }

    /// Waits until an origin's stream is in this state.
    ///
    /// # Errors
    /// When it is not after `patience`, with what was seen last.
    pub async fn wait_for(&self, origin: &str, state: &str, patience: Duration) -> Result<(), String> {
        let began = Instant::now();
        let mut seen = String::new();
        while began.elapsed() < patience {
            if let Ok(admin) = self.admin() {
                match admin.call(Method::GET, "/v1/status", None).await {
                    Ok(status) => {
                        let origins = status["origins"].as_array().cloned().unwrap_or_default();
                        let found = origins.iter().find(|o| o["origin"] == origin);
                        seen = found.map(|o| o["state"].to_string()).unwrap_or_default();
                        if found.is_some_and(|o| o["state"] == state) {
                            return Ok(());
                        }
                    }
                    Err(error) => seen = error,
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(format!("{} did not see {origin} {state} within {patience:?}: {seen}", self.name))
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A source and its destination under `root`, with `policy`, running and in sync.
///
/// # Errors
/// When a site does not start or the two do not come into sync.
pub async fn pair(root: &Path, program: &Path, policy: &str) -> Result<(Site, Site), String> {
    let secret = root.join("mirror.key");
    std::fs::write(&secret, crate::secret::token()).map_err(|e| e.to_string())?;
    let (mut a, mut b) = (Site::new(root, "site-a")?, Site::new(root, "site-b")?);
    let to_b =
        format!("[mirror.destination]\nnode = \"site-b\"\nurl = \"http://{}\"\npolicy = \"{policy}\"\n", b.mirror);
    a.configure(&secret, &to_b)?;
    b.configure(&secret, "[[mirror.source]]\nnode = \"site-a\"\nnvram = \"64MiB\"\n")?;
    b.start(program)?;
    a.start(program)?;
    a.wait_for("site-a", "in_sync", Duration::from_mins(1)).await?;
    Ok((a, b))
}
