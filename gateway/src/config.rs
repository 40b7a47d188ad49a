//! What a node is told: a TOML file, the environment over it, defaults below it; validated once, at the start.
//!
//! [`Config`] is what `serve` works with: everything in it has been checked and every default is filled in. An error
//! names the key that is wrong. Nothing is read again later, and nothing outside this module looks at the environment.

pub mod effective;
pub mod file;
pub mod memory;
pub mod units;
mod validate;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use lockstep_mirror::plan::NodePlan;
use lockstep_storage::id::Origin;

pub use file::{File, Persist};
pub use memory::MemoryPlan;

/// What is wrong with the configuration: one sentence that names the key or the line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// An access key and its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyPair {
    /// Access key id.
    pub access_key: String,
    /// Secret.
    pub secret_key: String,
}

impl std::fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyPair({})", self.access_key)
    }
}

/// The S3 listener.
#[derive(Debug, Clone)]
pub struct S3Config {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Region that signatures must name.
    pub region: String,
    /// Virtual-hosted-style names, lower case, each with its origin.
    pub domains: Vec<(String, Origin)>,
}

/// A user made on first start, with a key.
#[derive(Debug, Clone)]
pub struct UserConfig {
    /// Name.
    pub name: String,
    /// Canonical id; empty for the name itself.
    pub id: String,
    /// Name for people; empty for the name itself.
    pub display_name: String,
    /// Mail address, empty for none.
    pub email: String,
    /// The key.
    pub key: KeyPair,
}

/// The log device.
#[derive(Debug, Clone)]
pub struct NvramConfig {
    /// A file or a device.
    pub path: PathBuf,
    /// What it survives.
    pub persist: Persist,
}

/// How peers reach this node, and how they prove who they are.
#[derive(Clone)]
pub struct MirrorConfig {
    /// Where this node listens for them.
    pub listen: SocketAddr,
    /// What both nodes know and nobody else.
    pub secret: String,
}

impl std::fmt::Debug for MirrorConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MirrorConfig({})", self.listen)
    }
}

/// Everything that a node is told, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where everything lies.
    pub data_dir: PathBuf,
    /// The S3 listener.
    pub s3: S3Config,
    /// The admin listener.
    pub admin_listen: SocketAddr,
    /// The root key; none where it is made on first start.
    pub root: Option<KeyPair>,
    /// Users made on first start.
    pub users: Vec<UserConfig>,
    /// The log device.
    pub nvram: NvramConfig,
    /// What memory is used for.
    pub memory: MemoryPlan,
    /// The listener for peers, where there are any.
    pub mirror: Option<MirrorConfig>,
    /// Origins, streams, policies and sizes.
    pub plan: NodePlan,
    /// A program and its arguments, run at every role change; empty for none.
    pub on_change: Vec<String>,
    /// The same as it would be written in a file, with every default.
    pub file: File,
}

impl Config {
    /// Reads a file (none: defaults alone), lays the environment over it, fills defaults in and validates.
    ///
    /// # Errors
    /// With one sentence that names the file and the key.
    pub fn load(path: Option<&Path>, environment: &[(String, String)]) -> Result<Self, ConfigError> {
        let named = |error: ConfigError| match path {
            Some(path) => ConfigError(format!("{}: {error}", path.display())),
            None => error,
        };
        let text = match path {
            Some(path) => read_file("configuration", path)?,
            None => String::new(),
        };
        let file = File::read(&text, environment).map_err(named)?;
        let minio = validate::minio_root(environment)?;
        validate::validate(file, minio).map_err(named)
    }
}

/// Reads a small text file and says which key wanted it when it cannot.
fn read_file(key: &str, path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path)
        .map_err(|error| ConfigError(format!("{key}: cannot read {}: {error}", path.display())))
}
