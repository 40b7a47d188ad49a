//! The command line: what each command is called, what it takes, and where it goes.
//!
//! `serve`, `demo` and `check-config` run here; all others are one request to a node's admin address. Exit codes: 0 done,
//! 1 refused or failed with one sentence on stderr, 2 wrong usage.
//!
//! # Layout
//! - [`client`]: the request to the admin address.
//! - [`verbs`]: the commands that make one, and how their answers print; [`rebuild`]: one that waits and shows progress;
//!   [`record`]: one record of a container.
//! - [`tail`]: the commands on tails, and how an export is written; `verify`: two images compared, and what differs named.

pub mod client;
pub mod rebuild;
pub mod record;
pub mod tail;
pub mod verbs;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, effective, file};

/// An S3 gateway whose every write lives at two sites before the client is told so.
#[derive(Debug, Parser)]
#[command(name = "lockstep", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Where the node is.
    #[command(flatten)]
    pub target: Target,
}

/// Which node the verbs talk to.
#[derive(Debug, Clone, Args)]
pub struct Target {
    /// Admin address of the node
    #[arg(long, global = true, env = "LOCKSTEP_ADMIN", default_value = "http://127.0.0.1:9001", value_name = "URL")]
    pub admin: String,
    /// File with the admin token [default: admin.token in `LOCKSTEP_DATA_DIR`, ./lockstep-data or /var/lib/lockstep];
    /// the token itself may be in `LOCKSTEP_ADMIN_TOKEN`
    #[arg(long, global = true, env = "LOCKSTEP_ADMIN_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a node
    Serve {
        /// Configuration; without one: data in ./lockstep-data, S3 on 127.0.0.1:9000, admin on 127.0.0.1:9001, no mirror
        #[arg(long, env = "LOCKSTEP_CONFIG", value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Two sites on this machine: writes, a killed source, promote, every object read back
    Demo(crate::demo::DemoArgs),
    /// Role, stream state, lag and NVRAM use of every origin
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a consistency point now and print its seq
    Sync {
        /// Which origin [default: the node's own]
        origin: Option<String>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Failover, on the destination: take the origin
    Promote {
        /// Whose writes this node takes from now on
        origin: String,
        /// Only say what would happen, how long it takes and what blocks it
        #[arg(long)]
        dry_run: bool,
        /// Even where writes are known to be missing, or may be
        #[arg(long)]
        accept_loss: bool,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Planned return, on the source: give the origin to its destination, which has everything
    Failback {
        /// Which origin
        origin: String,
        /// Only say what would happen
        #[arg(long)]
        dry_run: bool,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Stop an origin's stream on purpose
    Pause {
        /// Which origin
        origin: String,
    },
    /// Restart a paused stream, or take writes alone
    Resume {
        /// Which origin
        origin: String,
        /// After a restart with the peer out of reach: take writes without knowing what became of it
        #[arg(long)]
        alone: bool,
    },
    /// Fill this node's part of an origin, whose log or data is gone here, from its peer
    Rebuild(rebuild::RebuildArgs),
    /// Digest an origin's image here, or compare it with another node's and name what differs
    Verify {
        /// Which origin
        origin: String,
        /// Read and verify every body too, and repair damaged ones from the peer
        #[arg(long)]
        deep: bool,
        /// Leave damaged bodies as they are
        #[arg(long, requires = "deep")]
        no_repair: bool,
        /// Admin address of the node to compare with
        #[arg(long, value_name = "URL", requires = "with_token_file")]
        with: Option<String>,
        /// File with its admin token
        #[arg(long, value_name = "FILE", requires = "with")]
        with_token_file: Option<PathBuf>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a record of an origin's container and what is wrong with it
    Record(record::RecordArgs),
    /// What a deposed source had that its peer never got
    #[command(subcommand)]
    Tail(tail::TailCommand),
    /// Users of an origin
    #[command(subcommand)]
    User(verbs::UserCommand),
    /// Access keys of an origin
    #[command(subcommand)]
    Key(verbs::KeyCommand),
    /// Load an S3 endpoint and measure it (not in this version)
    Bench {
        /// The endpoint
        #[arg(long, value_name = "URL")]
        endpoint: Option<String>,
        /// Another one, measured in turn
        #[arg(long, value_name = "URL")]
        compare: Option<String>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Validate a configuration, print it as a node understands it, and the memory plan
    CheckConfig {
        /// The configuration
        file: PathBuf,
    },
}

/// Parses the command line, does what it says and returns the exit code.
#[must_use]
pub fn run() -> ExitCode {
    // The parser itself ends with 2 on wrong usage.
    let cli = Cli::parse();
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lockstep: {error}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(cli: Cli) -> Result<(), String> {
    match cli.command {
        Command::Serve { config } => {
            let environment = environment();
            let config = Config::load(config.as_deref(), &environment).map_err(|error| error.to_string())?;
            crate::serve::run(config, &file::unknown_variables(&environment))
        }
        Command::Demo(args) => crate::demo::run(&args),
        Command::CheckConfig { file } => {
            let config = Config::load(Some(&file), &environment()).map_err(|error| error.to_string())?;
            print!("{}\n# memory plan\n", effective::print(&config));
            effective::memory_table(&config).lines().for_each(|line| println!("#{line}"));
            Ok(())
        }
        Command::Bench { .. } => missing("bench"),
        verb => verbs::run(verb, &cli.target),
    }
}

fn missing(verb: &str) -> Result<(), String> {
    Err(format!("this version does not have {verb} yet"))
}

/// The variables that may matter; what is not text is none of ours.
fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn documented_commands_parse() {
        for line in [
            "serve",
            "serve --config x.toml",
            "demo --keep",
            "status --json --admin http://h:1",
            "sync",
            "promote site-a --dry-run --accept-loss",
            "failback site-a --dry-run",
            "pause site-a",
            "resume site-a --alone",
            "rebuild --from http://h:1 --from-token-file x",
            "rebuild site-a --from http://h:1 --from-token-file x --accept-loss --no-wait",
            "verify site-a --deep",
            "verify site-a --deep --no-repair",
            "verify site-a --with http://h:1 --with-token-file x --json",
            "record site-a 17",
            "record site-a 17 --json",
            "tail list",
            "tail list site-a --json",
            "tail export site-a",
            "tail export site-a --epoch 1-4796d49f --to dir --json",
            "tail discard site-a --epoch 1-4796d49f",
            "tail discard site-a --yes",
            "user add alice --display-name Alice",
            "key add alice",
            "key list --origin site-a --json",
            "key remove AKIA",
            "bench --endpoint http://h:1 --json",
            "check-config x.toml",
        ] {
            let words = std::iter::once("lockstep").chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_ok(), "{line}");
        }
        for line in [
            "",
            "promote",
            "resume",
            "tail burn site-a",
            "tail export",
            "tail discard",
            "verify site-a --with http://h:1",
            "verify site-a --no-repair",
            "record site-a",
            "record site-a x",
            "status --xml",
            "serve x.toml",
        ] {
            let words = std::iter::once("lockstep").chain(line.split_whitespace());
            assert!(Cli::try_parse_from(words).is_err(), "{line}");
        }
    }
}
