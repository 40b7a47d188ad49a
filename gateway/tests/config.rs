//! The configuration as users meet it: the file of the documentation, no file at all, and what must be refused.

use std::path::Path;
use std::sync::Arc;

use lockstep_gateway::config::{Config, Persist, effective};
use lockstep_mirror::event::Now;
use lockstep_mirror::plan::{AckLevel, Limits, Policy};
use lockstep_mirror::start::{Engines, region_len, start};
use lockstep_storage::id::Origin;
use lockstep_storage::image::memory::MemoryEngine;
use lockstep_storage::image::{Image, ImageError};
use lockstep_storage::nvram::sim::SimNvram;
use lockstep_storage::partition::{SEGMENTS_DEFAULT, segment_len_min};

/// Engines that nothing is left of.
struct InMemory;

impl Engines for InMemory {
    fn newest(&mut self, _origin: &Origin) -> Result<Option<u64>, ImageError> {
        Ok(None)
    }

    fn open(&mut self, _origin: &Origin, _generation: u64) -> Result<Image, ImageError> {
        Ok(Image::new(Arc::new(MemoryEngine::new())))
    }

    fn absent(&mut self, origin: &Origin, _generation: u64) -> Image {
        panic!("the engine of {origin} is sound")
    }

    fn remove_before(&mut self, _origin: &Origin, _generation: u64) -> Result<(), ImageError> {
        Ok(())
    }
}

fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("mirror.key"), "0123456789abcdef0123456789abcdef\n").expect("is written");
    std::fs::write(dir.path().join("ak"), "FILEKEY\n").expect("is written");
    std::fs::write(dir.path().join("sk"), "file-secret\n").expect("is written");
    let path = dir.path().join("lockstep.toml");
    std::fs::write(&path, text.replace("DIR", &dir.path().display().to_string())).expect("is written");
    let environment: Vec<_> = environment.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    Config::load(Some(&path), &environment).map_err(|error| error.to_string())
}

const DOCUMENTED: &str = r#"
node = "site-a"
data_dir = "/var/lib/lockstep"
[s3]
listen = "0.0.0.0:9000"
region = "us-east-1"
domains = ["s3.site-a.example"]
[root]
access_key = "AKIAROOT"
secret_key = "very-secret"
[[user]]
name = "alice"
access_key = "AKIAALICE"
secret_key = "alice-secret"
[admin]
listen = "127.0.0.1:9001"
[nvram]
path = "/var/lib/lockstep/nvram"
size = "512MiB"
persist = "memory"
[mirror]
listen = "0.0.0.0:9002"
secret_file = "DIR/mirror.key"
[mirror.destination]
node = "site-b"
url = "http://site-b:9002/"
policy = "strict"
ack = "received"
link_timeout = "1500ms"
sync_interval = "1m"
backlog_limit = "1GiB"
[[mirror.source]]
node = "site-b"
nvram = "256MiB"
domains = ["S3.site-b.example"]
url = "http://site-b:9002"
[failover]
on_change = ["/etc/lockstep/hook", "now"]
"#;

#[test]
fn the_documented_file_is_understood() {
    let config = load(DOCUMENTED, &[]).unwrap();
    let own = &config.plan.origins[0];
    let stream = own.stream.as_ref().unwrap();
    assert_eq!((own.origin.as_str(), own.nvram_len), ("site-a", 512 << 20));
    assert_eq!((stream.destination.as_str(), stream.url.as_str()), ("site-b", "http://site-b:9002"));
    assert_eq!((stream.policy, stream.ack), (Policy::Strict, AckLevel::Received));
    assert_eq!((stream.link_timeout.as_millis(), stream.sync_interval.as_secs()), (1500, 60));
    assert_eq!(stream.backlog_limit, 1 << 30);
    let back = config.plan.origins[1].stream.as_ref().unwrap();
    assert_eq!((back.policy, back.ack, back.link_timeout.as_secs()), (Policy::Sync, AckLevel::Durable, 5));
    let domains: Vec<_> = config.s3.domains.iter().map(|(name, origin)| (name.as_str(), origin.as_str())).collect();
    assert_eq!(domains, [("s3.site-a.example", "site-a"), ("s3.site-b.example", "site-b")]);
    assert_eq!(config.nvram.persist, Persist::Memory);
    assert_eq!(config.on_change, ["/etc/lockstep/hook", "now"]);
    assert_eq!(config.mirror.unwrap().secret, "0123456789abcdef0123456789abcdef");
}

#[test]
fn with_no_file_a_node_is_local_and_alone() {
    let config = Config::load(None, &[]).unwrap();
    assert_eq!(config.data_dir, Path::new("./lockstep-data"));
    assert_eq!(config.s3.listen.to_string(), "127.0.0.1:9000");
    assert_eq!(config.admin_listen.to_string(), "127.0.0.1:9001");
    assert!(config.root.is_none() && config.mirror.is_none() && config.plan.origins[0].stream.is_none());
}

#[test]
fn the_root_key_comes_from_the_file_then_from_minio() {
    let minio = [("MINIO_ROOT_USER", "minioadmin"), ("MINIO_ROOT_PASSWORD", "minioadmin")];
    assert_eq!(load("", &minio).unwrap().root.unwrap().access_key, "minioadmin");
    assert_eq!(load(DOCUMENTED, &minio).unwrap().root.unwrap().access_key, "AKIAROOT");
    let files = "[root]\naccess_key_file = \"DIR/ak\"\nsecret_key_file = \"DIR/sk\"\n";
    let root = load(files, &[]).unwrap().root.unwrap();
    assert_eq!((root.access_key.as_str(), root.secret_key.as_str()), ("FILEKEY", "file-secret"));
}

#[test]
fn a_refusal_names_the_key() {
    let replaced = |from: &str, to: &str| DOCUMENTED.replacen(from, to, 1);
    for (text, expected) in [
        (replaced("node = \"site-a\"", "node = \"Site A\""), "node: 'Site A' is not a node name"),
        (replaced("0.0.0.0:9000", "everywhere"), "s3.listen: 'everywhere'"),
        (replaced("region =", "tls = { cert = \"c\", key = \"k\" }\nregion ="), "s3.tls: TLS is not yet supported"),
        (replaced("secret_file =", "tls = {}\nsecret_file ="), "mirror.tls: TLS is not yet supported"),
        (replaced("secret_key = \"very-secret\"", ""), "root.secret_key: is missing"),
        (replaced("very-secret", "short"), "root.secret_key: 8 to 256"),
        (replaced("AKIAALICE", "AKIAROOT"), "user.0.access_key: 'AKIAROOT' is used twice"),
        (replaced("512MiB", "1MiB"), "nvram.size: a partition of 1048576 bytes is too small"),
        (replaced("256MiB", "1MiB"), "mirror.source.0.nvram: a partition of 1048576 bytes is too small"),
        (replaced("512MiB", "16000000TiB"), "nvram.size: 16000000TiB is more than a region can have"),
        (replaced("512MiB", "1024TiB"), "nvram.size: all partitions together"),
        (replaced("512MiB", "plenty"), "'plenty' is not a size"),
        (replaced("node = \"site-b\"", "node = \"site-a\""), "mirror.destination.node: a node cannot be its own"),
        (replaced("http://site-b:9002/", "https://site-b:9002"), "mirror.destination.url: TLS is not yet supported"),
        (replaced("http://site-b:9002/", "site-b"), "mirror.destination.url: 'site-b' is not a URL"),
        (replaced("mirror.key", "nowhere"), "mirror.secret_file: cannot read"),
        (replaced("secret_file", "secrt_file"), "secrt_file"),
        (replaced("\"strict\"", "\"lax\""), "lax"),
        (
            replaced("S3.site-b.example", "s3.site-a.example"),
            "mirror.source.0.domains: 's3.site-a.example' is named twice",
        ),
    ] {
        let error = load(&text, &[]).unwrap_err();
        assert!(error.contains(expected), "expected '{expected}' in: {error}");
    }
}

/// Found by reading: two segments were counted here, and four are cut at the start.
#[test]
fn a_node_starts_with_the_sizes_that_are_taken_and_with_no_others() {
    let least = u64::from(SEGMENTS_DEFAULT) * segment_len_min(Limits::default().record_len_max);
    let two_segments = 2 * segment_len_min(Limits::default().record_len_max);
    for (size, good) in [(two_segments, false), (least - 1, false), (least, true), (least + 4097, true)] {
        for key in ["nvram.size", "mirror.source.0.nvram"] {
            let (from, other) = if key == "nvram.size" { ("512MiB", "256MiB") } else { ("256MiB", "512MiB") };
            let text = DOCUMENTED.replacen(from, &format!("{size}B"), 1).replacen(other, "24MiB", 1);
            let loaded = load(&text, &[]);
            assert_eq!(loaded.is_ok(), good, "{key} = {size}: {:?}", loaded.err());
            // As if it had been taken.
            let mut plan = load(DOCUMENTED, &[]).expect("the documented file").plan;
            plan.origins.iter_mut().for_each(|origin| origin.nvram_len = 24 << 20);
            plan.origins[usize::from(key != "nvram.size")].nvram_len = size;
            let mut nvram = SimNvram::new(region_len(&plan));
            let started = start(&mut nvram, &plan, 1, &mut InMemory, Now { mono_ms: 0, wall_ms: 0 });
            assert_eq!(started.is_ok(), good, "{key} = {size}: {:?}", started.err());
        }
    }
}

#[test]
fn the_effective_configuration_can_be_read_again_and_shows_no_secret() {
    let config = load(DOCUMENTED, &[("LOCKSTEP_S3_REGION", "eu-central-1")]).unwrap();
    let printed = effective::print(&config);
    assert!(!printed.contains("very-secret") && !printed.contains("alice-secret"), "{printed}");
    assert!(printed.contains("eu-central-1") && printed.contains("link_timeout = \"1500ms\""), "{printed}");
    let again = lockstep_gateway::config::File::read(&printed, &[]).unwrap();
    assert_eq!(again.mirror, config.file.mirror);
}

#[test]
fn the_memory_plan_adds_up() {
    let memory = load(DOCUMENTED, &[]).unwrap().memory;
    assert_eq!(memory.total(), memory.lines().iter().map(|(_, bytes)| bytes).sum::<u64>());
    assert!(memory.links > 0 && load("", &[]).unwrap().memory.links == 0);
}

/// The pair that a user copies: the second one mirrors the first, and answers for its names after a promote.
fn assert_pair(a: &str, b: &str) {
    let here =
        |text: &str| load(&text.replace("/etc/lockstep/", "DIR/"), &[]).unwrap_or_else(|e| panic!("{e}: {text}"));
    let (a, b) = (here(a), here(b));
    let stream = a.plan.origins[0].stream.as_ref().expect("A has a mirror");
    assert_eq!(stream.destination, b.plan.node);
    assert_eq!(b.plan.origins[1].origin, a.plan.node);
    assert!(stream.url.ends_with(&format!(":{}", b.mirror.expect("B listens").listen.port())));
    assert!(!a.s3.domains.is_empty() && a.s3.domains.iter().all(|domain| b.s3.domains.contains(domain)));
}

#[test]
fn the_two_sites_of_the_readme_fit_each_other() {
    let readme = include_str!("../../README.md");
    let blocks: Vec<&str> =
        readme.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default()).collect();
    let [a, b, hook] = blocks[..] else { panic!("{} configurations in README.md, not 3", blocks.len()) };
    assert!(!load(&format!("node = \"site-b\"\n{hook}"), &[]).expect("a hook").on_change.is_empty());
    assert_pair(a, b);
}

#[test]
fn the_two_sites_of_the_docker_demo_fit_each_other() {
    assert_pair(include_str!("../../scripts/compose/site-a.toml"), include_str!("../../scripts/compose/site-b.toml"));
}
