//! The commands that are one request to a node, and how their answers print.
//!
//! Answers go to stdout: a sentence and figures for people, the node's JSON with `--json`.

use std::fmt::Write;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::client::{AdminClient, read_token};
use super::{Command, Target};
use crate::admin::keys::{KeyView, UserView};
use crate::admin::status::NodeView;
use crate::admin::verbs::{FailbackBody, PauseBody, PromoteBody, ReportView, ResumeBody, SyncBody};
use crate::admin::verify::VerifyBody;

/// `lockstep user ...`
#[derive(Debug, Clone, Subcommand)]
pub enum UserCommand {
    /// Make a user
    Add {
        /// Name
        name: String,
        /// Canonical id shown as owner; the name without it
        #[arg(long, default_value = "")]
        id: String,
        /// Name for people
        #[arg(long, default_value = "")]
        display_name: String,
        /// Mail address
        #[arg(long, default_value = "")]
        email: String,
        /// Where
        #[command(flatten)]
        common: Common,
    },
    /// Show all users
    List {
        /// Where
        #[command(flatten)]
        common: Common,
    },
    /// Remove a user and the user's keys
    Remove {
        /// Name
        name: String,
        /// Where
        #[command(flatten)]
        common: Common,
    },
}

/// `lockstep key ...`
#[derive(Debug, Clone, Subcommand)]
pub enum KeyCommand {
    /// Make an access key for a user and print it; its secret is shown only now
    Add {
        /// The user that it speaks for
        user: String,
        /// Access key id; made where it is missing
        #[arg(long)]
        access_key: Option<String>,
        /// Secret; made where it is missing
        #[arg(long, env = "LOCKSTEP_NEW_SECRET_KEY", hide_env_values = true)]
        secret_key: Option<String>,
        /// Where
        #[command(flatten)]
        common: Common,
    },
    /// Show all keys, without their secrets
    List {
        /// Where
        #[command(flatten)]
        common: Common,
    },
    /// Remove a key
    Remove {
        /// Access key id
        access_key: String,
        /// Where
        #[command(flatten)]
        common: Common,
    },
}

/// What all of these take.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Whose users and keys [default: the node's own]
    #[arg(long, value_name = "ORIGIN")]
    pub origin: Option<String>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

impl Common {
    /// A query with the origin and further parameters.
    fn query(&self, path: &str, parameters: &[(&str, &str)]) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(parameters);
        if let Some(origin) = &self.origin {
            query.append_pair("origin", origin);
        }
        let query = query.finish();
        if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
    }
}

/// Makes the request of a command and prints the answer.
///
/// # Errors
/// With one sentence.
pub(super) fn run(command: Command, target: &Target) -> Result<(), String> {
    let client = AdminClient::new(target)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start: {error}"))?;
    let text = runtime.block_on(answer(command, &client))?;
    print!("{text}");
    Ok(())
}

/// What a command prints.
async fn answer(command: Command, client: &AdminClient) -> Result<String, String> {
    match command {
        Command::Status { json } => {
            let value = client.call(Method::GET, "/v1/status", None).await?;
            if json { Ok(pretty(&value)) } else { Ok(parsed::<NodeView>(value)?.text()) }
        }
        Command::Sync { origin, json } => report(client, "/v1/sync", json!(SyncBody { origin }), json).await,
        Command::Promote { origin, dry_run, accept_loss, json } => {
            let body = json!(PromoteBody { origin, dry_run, accept_loss });
            report(client, "/v1/promote", body, json).await
        }
        Command::Failback { origin, dry_run, json } => {
            report(client, "/v1/failback", json!(FailbackBody { origin, dry_run }), json).await
        }
        Command::Pause { origin } => report(client, "/v1/pause", json!(PauseBody { origin }), false).await,
        Command::Resume { origin, alone } => {
            report(client, "/v1/resume", json!(ResumeBody { origin, alone }), false).await
        }
        Command::Verify { origin, deep, no_repair, with, with_token_file, json } => {
            let other = match with.zip(with_token_file) {
                Some((admin, file)) => Some(AdminClient::with_token(&admin, read_token(&file)?)?),
                None => None,
            };
            super::verify::run(client, other.as_ref(), &VerifyBody { origin, deep, repair: deep && !no_repair }, json)
                .await
        }
        Command::Rebuild(args) => super::rebuild::run(&args, client).await,
        Command::Record(args) => super::record::run(&args, client).await,
        Command::Tail(command) => super::tail::run(command, client).await,
        Command::User(command) => users(command, client).await,
        Command::Key(command) => keys(command, client).await,
        other => Err(format!("{other:?} is not a request to a node")),
    }
}

async fn report(client: &AdminClient, path: &str, body: Value, json: bool) -> Result<String, String> {
    let value = client.call(Method::POST, path, Some(body)).await?;
    if json {
        return Ok(pretty(&value));
    }
    let report: ReportView = parsed(value)?;
    let mut text = format!("{}\n", report.text.trim_end());
    if let Some(verdict) = report.verdict {
        let _infallible = writeln!(text, "verdict: {verdict}");
    }
    if let (Some(epoch), Some(seq)) = (report.epoch, report.seq) {
        let _infallible = writeln!(text, "epoch {epoch}, seq {seq}");
    }
    Ok(text)
}

async fn users(command: UserCommand, client: &AdminClient) -> Result<String, String> {
    match command {
        UserCommand::Add { name, id, display_name, email, common } => {
            let body = UserView { name, id, display_name, email, origin: common.origin.clone() };
            let value = client.call(Method::POST, "/v1/users", Some(json!(body))).await?;
            Ok(if common.json { pretty(&value) } else { format!("user {} is made\n", body.name) })
        }
        UserCommand::List { common } => {
            let value = client.call(Method::GET, &common.query("/v1/users", &[]), None).await?;
            if common.json {
                return Ok(pretty(&value));
            }
            let users: Vec<UserView> = parsed(value)?;
            let row = |user: &UserView| format!("{}\t{}\t{}", user.name, user.display_name, user.email);
            Ok(lines(users.iter().map(row)))
        }
        UserCommand::Remove { name, common } => {
            let value = client.call(Method::DELETE, &common.query("/v1/users", &[("name", &name)]), None).await?;
            Ok(if common.json { pretty(&value) } else { format!("user {name} and the user's keys are removed\n") })
        }
    }
}

async fn keys(command: KeyCommand, client: &AdminClient) -> Result<String, String> {
    match command {
        KeyCommand::Add { user, access_key, secret_key, common } => {
            let body = KeyView { user, access_key, secret_key, root: false, origin: common.origin.clone() };
            let value = client.call(Method::POST, "/v1/keys", Some(json!(body))).await?;
            if common.json {
                return Ok(pretty(&value));
            }
            let key: KeyView = parsed(value)?;
            let shown = |part: Option<String>| part.unwrap_or_default();
            Ok(format!("access_key {}\nsecret_key {}\n", shown(key.access_key), shown(key.secret_key)))
        }
        KeyCommand::List { common } => {
            let value = client.call(Method::GET, &common.query("/v1/keys", &[]), None).await?;
            if common.json {
                return Ok(pretty(&value));
            }
            let keys: Vec<KeyView> = parsed(value)?;
            let row = |key: &KeyView| format!("{}\t{}", key.access_key.as_deref().unwrap_or_default(), key.user);
            Ok(lines(keys.iter().map(row)))
        }
        KeyCommand::Remove { access_key, common } => {
            let path = common.query("/v1/keys", &[("access_key", &access_key)]);
            let value = client.call(Method::DELETE, &path, None).await?;
            Ok(if common.json { pretty(&value) } else { format!("key {access_key} is removed\n") })
        }
    }
}

pub(super) fn parsed<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_json::from_value(value).map_err(|error| format!("the node's answer is not understood: {error}"))
}

/// Each with an end of line.
fn lines(rows: impl Iterator<Item = String>) -> String {
    rows.flat_map(|row| [row, "\n".to_owned()]).collect()
}

pub(super) fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
