//! Puts a node together and runs it: region, engines, threads, then the three listeners; ends on a signal with a last
//! consistency point, or at once when the log device fails.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lockstep_mirror::link::{LinkOptions, Secret};
use lockstep_mirror::runtime::{Reserve, Runtime, RuntimeOptions};
use lockstep_mirror::start::region_len;
use lockstep_storage::id::Origin;
use lockstep_storage::nvram::file::PersistClass;
use lockstep_storage::op::{AccessKey, Mutation, PutAccessKey, PutUser, User};
use lockstep_storage::record::{Draft, RecordError};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::admin::{Admin, listener};
use crate::config::{Config, KeyPair, Persist, UserConfig};
use crate::hook;
use crate::s3::{self, Gateway};
use crate::secret;

/// Longest time to settle what is admitted when the node stops.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest wait for a new node's keys, and time between two looks.
const KEYS_TIMEOUT: Duration = Duration::from_secs(10);
const KEYS_INTERVAL: Duration = Duration::from_millis(2);
/// Bytes of disk that stay free beside what NVRAM and memtables may need: half of them for deletions at a mirror.
const RESERVE_LEN: u64 = 256 << 20;

/// Runs a node until it is told to stop. `unknown` are variables that look like ours and are none.
///
/// # Errors
/// One sentence: what could not be opened, or why the node stopped by itself.
pub fn run(config: Config, unknown: &[&str]) -> Result<(), String> {
    let filter = EnvFilter::try_from_env("LOCKSTEP_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // Colours are for terminals: in a file or a journal they are noise.
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .with_target(false)
        .init();
    for name in unknown {
        tracing::warn!("the environment variable {name} is not known");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(serve(config))
}

async fn serve(mut config: Config) -> Result<(), String> {
    std::fs::create_dir_all(&config.data_dir).map_err(|e| format!("{}: {e}", config.data_dir.display()))?;
    let root = root_key(&config)?;
    config.plan.bootstrap = bootstrap(&root, &config.users).map_err(|e| e.to_string())?;
    let token = admin_token(&config)?;
    // The listeners first: a busy address is said before anything is written.
    let s3 = bind("s3.listen", config.s3.listen).await?;
    let admin = bind("admin.listen", config.admin_listen).await?;
    let mirror = match &config.mirror {
        Some(mirror) => Some(bind("mirror.listen", mirror.listen).await?),
        None => None,
    };
    let node = open(&config).await?;
    let gateway = Gateway::new(node.client(), config.s3.region.clone(), config.s3.domains.clone());
    let state = Admin::new(node.client(), Arc::clone(&gateway.metrics), token);
    if let Some(hook) = hook::start(&node.client(), &config.on_change, &config.data_dir) {
        state.show_hook(hook);
    }
    announce(&config, &s3, &admin, mirror.as_ref());
    let (stop, stopping) = watch::channel(false);
    let stop_link = CancellationToken::new();
    let admin_task = tokio::spawn(listener::run(admin, state.router(), stopping.clone()));
    if let (Some(listener), Some(link)) = (mirror, node.link()) {
        let (link, stop) = (link.clone(), stop_link.clone());
        tokio::spawn(async move { link.serve(listener, stop).await });
    }
    let mut drained = stopping.clone();
    let shutdown = async move { drop(drained.wait_for(|stop| *stop).await) };
    let s3_task = tokio::spawn(s3::listener::serve(s3, gateway, shutdown));
    let why = tokio::select! {
        why = node.stopped() => Some(why),
        () = told_to_stop() => None,
    };
    state.set_stopping();
    let _no_listener = stop.send(true);
    if let Some(why) = why {
        return Err(format!("stopped: {why}"));
    }
    tracing::info!("stopping: settling what is admitted");
    let _s3_done = s3_task.await;
    let settled = node.shut_down(SETTLE_TIMEOUT).await;
    stop_link.cancel();
    let _admin_done = admin_task.await;
    tracing::info!(
        "{}",
        if settled { "stopped at a consistency point" } else { "stopped; recovery will settle the rest" }
    );
    Ok(())
}

async fn told_to_stop() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

async fn bind(key: &str, address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|e| format!("{key}: cannot listen on {address}: {e}"))
}

/// Opens the node: region, engines, threads; no listener yet. `config.plan.bootstrap` is what a new node begins with, and
/// what it has when this returns.
///
/// # Errors
/// One sentence: what could not be opened.
pub async fn open(config: &Config) -> Result<Runtime, String> {
    let link = match &config.mirror {
        Some(mirror) => Some(LinkOptions::new(Secret::new(&mirror.secret).map_err(|e| e.to_string())?)),
        None => None,
    };
    let options = RuntimeOptions {
        plan: config.plan.clone(),
        data_dir: config.data_dir.clone(),
        nvram_path: config.nvram.path.clone(),
        persist: match config.nvram.persist {
            Persist::Device => PersistClass::Device,
            Persist::Memory => PersistClass::Memory,
        },
        budget_bytes: usize::try_from(config.memory.bodies).unwrap_or(usize::MAX / 2),
        cache_bytes: usize::try_from(config.memory.block_cache).unwrap_or(usize::MAX / 2),
        write_buffer_bytes: usize::try_from(config.memory.memtables).unwrap_or(usize::MAX / 2),
        reserve: reserve(config),
        link,
    };
    let tokio = tokio::runtime::Handle::current();
    let opened = tokio::task::spawn_blocking(move || {
        let mut said = Instant::now();
        Runtime::open(&options, &tokio, &mut |zeroed| {
            if said.elapsed() >= Duration::from_secs(1) {
                said = Instant::now();
                tracing::info!("preparing the NVRAM region: {} MiB", zeroed >> 20);
            }
        })
    });
    let node = opened.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    wait_for_keys(&node, &config.plan.node).await;
    Ok(node)
}

/// What is in NVRAM must find room in the engine, whatever else is refused (F22).
fn reserve(config: &Config) -> Reserve {
    let region = region_len(&config.plan);
    let needed = config.memory.memtables + region;
    Reserve {
        writes_bytes: RESERVE_LEN + needed,
        records_bytes: RESERVE_LEN / 2 + needed,
        // RocksDB goes on after a flush without space when its largest write buffer, 64 MiB, finds room.
        held_bytes: RESERVE_LEN / 2 + region,
    }
}

/// The keys of a new node are its first records. Who came before they are applied would hear that his key does not exist,
/// which no client tries again. A node that cannot apply anything opens all the same: its answers say why.
async fn wait_for_keys(node: &Runtime, own: &Origin) {
    let client = node.client();
    let began = Instant::now();
    while began.elapsed() < KEYS_TIMEOUT {
        let keys = client.view(own).map(|view| view.access_keys());
        if matches!(keys, Ok(Ok(keys)) if !keys.is_empty()) {
            return;
        }
        tokio::time::sleep(KEYS_INTERVAL).await;
    }
    tracing::warn!("{own} has no access key yet");
}

fn announce(config: &Config, s3: &TcpListener, admin: &TcpListener, mirror: Option<&TcpListener>) {
    let address = |listener: &TcpListener| listener.local_addr().map(|a| a.to_string()).unwrap_or_default();
    tracing::info!("node {}: S3 on http://{}, admin on http://{}", config.plan.node, address(s3), address(admin));
    let persist = match config.nvram.persist {
        Persist::Device => "device: survives power loss",
        Persist::Memory => "memory: survives the process, power loss only where the mount does",
    };
    tracing::info!("persist class {persist}; memory: {}", config.memory);
    if let Some(mirror) = mirror {
        tracing::info!("mirror on http://{}", address(mirror));
        tracing::warn!("without TLS the records are unauthenticated on the wire");
    }
}

/// The root key: configured, or made on the first start, stored for its owner only and printed once.
fn root_key(config: &Config) -> Result<KeyPair, String> {
    if let Some(root) = &config.root {
        return Ok(root.clone());
    }
    let path = config.data_dir.join("root.key");
    if let Ok(text) = std::fs::read_to_string(&path) {
        let mut lines = text.lines();
        return match (lines.next(), lines.next()) {
            (Some(access), Some(secret)) => Ok(KeyPair { access_key: access.into(), secret_key: secret.into() }),
            _ => Err(format!("{}: two lines are needed, access key and secret key", path.display())),
        };
    }
    let pair = secret::key_pair();
    let text = format!("{}\n{}\n", pair.access_key, pair.secret_key);
    secret::store(&path, &text).map_err(|e| format!("{}: {e}", path.display()))?;
    println!(
        "root access key: {}\nroot secret key: {}\n(kept in {})",
        pair.access_key,
        pair.secret_key,
        path.display()
    );
    Ok(pair)
}

fn admin_token(config: &Config) -> Result<String, String> {
    if let Ok(token) = std::env::var("LOCKSTEP_ADMIN_TOKEN") {
        return Ok(token);
    }
    let path = config.data_dir.join("admin.token");
    if let Ok(token) = std::fs::read_to_string(&path) {
        return Ok(token.trim().to_owned());
    }
    let token = secret::token();
    secret::store(&path, &format!("{token}\n")).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(token)
}

/// The first records of a new node: root, its key, and the configured users.
///
/// # Errors
/// When one of them does not fit a record.
pub fn bootstrap(root: &KeyPair, users: &[UserConfig]) -> Result<Vec<Draft>, RecordError> {
    let mut drafts = Vec::new();
    let mut add = |name: &str, user: User, pair: &KeyPair, is_root: bool| {
        let put_user = Mutation::PutUser(PutUser { name: name.into(), user });
        let key = AccessKey { secret: pair.secret_key.clone(), user: name.into(), created_ms: 0, root: is_root };
        let put_key = Mutation::PutAccessKey(PutAccessKey { access_key: pair.access_key.clone(), key });
        drafts.push(Draft::new(put_user, Bytes::new())?);
        drafts.push(Draft::new(put_key, Bytes::new())?);
        Ok::<(), RecordError>(())
    };
    add(secret::ROOT_USER, User::default(), root, true)?;
    for user in users {
        let stored = User { id: user.id.clone(), display_name: user.display_name.clone(), email: user.email.clone() };
        add(&user.name, stored, &user.key, false)?;
    }
    Ok(drafts)
}
