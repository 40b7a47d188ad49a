//! Real nodes as a test wants them: any number, small, mirrored any way, and each on a disk of its own where the test needs
//! one.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, StatusCode};
use lockstep_gateway::demo::client::{Answer, S3Client};
use lockstep_gateway::demo::sites::Site;
use lockstep_gateway::demo::workload::Random;
use lockstep_storage::id::Origin;
use lockstep_storage::image::rocks::{RocksEngine, RocksOptions, RocksShared};
use serde_json::Value;

/// Nothing takes this long unless it hangs.
pub const PATIENCE: Duration = Duration::from_mins(1);
/// Time between two looks at something that is waited for.
const POLL_PAUSE: Duration = Duration::from_millis(10);

/// Where nodes are made, and by which program.
pub struct Nodes {
    root: PathBuf,
    program: PathBuf,
}

/// What a node is told.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// Size of its own partition.
    nvram: String,
    /// Tables of its mirrors.
    tables: String,
}

impl Told {
    /// A node whose own partition has this size.
    #[must_use]
    pub fn nvram(size: &str) -> Self {
        Self { nvram: size.to_owned(), tables: String::new() }
    }

    /// Its own writes go to a node that is reached at `address`, host and port; `more` are lines of that table.
    #[must_use]
    pub fn to(mut self, node: &str, address: &str, more: &str) -> Self {
        // Writing to a String cannot fail.
        let _ = write!(self.tables, "[mirror.destination]\nnode = \"{node}\"\nurl = \"http://{address}\"\n{more}\n");
        self
    }

    /// It mirrors a node, in a partition of this size; `more` are lines of that table.
    #[must_use]
    pub fn from(mut self, node: &str, nvram: &str, more: &str) -> Self {
        let _ = write!(self.tables, "[[mirror.source]]\nnode = \"{node}\"\nnvram = \"{nvram}\"\n{more}\n");
        self
    }
}

impl Nodes {
    /// Nodes under a directory that is empty.
    ///
    /// # Panics
    /// Where nothing can be written there: then no test can be run.
    #[must_use]
    pub fn new(root: &Path, program: &str) -> Self {
        std::fs::write(root.join("mirror.key"), lockstep_gateway::secret::token()).expect("a secret");
        Self { root: root.to_owned(), program: program.into() }
    }

    /// A node that is not running yet.
    ///
    /// # Panics
    /// When a directory or a port cannot be had.
    #[must_use]
    pub fn site(&self, name: &'static str) -> Site {
        Site::new(&self.root, &self.program, name).expect("a site")
    }

    /// As [`Nodes::site`], with its data in a directory that is there: on a disk of its own.
    ///
    /// # Panics
    /// As there.
    #[must_use]
    pub fn site_on(&self, name: &'static str, dir: &Path) -> Site {
        let mut site = self.site(name);
        dir.clone_into(&mut site.dir);
        site
    }

    /// Says to a node what it is, from its next start on.
    ///
    /// # Panics
    /// When that cannot be written.
    pub fn tell(&self, site: &Site, told: &Told) {
        let text = format!(
            "node = \"{}\"\ndata_dir = \"{}\"\n[s3]\nlisten = \"{}\"\n[root]\naccess_key = \"{}\"\nsecret_key = \"{}\"\n\
             [admin]\nlisten = \"{}\"\n[nvram]\nsize = \"{}\"\n\
             [memory]\nblock_cache = \"16MiB\"\nmemtables = \"32MiB\"\nbodies = \"32MiB\"\n\
             [mirror]\nlisten = \"{}\"\nsecret_file = \"{}\"\n{}",
            site.name,
            site.dir.display(),
            site.s3,
            site.key.access_key,
            site.key.secret_key,
            site.admin.trim_start_matches("http://"),
            told.nvram,
            site.mirror,
            self.root.join("mirror.key").display(),
            told.tables,
        );
        std::fs::write(self.root.join(format!("{}.toml", site.name)), text).expect("a configuration");
    }
}

/// Sends a request with the key of a node's root to the node at `address`.
///
/// # Panics
/// When there is no answer.
pub async fn send(address: &str, of: &Site, method: Method, target: &str, body: impl Into<Bytes>) -> Answer {
    let mut client = S3Client::connect(address, &of.key).await.expect("a listener");
    client.send(method, target, body.into()).await.expect("an answer")
}

/// Puts an object at its source; the status, and who has it, as the answer says.
///
/// # Panics
/// When there is no answer.
pub async fn put(site: &Site, target: &str, body: impl Into<Bytes>) -> (StatusCode, String) {
    let answer = send(&site.s3, site, Method::PUT, target, body).await;
    let ack = answer.headers.get("x-lockstep-ack").and_then(|ack| ack.to_str().ok()).unwrap_or_default();
    (answer.status, ack.to_owned())
}

/// Waits until a node answers S3 requests.
///
/// # Panics
/// When it does not.
pub async fn serves(site: &Site) {
    let began = Instant::now();
    loop {
        let listens = S3Client::connect(&site.s3, &site.key).await;
        if let Ok(mut client) = listens
            && client.send(Method::GET, "/", Bytes::new()).await.is_ok_and(|answer| answer.status.is_success())
        {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{} does not serve: {}", site.name, log_of(site));
        tokio::time::sleep(POLL_PAUSE).await;
    }
}

/// What a node has logged.
#[must_use]
pub fn log_of(site: &Site) -> String {
    std::fs::read_to_string(&site.log).unwrap_or_default()
}

/// Waits until what a node's status says of an origin is right, `what` in words.
///
/// # Panics
/// With what was seen last, when it does not come.
pub async fn until(site: &Site, origin: &str, what: &str, is_right: impl Fn(&Value) -> bool) -> Value {
    let seen = site.wait_until(origin, what, PATIENCE * 2, is_right).await;
    seen.unwrap_or_else(|error| panic!("{error}\n{}", log_of(site)));
    site.origin(origin).await.unwrap_or_default()
}

/// Waits until an origin's stream is in this state.
///
/// # Panics
/// As [`until`].
pub async fn state(site: &Site, origin: &str, state: &str) -> Value {
    until(site, origin, state, |found| found["state"] == state).await
}

/// The images of an origin at both nodes are equal at a consistency point, and every body can be read.
///
/// # Panics
/// With what differs.
pub async fn assert_equal(origin: &str, source: &Site, destination: &Site) {
    state(source, origin, "in_sync").await;
    state(destination, origin, "in_sync").await;
    source.operate(&["sync", origin]).await.expect("a consistency point");
    let token = destination.token_file().display().to_string();
    let words = ["verify", origin, "--deep", "--with", &destination.admin, "--with-token-file", &token];
    let said = source.operate(&words).await.expect("equal images");
    assert!(said.contains("the images are equal"), "{said}");
}

/// The engine of an origin at a node that does not run.
///
/// # Panics
/// When it cannot be opened.
#[must_use]
pub fn engine_of(site: &Site, origin: &str) -> RocksEngine {
    let generations = std::fs::read_dir(site.dir.join("origins").join(origin)).expect("its engines");
    let numbers = generations.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u64>().ok());
    let newest = numbers.max().expect("an engine").to_string();
    let dir = site.dir.join("origins").join(origin).join(newest);
    let shared = RocksShared::new(8 << 20, 16 << 20);
    RocksEngine::open(&RocksOptions::new(dir, Origin::new(origin).expect("a name"), shared)).expect("its engine")
}

/// Bytes that nothing makes shorter.
#[must_use]
pub fn noise(len: usize, seed: u64) -> Bytes {
    let mut random = Random::new(seed | 1);
    std::iter::repeat_with(|| random.below(256) as u8).take(len).collect::<Vec<u8>>().into()
}
