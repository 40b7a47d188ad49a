//! The configuration as it is written: TOML tables as serde structs, unknown keys refused, every key with an environment
//! variable that overrides it.
//!
//! Nothing is decided here: every key may be missing. `super` fills defaults in and validates. The variable of a key is
//! `LOCKSTEP_` and its path in upper case, `_` for `.`; entries of lists of tables are numbered from 0.

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::ConfigError;
use super::units::{Size, Span};

/// The whole file.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    /// The node's name, and the origin name of its clients' writes.
    pub node: Option<String>,
    /// Where everything lies.
    pub data_dir: Option<String>,
    /// The S3 listener.
    pub s3: S3,
    /// The root key.
    pub root: Root,
    /// Keys made on first start.
    #[serde(rename = "user")]
    pub users: Vec<User>,
    /// The admin listener.
    pub admin: Admin,
    /// The log device.
    pub nvram: Nvram,
    /// What memory is used for.
    pub memory: Memory,
    /// The other site.
    pub mirror: Mirror,
    /// What happens at a role change.
    pub failover: Failover,
}

macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $kind:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name { $($(#[$field_doc])* pub $field: $kind,)* }
    )*};
}

tables! {
    /// `[s3]`
    S3 {
        /// Address and port.
        listen: Option<String>,
        /// Region in signatures.
        region: Option<String>,
        /// Virtual-hosted-style names of this node's own origin.
        domains: Vec<String>,
        /// Not yet supported.
        tls: Option<Table>,
    }

    /// `[root]`
    Root {
        /// Access key.
        access_key: Option<String>,
        /// Secret key.
        secret_key: Option<String>,
        /// File with the access key.
        access_key_file: Option<String>,
        /// File with the secret key.
        secret_key_file: Option<String>,
    }

    /// `[[user]]`
    User {
        /// Name.
        name: Option<String>,
        /// Canonical id.
        id: Option<String>,
        /// Name for people.
        display_name: Option<String>,
        /// Mail address.
        email: Option<String>,
        /// Access key.
        access_key: Option<String>,
        /// Secret key.
        secret_key: Option<String>,
    }

    /// `[admin]`
    Admin {
        /// Address and port.
        listen: Option<String>,
    }

    /// `[nvram]`
    Nvram {
        /// A file or device.
        path: Option<String>,
        /// This node's own partition.
        size: Option<Size>,
        /// `device` or `memory`.
        persist: Option<Persist>,
    }

    /// `[memory]`
    Memory {
        /// Blocks of the storage engines, decoded, shared by all origins.
        block_cache: Option<Size>,
        /// Memtables of the storage engines, shared by all origins.
        memtables: Option<Size>,
        /// Request bodies on their way to the log.
        bodies: Option<Size>,
    }

    /// `[mirror]`
    Mirror {
        /// Address and port for peers.
        listen: Option<String>,
        /// File with the secret that both nodes have.
        secret_file: Option<String>,
        /// Not yet supported.
        tls: Option<Table>,
        /// Where this node's own writes go.
        destination: Option<Destination>,
        /// Whom this node mirrors.
        #[serde(rename = "source")]
        sources: Vec<Source>,
    }

    /// `[mirror.destination]`
    Destination {
        /// The other node.
        node: Option<String>,
        /// Its mirror listener.
        url: Option<String>,
        /// What happens when it is out of reach.
        policy: Option<Policy>,
        /// What it must have done before a write is answered.
        ack: Option<Ack>,
        /// How long it may take.
        link_timeout: Option<Span>,
        /// Time between consistency points.
        sync_interval: Option<Span>,
        /// Most bytes that may wait for it while it is away.
        backlog_limit: Option<Size>,
        /// Most bytes of a baseline that are sent to it in a second.
        baseline_rate: Option<Size>,
    }

    /// `[[mirror.source]]`
    Source {
        /// The node that is mirrored.
        node: Option<String>,
        /// Its guaranteed partition.
        nvram: Option<Size>,
        /// Names to answer for after promote.
        domains: Vec<String>,
        /// Its mirror listener, for the way back.
        url: Option<String>,
        /// As in `[mirror.destination]`, for the way back.
        policy: Option<Policy>,
        /// As in `[mirror.destination]`, for the way back.
        ack: Option<Ack>,
        /// As in `[mirror.destination]`, for the way back.
        link_timeout: Option<Span>,
        /// As in `[mirror.destination]`, for the way back.
        sync_interval: Option<Span>,
        /// As in `[mirror.destination]`, for the way back.
        backlog_limit: Option<Size>,
        /// As in `[mirror.destination]`, for the way back.
        baseline_rate: Option<Size>,
    }

    /// `[failover]`
    Failover {
        /// A program and its arguments, run at every role change.
        on_change: Vec<String>,
    }
}

macro_rules! words {
    ($($(#[$doc:meta])* $name:ident { $($(#[$word_doc:meta])* $word:ident,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name { $($(#[$word_doc])* $word,)* }
    )*};
}

words! {
    /// What NVRAM survives.
    Persist {
        /// Power loss: one device flush a batch.
        Device,
        /// The end of the process only: battery-backed memory, tmpfs.
        Memory,
    }

    /// What happens to writes while the mirror is out of reach.
    Policy {
        /// They are refused.
        Strict,
        /// After `link_timeout` they are answered alone, and say so.
        Sync,
        /// They never wait.
        Async,
    }

    /// What the mirror must have done with a write before it is answered.
    Ack {
        /// It is in its memory.
        Received,
        /// It is in its NVRAM.
        Durable,
        /// Its readers see it.
        Applied,
    }
}

/// Is the value a text or a list of texts?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Text,
    List,
}

/// Every key that has an environment variable; `#` stands for the number of an entry.
const KEYS: &[(&str, Kind)] = &[
    ("node", Kind::Text),
    ("data_dir", Kind::Text),
    ("s3.listen", Kind::Text),
    ("s3.region", Kind::Text),
    ("s3.domains", Kind::List),
    ("root.access_key", Kind::Text),
    ("root.secret_key", Kind::Text),
    ("root.access_key_file", Kind::Text),
    ("root.secret_key_file", Kind::Text),
    ("user.#.name", Kind::Text),
    ("user.#.id", Kind::Text),
    ("user.#.display_name", Kind::Text),
    ("user.#.email", Kind::Text),
    ("user.#.access_key", Kind::Text),
    ("user.#.secret_key", Kind::Text),
    ("admin.listen", Kind::Text),
    ("nvram.path", Kind::Text),
    ("nvram.size", Kind::Text),
    ("nvram.persist", Kind::Text),
    ("memory.block_cache", Kind::Text),
    ("memory.memtables", Kind::Text),
    ("memory.bodies", Kind::Text),
    ("mirror.listen", Kind::Text),
    ("mirror.secret_file", Kind::Text),
    ("mirror.destination.node", Kind::Text),
    ("mirror.destination.url", Kind::Text),
    ("mirror.destination.policy", Kind::Text),
    ("mirror.destination.ack", Kind::Text),
    ("mirror.destination.link_timeout", Kind::Text),
    ("mirror.destination.sync_interval", Kind::Text),
    ("mirror.destination.backlog_limit", Kind::Text),
    ("mirror.destination.baseline_rate", Kind::Text),
    ("mirror.source.#.node", Kind::Text),
    ("mirror.source.#.nvram", Kind::Text),
    ("mirror.source.#.domains", Kind::List),
    ("mirror.source.#.url", Kind::Text),
    ("mirror.source.#.policy", Kind::Text),
    ("mirror.source.#.ack", Kind::Text),
    ("mirror.source.#.link_timeout", Kind::Text),
    ("mirror.source.#.sync_interval", Kind::Text),
    ("mirror.source.#.backlog_limit", Kind::Text),
    ("mirror.source.#.baseline_rate", Kind::Text),
    ("failover.on_change", Kind::List),
];

/// Most entries of a list of tables.
pub(super) const ENTRIES_MAX: usize = 1024;

impl File {
    /// Reads the text of a file, then lays the environment over it.
    ///
    /// # Errors
    /// With the line, or the variable, that is wrong.
    pub fn read(text: &str, environment: &[(String, String)]) -> Result<Self, ConfigError> {
        let mut file: Self =
            toml::from_str(text).map_err(|error| ConfigError(error.to_string().trim_end().to_owned()))?;
        let mut table: Table = toml::from_str(text).map_err(|error| ConfigError(error.to_string()))?;
        // Entry 2 before entry 10: the order of numbers, not of texts.
        let mut environment: Vec<&(String, String)> = environment.iter().collect();
        environment.sort_by_key(|(variable, _)| (variable.len(), variable.as_str()));
        for (variable, value) in environment {
            let Some((path, kind)) = path_of(variable) else { continue };
            let bad = |reason: String| ConfigError(format!("{variable}: {reason}"));
            let value = match kind {
                Kind::Text => Value::String(value.clone()),
                Kind::List => {
                    Value::Array(value.split(',').map(|part| Value::String(part.trim().to_owned())).collect())
                }
            };
            set(&mut table, &path, value).map_err(bad)?;
            // After each variable, so that the error can name the one that is wrong.
            file = table.clone().try_into().map_err(|error: toml::de::Error| bad(error.message().to_owned()))?;
        }
        Ok(file)
    }
}

/// Variables of the environment that look like keys and are none, to warn about.
#[must_use]
pub fn unknown_variables(environment: &[(String, String)]) -> Vec<&str> {
    let known = |name: &str| OTHER_VARIABLES.contains(&name) || path_of(name).is_some();
    environment
        .iter()
        .map(|(name, _)| name.as_str())
        .filter(|name| name.starts_with("LOCKSTEP_") && !known(name))
        .collect()
}

/// Variables that are no keys of the configuration.
const OTHER_VARIABLES: [&str; 6] = [
    "LOCKSTEP_ADMIN",
    "LOCKSTEP_ADMIN_TOKEN",
    "LOCKSTEP_ADMIN_TOKEN_FILE",
    "LOCKSTEP_CONFIG",
    "LOCKSTEP_LOG",
    "LOCKSTEP_LOG_FORMAT",
];

/// The path of the key that a variable overrides, numbers filled in.
fn path_of(variable: &str) -> Option<(Vec<String>, Kind)> {
    let name = variable.strip_prefix("LOCKSTEP_")?;
    KEYS.iter().find_map(|(key, kind)| {
        let upper = key.to_ascii_uppercase().replace('.', "_");
        let number = match upper.split_once('#') {
            None => return (upper == name).then(|| (key.split('.').map(str::to_owned).collect(), *kind)),
            Some((before, after)) => name.strip_prefix(before)?.strip_suffix(after)?,
        };
        let canonical = number.parse::<usize>().ok().is_some_and(|n| n.to_string() == number);
        canonical.then(|| (key.replace('#', number).split('.').map(str::to_owned).collect(), *kind))
    })
}

/// Sets a value in nested tables; a number in the path is an entry of a list of tables, at most one behind the last.
fn set(table: &mut Table, path: &[String], value: Value) -> Result<(), String> {
    let (first, rest) = path.split_first().ok_or("empty path")?;
    let Some(next) = rest.first() else {
        table.insert(first.clone(), value);
        return Ok(());
    };
    if let Ok(number) = next.parse::<usize>() {
        let list = table.entry(first.clone()).or_insert_with(|| Value::Array(Vec::new()));
        let list = list.as_array_mut().ok_or_else(|| format!("{first} is not a list"))?;
        if number > list.len() || number >= ENTRIES_MAX {
            return Err(format!("there is no entry {number} of {first}: they are numbered from 0, without holes"));
        }
        if number == list.len() {
            list.push(Value::Table(Table::new()));
        }
        let entry = list[number].as_table_mut().ok_or_else(|| format!("{first} is not a list of tables"))?;
        return set(entry, &rest[1..], value);
    }
    let inner = table.entry(first.clone()).or_insert_with(|| Value::Table(Table::new()));
    set(inner.as_table_mut().ok_or_else(|| format!("{first} is not a table"))?, rest, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn every_key_has_a_variable() {
        let mut full = File::read("", &[]).unwrap();
        full.users = vec![User::default()];
        full.mirror.sources = vec![Source::default()];
        let every: Vec<(String, String)> =
            KEYS.iter()
                .map(|(key, _)| {
                    let name = format!("LOCKSTEP_{}", key.replace('#', "0").replace('.', "_").to_ascii_uppercase());
                    let value = match key.rsplit('.').next().unwrap() {
                        "size" | "nvram" | "block_cache" | "memtables" | "bodies" | "backlog_limit"
                        | "baseline_rate" => "1MiB",
                        "link_timeout" | "sync_interval" => "1s",
                        "persist" => "memory",
                        "policy" => "strict",
                        "ack" => "applied",
                        _ => "x",
                    };
                    (name, value.to_owned())
                })
                .collect();
        let file = File::read("", &every).unwrap();
        // A field without a variable would have stayed empty.
        let printed = format!("{file:?}").replace("tls: None", "");
        assert!(!printed.contains("None") && !printed.contains("[]"), "{printed}");
    }

    #[test]
    fn the_environment_overrides_the_file() {
        let text = "[s3]\nlisten = \"1.2.3.4:5\"\n[[mirror.source]]\nnode = \"site-a\"\n";
        let file = File::read(
            text,
            &environment(&[
                ("LOCKSTEP_S3_LISTEN", "0.0.0.0:9"),
                ("LOCKSTEP_S3_DOMAINS", "a.example, b.example"),
                ("LOCKSTEP_MIRROR_SOURCE_0_NVRAM", "1GiB"),
                ("LOCKSTEP_USER_0_NAME", "alice"),
                ("UNRELATED", "x"),
            ]),
        )
        .unwrap();
        assert_eq!(file.s3.listen.as_deref(), Some("0.0.0.0:9"));
        assert_eq!(file.s3.domains, ["a.example", "b.example"]);
        assert_eq!(file.mirror.sources[0].node.as_deref(), Some("site-a"));
        assert_eq!(file.mirror.sources[0].nvram, Some(Size(1 << 30)));
        assert_eq!(file.users[0].name.as_deref(), Some("alice"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, variables, expected) in [
            ("[s3]\nlisen = \"x\"\n", &[][..], "lisen"),
            ("[nvram]\nsize = \"many\"\n", &[], "many"),
            ("", &[("LOCKSTEP_NVRAM_SIZE", "many")], "LOCKSTEP_NVRAM_SIZE"),
            ("", &[("LOCKSTEP_MIRROR_DESTINATION_POLICY", "sometimes")], "LOCKSTEP_MIRROR_DESTINATION_POLICY"),
            ("", &[("LOCKSTEP_USER_7_NAME", "x")], "LOCKSTEP_USER_7_NAME"),
        ] {
            let error = File::read(text, &environment(variables)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let given = environment(&[("LOCKSTEP_S3_LISTN", "x"), ("LOCKSTEP_LOG", "debug"), ("LOCKSTEP_NODE", "x")]);
        assert_eq!(unknown_variables(&given), ["LOCKSTEP_S3_LISTN"]);
    }
}
