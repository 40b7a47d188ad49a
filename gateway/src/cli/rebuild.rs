//! `lockstep rebuild`: fills this node's part of an origin from its peer, and shows how far that is.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use http::Method;
use serde_json::json;

use super::client::{AdminClient, read_token};
use super::verbs::parsed;
use crate::admin::status::{NodeView, OriginView};
use crate::admin::verbs::{RebuildBody, ReportView};

/// Time between two looks at how far it is.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Longest time that nothing may move.
const PATIENCE: Duration = Duration::from_mins(2);

/// `lockstep rebuild ...`
#[derive(Debug, Clone, Args)]
pub struct RebuildArgs {
    /// Which origin [default: the one whose log or data is gone here]
    pub origin: Option<String>,
    /// Admin address of the peer, which is its source now
    #[arg(long, value_name = "URL")]
    pub from: String,
    /// File with the peer's admin token
    #[arg(long, value_name = "FILE", env = "LOCKSTEP_FROM_TOKEN_FILE")]
    pub from_token_file: PathBuf,
    /// Even where records of it are here: they are set aside as a tail
    #[arg(long)]
    pub accept_loss: bool,
    /// Come back when it is ordered, not when it is done
    #[arg(long)]
    pub no_wait: bool,
}

/// Orders it and waits.
///
/// # Errors
/// With one sentence: when there is nothing to rebuild, the peer is not the source, or it does not come to its end.
pub(super) async fn run(args: &RebuildArgs, client: &AdminClient) -> Result<String, String> {
    let peer = AdminClient::with_token(&args.from, read_token(&args.from_token_file)?)?;
    let there = status(&peer).await?;
    let here = status(client).await?;
    let origin = match &args.origin {
        Some(origin) => origin.clone(),
        None => lost(&here)?,
    };
    let find = |node: &NodeView| node.origins.iter().find(|known| known.origin == origin).cloned();
    let source = find(&there).ok_or_else(|| format!("{} has no origin {origin}", there.node))?;
    if source.role != "source" {
        let (node, role) = (&there.node, &source.role);
        return Err(format!(
            "{node} is the {role} of {origin}, not its source: 'lockstep promote {origin}' there makes it that"
        ));
    }
    let body = json!(RebuildBody { origin: origin.clone(), accept_loss: args.accept_loss });
    let report: ReportView = parsed(client.call(Method::POST, "/v1/rebuild", Some(body)).await?)?;
    if args.no_wait {
        return Ok(format!("{}\n", report.text));
    }
    eprintln!("{}", report.text);
    until_it_is_there(&origin, client).await?;
    Ok(format!("{origin} is rebuilt from {}\n", there.node))
}

/// The one origin here that cannot be used.
fn lost(here: &NodeView) -> Result<String, String> {
    let mut lost = here.origins.iter().filter(|origin| origin.state == "lost");
    match (lost.next(), lost.next()) {
        (Some(only), None) => Ok(only.origin.clone()),
        (None, _) => Err(format!("nothing of {} is lost: name the origin that is to be rebuilt", here.node)),
        _ => Err("more than one origin is lost here: name the one that is to be rebuilt".into()),
    }
}

async fn status(client: &AdminClient) -> Result<NodeView, String> {
    parsed(client.call(Method::GET, "/v1/status", None).await?)
}

/// Shows progress until the new image is in place.
async fn until_it_is_there(origin: &str, client: &AdminClient) -> Result<(), String> {
    let (mut seen, mut moved) = (String::new(), Instant::now());
    loop {
        let node = status(client).await?;
        let now = node.origins.into_iter().find(|known| known.origin == origin);
        let now = now.ok_or_else(|| format!("this node has no origin {origin}"))?;
        if !now.rebuilding && ["in_sync", "catching_up"].contains(&now.state.as_str()) {
            return Ok(());
        }
        let line = line(&now);
        if line != seen {
            show(&line);
            (seen, moved) = (line, Instant::now());
        }
        if moved.elapsed() > PATIENCE {
            return Err(format!("nothing moves: {seen}; it goes on as soon as it can, 'lockstep status' shows it"));
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

fn line(origin: &OriginView) -> String {
    let Some(baseline) = &origin.baseline else { return format!("{} ({})", origin.state, origin.reason) };
    let percent = (100 * baseline.bytes).checked_div(baseline.total_bytes).unwrap_or(0).min(100);
    let left = baseline.left_ms.map(|ms| format!(", about {} s to go", ms.div_ceil(1000))).unwrap_or_default();
    format!("{percent} % of about {} MiB{left}", baseline.total_bytes >> 20)
}

/// In place on a terminal, a line each elsewhere.
fn show(line: &str) {
    let mut err = std::io::stderr();
    let _shown = if err.is_terminal() { write!(err, "\r\x1b[K{line}") } else { writeln!(err, "{line}") };
    let _shown = err.flush();
}
