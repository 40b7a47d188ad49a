//! Defaults and checks: from the file as written to the configuration as used. Called once, by `Config::load`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lockstep_mirror::plan::{AckLevel, Limits, NodePlan, OriginPlan, Policy as PlanPolicy, StreamPlan};
use lockstep_storage::id::Origin;
use lockstep_storage::partition::{Extent, SEGMENTS_DEFAULT};
use lockstep_storage::superblock::{ORIGINS_MAX, PARTITIONS_AT};

use super::file::{Ack, Destination, ENTRIES_MAX, File, Memory, Persist, Policy, Source};
use super::units::{Size, Span};
use super::{
    Config, ConfigError, KeyPair, MemoryPlan, MirrorConfig, NvramConfig, S3Config, UserConfig, memory, read_file,
};
use crate::secret;

/// Most bytes of a region, and of a partition. So many times the most origins can be added up.
const REGION_LEN_MAX: u64 = 1 << 50;

type Checked<T> = Result<T, ConfigError>;

fn wrong<T>(key: &str, reason: impl std::fmt::Display) -> Checked<T> {
    Err(ConfigError(format!("{key}: {reason}")))
}

/// The root key from MinIO's variables, for those who come from there.
pub(super) fn minio_root(environment: &[(String, String)]) -> Checked<Option<KeyPair>> {
    let get = |name: &str| environment.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
    match (get("MINIO_ROOT_USER"), get("MINIO_ROOT_PASSWORD")) {
        (Some(access_key), Some(secret_key)) => Ok(Some(KeyPair { access_key, secret_key })),
        (None, None) => Ok(None),
        (Some(_), None) => wrong("MINIO_ROOT_PASSWORD", "is missing, MINIO_ROOT_USER is there"),
        (None, Some(_)) => wrong("MINIO_ROOT_USER", "is missing, MINIO_ROOT_PASSWORD is there"),
    }
}

/// Fills every default in and checks everything.
pub(super) fn validate(mut file: File, minio: Option<KeyPair>) -> Checked<Config> {
    let node = name("node", file.node.get_or_insert_with(|| "local".to_owned()))?;
    let data_dir = PathBuf::from(&*file.data_dir.get_or_insert_with(|| "./lockstep-data".to_owned()));
    if file.s3.tls.is_some() {
        return wrong("s3.tls", "TLS is not yet supported: this version serves plain HTTP, put a TLS proxy in front");
    }
    if file.mirror.tls.is_some() {
        return wrong("mirror.tls", "TLS is not yet supported: run the link between the sites through a VPN");
    }
    let root = root(&mut file, minio)?;
    let users = users(&file, root.as_ref())?;
    let nvram = NvramConfig {
        path: PathBuf::from(&*file.nvram.path.get_or_insert_with(|| data_dir.join("nvram").display().to_string())),
        persist: *file.nvram.persist.get_or_insert(Persist::Device),
    };
    let plan = plan(&mut file, &node)?;
    let mirror = mirror(&mut file)?;
    let s3 = S3Config {
        listen: listen("s3.listen", &mut file.s3.listen, "127.0.0.1:9000")?,
        region: file.s3.region.get_or_insert_with(|| "us-east-1".to_owned()).clone(),
        domains: domains(&file, &plan)?,
    };
    if s3.region.is_empty() || !s3.region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return wrong("s3.region", "is 1 or more of letters, digits and '-'");
    }
    let admin_listen = listen("admin.listen", &mut file.admin.listen, "127.0.0.1:9001")?;
    if file.failover.on_change.first().is_some_and(String::is_empty) {
        return wrong("failover.on_change", "the program's name is empty");
    }
    let memory = memory_plan(&mut file.memory, file.mirror.sources.len())?;
    let on_change = file.failover.on_change.clone();
    Ok(Config { data_dir, s3, admin_listen, root, users, nvram, memory, mirror, plan, on_change, file })
}

fn name(key: &str, text: &str) -> Checked<Origin> {
    Origin::new(text).or_else(|error| wrong(key, error))
}

fn listen(key: &str, text: &mut Option<String>, default: &str) -> Checked<SocketAddr> {
    let text = text.get_or_insert_with(|| default.to_owned());
    // localhost is the one name that needs no resolver.
    text.replace("localhost:", "127.0.0.1:")
        .parse()
        .or_else(|_| wrong(key, format!("'{text}' is not an address with a port, like 0.0.0.0:9000 or [::]:9000")))
}

fn key_pair(key: &str, access_key: &str, secret_key: &str) -> Checked<KeyPair> {
    secret::checked(key, access_key, secret_key).map_err(ConfigError)
}

fn root(file: &mut File, minio: Option<KeyPair>) -> Checked<Option<KeyPair>> {
    let either = |name: &str, text: &Option<String>, path: &Option<String>| -> Checked<Option<String>> {
        match (text, path) {
            (Some(_), Some(_)) => wrong(&format!("root.{name}"), format!("is given twice, root.{name}_file too")),
            (Some(text), None) => Ok(Some(text.clone())),
            (None, Some(path)) => Ok(Some(read_file(&format!("root.{name}_file"), Path::new(path))?.trim().to_owned())),
            (None, None) => Ok(None),
        }
    };
    let access_key = either("access_key", &file.root.access_key, &file.root.access_key_file)?;
    let secret_key = either("secret_key", &file.root.secret_key, &file.root.secret_key_file)?;
    match (access_key, secret_key) {
        (Some(access_key), Some(secret_key)) => key_pair("root", &access_key, &secret_key).map(Some),
        (Some(_), None) => wrong("root.secret_key", "is missing, root.access_key is there"),
        (None, Some(_)) => wrong("root.access_key", "is missing, root.secret_key is there"),
        (None, None) => {
            let Some(pair) = minio else { return Ok(None) };
            let pair = key_pair("MINIO_ROOT_USER and MINIO_ROOT_PASSWORD as root", &pair.access_key, &pair.secret_key)?;
            file.root.access_key = Some(pair.access_key.clone());
            file.root.secret_key = Some(pair.secret_key.clone());
            Ok(Some(pair))
        }
    }
}

fn users(file: &File, root: Option<&KeyPair>) -> Checked<Vec<UserConfig>> {
    let mut names = BTreeSet::from([secret::ROOT_USER]);
    let mut keys: BTreeSet<&str> = root.iter().map(|pair| pair.access_key.as_str()).collect();
    let mut users = Vec::with_capacity(file.users.len());
    if file.users.len() > ENTRIES_MAX {
        return wrong("user", format!("more than {ENTRIES_MAX} entries"));
    }
    for (number, user) in file.users.iter().enumerate() {
        let key = format!("user.{number}");
        let needed = |field: &str, value: &Option<String>| match value {
            Some(value) if !value.is_empty() => Ok(value.clone()),
            _ => wrong(&format!("{key}.{field}"), "is missing"),
        };
        let name = needed("name", &user.name)?;
        let pair = key_pair(&key, &needed("access_key", &user.access_key)?, &needed("secret_key", &user.secret_key)?)?;
        if !user.name.as_deref().is_some_and(|name| names.insert(name)) {
            return wrong(&format!("{key}.name"), format!("there is a user '{name}' already"));
        }
        if !user.access_key.as_deref().is_some_and(|access_key| keys.insert(access_key)) {
            return wrong(&format!("{key}.access_key"), format!("'{}' is used twice", pair.access_key));
        }
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let (id, display_name) = (text(&user.id), text(&user.display_name));
        users.push(UserConfig { name, id, display_name, email: text(&user.email), key: pair });
    }
    Ok(users)
}

fn url(key: &str, text: &str) -> Checked<String> {
    let uri: http::Uri =
        text.parse().or_else(|_| wrong(key, format!("'{text}' is not a URL like http://site-b:9002")))?;
    match (uri.scheme_str(), uri.host(), uri.path()) {
        (Some("https"), ..) => wrong(key, "TLS is not yet supported: write http://"),
        (Some("http"), Some(_), "/" | "") => Ok(text.trim_end_matches('/').to_owned()),
        _ => wrong(key, format!("'{text}' is not a URL like http://site-b:9002, without a path")),
    }
}

/// A partition's length, by the rule by which the start cuts it: what is taken here can be cut there.
fn partition(key: &str, size: Size, limits: &Limits) -> Checked<u64> {
    // Longer than any file, and the places in the region could not be counted.
    if size.0 > REGION_LEN_MAX {
        return wrong(key, format!("{size} is more than a region can have"));
    }
    let cut = Extent::new(PARTITIONS_AT, size.0, SEGMENTS_DEFAULT, limits.record_len_max);
    cut.map(|_| size.0).or_else(|reason| wrong(key, reason))
}

fn plan(file: &mut File, node: &Origin) -> Checked<NodePlan> {
    let limits = Limits::default();
    let nvram_len = partition("nvram.size", *file.nvram.size.get_or_insert(Size(512 << 20)), &limits)?;
    let stream = match &mut file.mirror.destination {
        Some(destination) => Some(stream("mirror.destination", destination, node)?),
        None => None,
    };
    let mut origins = vec![OriginPlan { origin: node.clone(), nvram_len, stream }];
    for (number, source) in file.mirror.sources.iter_mut().enumerate() {
        let key = format!("mirror.source.{number}");
        let Some(origin) = &source.node else { return wrong(&format!("{key}.node"), "is missing") };
        let origin = name(&format!("{key}.node"), origin)?;
        if origins.iter().any(|other| other.origin == origin) {
            return wrong(&format!("{key}.node"), format!("'{origin}' is named twice, or is this node itself"));
        }
        let size = *source.nvram.get_or_insert(Size(256 << 20));
        let nvram_len = partition(&format!("{key}.nvram"), size, &limits)?;
        let stream = way_back(&key, source, node)?;
        origins.push(OriginPlan { origin, nvram_len, stream });
    }
    if origins.len() > ORIGINS_MAX {
        return wrong("mirror.source", format!("a node has at most {ORIGINS_MAX} origins"));
    }
    if origins.iter().map(|origin| origin.nvram_len).sum::<u64>() > REGION_LEN_MAX {
        return wrong("nvram.size", "all partitions together are more than a region can have");
    }
    Ok(NodePlan { node: node.clone(), origins, bootstrap: Vec::new(), limits })
}

/// A source's own entry as a destination: where its origin's writes go while this node takes them.
fn way_back(key: &str, source: &mut Source, node: &Origin) -> Checked<Option<StreamPlan>> {
    if source.url.is_none() {
        return Ok(None);
    }
    let mut back = Destination {
        node: source.node.clone(),
        url: source.url.clone(),
        policy: source.policy,
        ack: source.ack,
        link_timeout: source.link_timeout,
        sync_interval: source.sync_interval,
        backlog_limit: source.backlog_limit,
        baseline_rate: source.baseline_rate,
    };
    let plan = stream(key, &mut back, node)?;
    (source.policy, source.ack, source.backlog_limit) = (back.policy, back.ack, back.backlog_limit);
    (source.link_timeout, source.sync_interval) = (back.link_timeout, back.sync_interval);
    source.baseline_rate = back.baseline_rate;
    Ok(Some(plan))
}

fn stream(key: &str, to: &mut Destination, node: &Origin) -> Checked<StreamPlan> {
    let Some(destination) = &to.node else { return wrong(&format!("{key}.node"), "is missing") };
    let destination = name(&format!("{key}.node"), destination)?;
    if destination == *node {
        return wrong(&format!("{key}.node"), "a node cannot be its own mirror");
    }
    let Some(address) = &to.url else { return wrong(&format!("{key}.url"), "is missing") };
    let seconds = |n| Span(Duration::from_secs(n));
    Ok(StreamPlan {
        destination,
        url: url(&format!("{key}.url"), address)?,
        policy: match to.policy.get_or_insert(Policy::Sync) {
            Policy::Strict => PlanPolicy::Strict,
            Policy::Sync => PlanPolicy::Sync,
            Policy::Async => PlanPolicy::Async,
        },
        ack: match to.ack.get_or_insert(Ack::Durable) {
            Ack::Received => AckLevel::Received,
            Ack::Durable => AckLevel::Durable,
            Ack::Applied => AckLevel::Applied,
        },
        link_timeout: to.link_timeout.get_or_insert(seconds(5)).0,
        sync_interval: to.sync_interval.get_or_insert(seconds(10)).0,
        backlog_limit: to.backlog_limit.get_or_insert(Size(64 << 30)).0,
        baseline_rate: rate(key, to)?,
    })
}

/// Bytes in a second, so few that a baseline ends some day.
fn rate(key: &str, to: &mut Destination) -> Checked<u64> {
    const LEAST: u64 = 64 << 10;
    let rate = to.baseline_rate.get_or_insert(Size(128 << 20)).0;
    if rate < LEAST {
        return wrong(&format!("{key}.baseline_rate"), "is below 64KiB");
    }
    Ok(rate)
}

fn mirror(file: &mut File) -> Checked<Option<MirrorConfig>> {
    if file.mirror.destination.is_none() && file.mirror.sources.is_empty() {
        return Ok(None);
    }
    let listen = listen("mirror.listen", &mut file.mirror.listen, "0.0.0.0:9002")?;
    let Some(path) = &file.mirror.secret_file else {
        return wrong("mirror.secret_file", "is missing: both nodes need a file with the same secret");
    };
    let secret = read_file("mirror.secret_file", Path::new(path))?.trim().to_owned();
    if !(16..=1024).contains(&secret.len()) || !secret.bytes().all(|b| b.is_ascii_graphic()) {
        return wrong("mirror.secret_file", format!("{path} must hold 16 to 1024 visible ASCII characters"));
    }
    Ok(Some(MirrorConfig { listen, secret }))
}

fn domains(file: &File, plan: &NodePlan) -> Checked<Vec<(String, Origin)>> {
    let own = file.s3.domains.iter().map(|name| ("s3.domains".to_owned(), name, &plan.node));
    let mirrored = file.mirror.sources.iter().zip(plan.origins.iter().skip(1)).enumerate().flat_map(
        |(number, (source, origin))| {
            source.domains.iter().map(move |name| (format!("mirror.source.{number}.domains"), name, &origin.origin))
        },
    );
    let mut all: Vec<(String, Origin)> = Vec::new();
    for (key, name, origin) in own.chain(mirrored) {
        let name = name.to_ascii_lowercase();
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
        if name.is_empty() || !name.bytes().all(allowed) || name.starts_with('.') || name.ends_with('.') {
            return wrong(&key, format!("'{name}' is not a DNS name (without a port)"));
        }
        if all.iter().any(|(other, _)| *other == name) {
            return wrong(&key, format!("'{name}' is named twice"));
        }
        all.push((name, origin.clone()));
    }
    Ok(all)
}

fn memory_plan(given: &mut Memory, sources: usize) -> Checked<MemoryPlan> {
    let at_least = |key: &str, size: &mut Option<Size>, default: u64, least: u64| {
        let size = *size.get_or_insert(Size(default));
        if size.0 < least { wrong(key, format!("{size} is too small, at least {}", Size(least))) } else { Ok(size.0) }
    };
    Ok(MemoryPlan {
        nvram_buffers: memory::NVRAM_BUFFERS,
        links: memory::LINK_BUDGET.saturating_mul(sources as u64),
        memtables: at_least("memory.memtables", &mut given.memtables, memory::MEMTABLES_DEFAULT, 16 << 20)?,
        block_cache: at_least("memory.block_cache", &mut given.block_cache, memory::BLOCK_CACHE_DEFAULT, 8 << 20)?,
        bodies: at_least("memory.bodies", &mut given.bodies, memory::BODIES_DEFAULT, 16 << 20)?,
    })
}
