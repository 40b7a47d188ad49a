//! A node in the test's own process: real configuration, real region and engines in a directory of its own, real sockets on
//! free ports. Its threads and its async runtime are its own, so a test may stop its clock or block.
//!
//! What a test starts ends with it: dropping a [`Node`] stops it and removes its directory.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use lockstep_gateway::admin::{Admin, listener as admin_listener};
use lockstep_gateway::config::Config;
use lockstep_gateway::hook;
use lockstep_gateway::s3::{Gateway, listener as s3_listener};
use lockstep_gateway::serve;
use lockstep_mirror::client::Client;
use lockstep_mirror::status::StreamState;
use lockstep_storage::id::Origin;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Access key of every node's root, before the node's name.
pub const ACCESS_KEY: &str = "AKTEST";
/// Secret key of every node's root.
pub const SECRET_KEY: &str = "a/secret+of/the+tests/aaaaaaaaaaaaaaaaaa";
/// Bearer token of every admin listener.
pub const TOKEN: &str = "the-admin-token-of-the-tests";
/// What the two ends of a link share.
pub const MIRROR_SECRET: &str = "a-secret-of-both-sites";
/// Nothing takes this long unless it hangs.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// What a node is told beside the usual.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its name.
    pub node: &'static str,
    /// More lines of its configuration: whole tables.
    pub tables: String,
    /// More lines of its `[s3]` table.
    pub s3: String,
}

impl Default for Options {
    fn default() -> Self {
        Self { node: "site-a", tables: String::new(), s3: String::new() }
    }
}

/// Where it listens, and the way into it.
#[derive(Clone)]
struct Open {
    s3: SocketAddr,
    admin: SocketAddr,
    mirror: SocketAddr,
    client: Client,
}

/// A running node.
pub struct Node {
    /// Its name.
    pub name: &'static str,
    /// Its S3 listener.
    pub s3: SocketAddr,
    /// Its admin listener.
    pub admin: SocketAddr,
    /// Its mirror listener; it answers only where a mirror is configured.
    pub mirror: SocketAddr,
    /// The way to its log and images.
    pub client: Client,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
    // Removed after the thread has ended.
    _dir: TempDir,
}

impl Node {
    /// A node without a mirror.
    pub async fn alone() -> Self {
        Self::start(Options::default()).await
    }

    /// A source and its destination, in sync.
    pub async fn pair() -> (Self, Self) {
        let b =
            Self::start(Options { tables: SOURCE.into(), ..Options { node: "site-b", ..Options::default() } }).await;
        let tables = format!("[mirror.destination]\nnode = \"site-b\"\nurl = \"http://{}\"\n", b.mirror);
        let a = Self::start(Options { tables, ..Options::default() }).await;
        a.wait_for("in sync", |status| status == StreamState::InSync).await;
        (a, b)
    }

    /// A destination that waits for its source, `site-a`.
    pub async fn destination() -> Self {
        Self::start(Options { tables: SOURCE.into(), node: "site-b", s3: String::new() }).await
    }

    /// Starts one.
    pub async fn start(options: Options) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let config = configure(&dir, &options).expect("a configuration");
        let (stop, stopping) = watch::channel(false);
        let (opened, open) = tokio::sync::oneshot::channel();
        let run = move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.expect("a runtime").block_on(serve(config, opened, stopping));
        };
        let thread = std::thread::Builder::new().name(options.node.into()).spawn(run).expect("a thread");
        let open: anyhow::Result<Open> = open.await.expect("the node's thread lives");
        let Open { s3, admin, mirror, client } = open.expect("a node that starts");
        Self { name: options.node, s3, admin, mirror, client, stop, thread: Some(thread), _dir: dir }
    }

    /// Access key of its root.
    #[must_use]
    pub fn access_key(&self) -> String {
        access_key(self.name)
    }

    /// The state of `site-a`'s stream, here.
    #[must_use]
    pub fn stream_state(&self) -> Option<StreamState> {
        let origin = Origin::new("site-a").ok()?;
        self.client.status().origins.iter().find(|o| o.origin == origin).map(|o| o.state)
    }

    /// Waits until the stream of `site-a` is as `wanted` says.
    pub async fn wait_for(&self, what: &str, wanted: impl Fn(StreamState) -> bool) {
        let began = Instant::now();
        while !self.stream_state().is_some_and(&wanted) {
            assert!(began.elapsed() < PATIENCE, "{} is not {what}, but {:?}", self.name, self.stream_state());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _gone = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            // A node that panicked has failed its test already, by what it no longer does.
            let _panicked = thread.join();
        }
    }
}

/// What a destination is told of its source.
const SOURCE: &str = "[[mirror.source]]\nnode = \"site-a\"\nnvram = \"24MiB\"\n";

fn access_key(node: &str) -> String {
    format!("{ACCESS_KEY}{}", node.replace('-', "").to_uppercase())
}

fn configure(dir: &TempDir, options: &Options) -> anyhow::Result<Config> {
    let secret = dir.path().join("mirror.key");
    std::fs::write(&secret, MIRROR_SECRET)?;
    let (node, data, s3) = (options.node, dir.path().display(), &options.s3);
    let access_key = access_key(node);
    let mut text = format!(
        "node = \"{node}\"\ndata_dir = \"{data}\"\n[s3]\nlisten = \"127.0.0.1:0\"\n{s3}\n\
         [root]\naccess_key = \"{access_key}\"\nsecret_key = \"{SECRET_KEY}\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [nvram]\nsize = \"24MiB\"\n[memory]\nblock_cache = \"16MiB\"\nmemtables = \"32MiB\"\nbodies = \"32MiB\"\n"
    );
    if !options.tables.is_empty() {
        let secret = secret.display();
        write!(text, "[mirror]\nlisten = \"127.0.0.1:0\"\nsecret_file = \"{secret}\"\n{}", options.tables)?;
    }
    let path = dir.path().join("node.toml");
    std::fs::write(&path, text)?;
    Ok(Config::load(Some(&path), &[])?)
}

/// The life of a node: what `lockstep serve` does, without its signals.
async fn serve(
    mut config: Config,
    opened: tokio::sync::oneshot::Sender<anyhow::Result<Open>>,
    mut stopping: watch::Receiver<bool>,
) {
    let started = async {
        let root = config.root.clone().context("a root key")?;
        config.plan.bootstrap = serve::bootstrap(&root, &config.users)?;
        let node = serve::open(&config).await.map_err(|reason| anyhow!(reason))?;
        let (s3, admin, mirror) = (bind().await?, bind().await?, bind().await?);
        anyhow::Ok((node, s3, admin, mirror))
    };
    let (node, s3, admin, mirror) = match started.await {
        Ok(started) => started,
        Err(error) => return drop(opened.send(Err(error))),
    };
    let client = node.client();
    let gateway = Gateway::new(client.clone(), config.s3.region.clone(), config.s3.domains.clone());
    let state = Admin::new(client.clone(), Arc::clone(&gateway.metrics), TOKEN.into());
    if let Some(hook) = hook::start(&client, &config.on_change, &config.data_dir) {
        state.show_hook(hook);
    }
    let address = |listener: &TcpListener| listener.local_addr().expect("a bound listener");
    let open = Open { s3: address(&s3), admin: address(&admin), mirror: address(&mirror), client };
    let stop_link = CancellationToken::new();
    let link = node.link().cloned();
    let mirrored = link.is_some();
    if let Some(link) = link {
        let stop = stop_link.clone();
        tokio::spawn(async move { link.serve(mirror, stop).await });
    }
    tokio::spawn(admin_listener::run(admin, state.router(), stopping.clone()));
    let s3_task = tokio::spawn(s3_listener::serve(s3, gateway, std::future::pending()));
    let _test_is_over = opened.send(Ok(open));
    let _sender_is_gone = stopping.wait_for(|stop| *stop).await;
    s3_task.abort();
    stop_link.cancel();
    // A pair that is dropped one by one would wait for the other in vain.
    let patience = if mirrored { Duration::ZERO } else { PATIENCE };
    let _settled = node.shut_down(patience).await;
}

/// Bytes of this process in memory: what a flood must not raise without bound.
#[must_use]
pub fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a figure");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

async fn bind() -> std::io::Result<TcpListener> {
    TcpListener::bind("127.0.0.1:0").await
}
