//! `lockstep tail`: tails as a table, exported to files, discarded by their exact name.
//!
//! An export is a directory with `ops.jsonl`, a JSON line for every op in the order of the log, and `bodies/`, a file for every
//! object that was put, named after the seq of its op: keys are any text, and no names of files. The line of an op names
//! its file. A file `….incomplete` has holes where chunks are neither in the tail, nor beside it, nor in the node's container;
//! the line says where. When the command has ended well, everything is on the disk, and the tail may be discarded.

use std::fmt::Write as _;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Subcommand;
use http::Method;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::client::AdminClient;
use super::verbs::{parsed, pretty};
use crate::admin::op::OpView;
use crate::admin::tail::export::{Line, PieceView};
use crate::admin::tail::{TailAction, TailBody, TailDiscarded, TailList, TailView};
use crate::config::units::approximate;

/// `lockstep tail ...`
#[derive(Debug, Clone, Subcommand)]
pub enum TailCommand {
    /// Show all tails
    List {
        /// Whose [default: everybody's]
        origin: Option<String>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Write a tail's ops as JSON lines, and the bodies of its objects as files
    Export {
        /// Whose
        origin: String,
        /// Which one, as the list names it; may be left out where there is one only
        #[arg(long)]
        epoch: Option<String>,
        /// A directory that is made or empty, or a file ….jsonl for the ops alone [default: tail.ORIGIN.EPOCH]
        #[arg(long, value_name = "PATH")]
        to: Option<PathBuf>,
        /// Print what was read as JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove a tail for ever: name it with --epoch, or the only one with --yes
    Discard {
        /// Whose
        origin: String,
        /// Which one, as the list names it
        #[arg(long)]
        epoch: Option<String>,
        /// The only one of this origin
        #[arg(long)]
        yes: bool,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// Does it and says what to print.
///
/// # Errors
/// With one sentence.
pub(super) async fn run(command: TailCommand, client: &AdminClient) -> Result<String, String> {
    match command {
        TailCommand::List { origin, json } => {
            let list = list(client, origin).await?;
            Ok(if json { pretty(&json!(list)) } else { table(&list) })
        }
        TailCommand::Export { origin, epoch, to, json } => {
            let epoch = match epoch {
                Some(epoch) => epoch,
                None => the_only_one(client, &origin).await?.epoch,
            };
            let to = to.unwrap_or_else(|| PathBuf::from(format!("tail.{origin}.{epoch}")));
            let done = export(client, &origin, &epoch, &to).await?;
            Ok(if json { pretty(&json!(done.view)) } else { done.text(&to) })
        }
        TailCommand::Discard { origin, epoch, yes, json } => {
            let epoch = match (epoch, yes) {
                (Some(epoch), _) => epoch,
                (None, true) => the_only_one(client, &origin).await?.epoch,
                (None, false) => {
                    let tail = the_only_one(client, &origin).await?;
                    let (seqs, objects) = (seqs(&tail), tail.objects);
                    return Err(format!(
                        "this would remove the tail {origin} {} for ever (seq {seqs}, {objects} objects put): say it \
                         with --yes or --epoch {}",
                        tail.epoch, tail.epoch
                    ));
                }
            };
            let body = body(TailAction::Discard, Some(origin), Some(epoch), false);
            let value = client.call(Method::POST, "/v1/tail", Some(json!(body))).await?;
            if json {
                return Ok(pretty(&value));
            }
            let TailDiscarded { origin, epoch } = parsed(value)?;
            Ok(format!("the tail {origin} {epoch} is removed\n"))
        }
    }
}

fn body(action: TailAction, origin: Option<String>, epoch: Option<String>, bodies: bool) -> TailBody {
    TailBody { action, origin, epoch, bodies }
}

async fn list(client: &AdminClient, origin: Option<String>) -> Result<TailList, String> {
    let body = body(TailAction::List, origin, None, false);
    parsed(client.call(Method::POST, "/v1/tail", Some(json!(body))).await?)
}

async fn the_only_one(client: &AdminClient, origin: &str) -> Result<TailView, String> {
    let list = list(client, Some(origin.to_owned())).await?;
    let epochs: Vec<String> = list.tails.iter().map(|tail| tail.epoch.clone()).collect();
    let mut tails = list.tails.into_iter();
    match (tails.next(), tails.next()) {
        (Some(tail), None) => Ok(tail),
        (None, _) => Err(format!("{} has no tail of {origin}", list.node)),
        _ => Err(format!("there are {} tails of {origin}: name one with --epoch: {}", epochs.len(), epochs.join(", "))),
    }
}

fn seqs(tail: &TailView) -> String {
    match (&tail.first, &tail.last) {
        (Some(first), Some(last)) => format!("{} to {}", first.seq, last.seq),
        _ => "none".into(),
    }
}

fn time_of(ms: u64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(i64::try_from(ms / 1000).unwrap_or_default());
    time.ok().and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}

/// What is wrong with a tail, in a few words; empty for nothing.
fn faults(tail: &TailView) -> String {
    let mut text = String::new();
    if let Some(damage) = &tail.damage {
        let _infallible = write!(
            text,
            "; its last {} bytes, from {} on, cannot be read: {}",
            damage.bytes, damage.offset, damage.reason
        );
    }
    for (count, what) in [
        (tail.damaged_payloads, "records have damaged payloads"),
        (tail.damaged_bodies, "bodies from before it have damaged chunks"),
        (tail.breaks, "records do not follow the one before"),
    ] {
        if count > 0 {
            let _infallible = write!(text, "; {count} {what}");
        }
    }
    text
}

fn table(list: &TailList) -> String {
    if list.tails.is_empty() {
        return format!("{} has no tails\n", list.node);
    }
    let mut rows =
        vec![["ORIGIN", "EPOCH", "SEQ", "RECORDS", "BYTES", "PUT", "DELETED", "SET ASIDE"].map(String::from)];
    rows.extend(list.tails.iter().map(|tail| {
        [
            tail.origin.clone(),
            tail.epoch.clone(),
            seqs(tail),
            tail.records.to_string(),
            approximate(tail.bytes),
            tail.objects.to_string(),
            tail.deletes.to_string(),
            time_of(tail.set_aside_ms),
        ]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..8).map(width).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
        let fault = number.checked_sub(1).map(|number| faults(&list.tails[number])).unwrap_or_default();
        if !fault.is_empty() {
            let _infallible = writeln!(text, "  {}", fault.trim_start_matches("; "));
        }
    }
    text
}

/// What came of an export.
struct Exported {
    view: TailView,
    ops: u64,
    whole: u64,
    incomplete: u64,
    bodies: bool,
}

impl Exported {
    fn text(&self, to: &Path) -> String {
        let mut text = format!("{} ops are in {}", self.ops, to.display());
        if self.bodies {
            let _infallible = write!(text, ", with the bodies of {} objects", self.whole);
        }
        if self.incomplete > 0 {
            let _infallible =
                write!(text, "; of {} more, chunks are missing here: their lines say which bytes", self.incomplete);
        }
        text + &faults(&self.view) + "\n"
    }
}

async fn export(client: &AdminClient, origin: &str, epoch: &str, to: &Path) -> Result<Exported, String> {
    let failed = |error: io::Error| format!("{}: {error}", to.display());
    let bodies = to.extension().is_none_or(|extension| extension != "jsonl");
    let body = body(TailAction::Export, Some(origin.to_owned()), Some(epoch.to_owned()), bodies);
    let mut lines = client.lines(Method::POST, "/v1/tail", json!(body)).await?;
    let mut target = Target::make(to, bodies).map_err(failed)?;
    while let Some(line) = lines.next().await? {
        let line: Line = serde_json::from_slice(&line).map_err(|error| format!("a line is not understood: {error}"))?;
        match line {
            Line::Piece(piece) => target.piece(&piece).map_err(failed)?,
            Line::Op(op) => target.op(*op).map_err(failed)?,
            Line::End(view) => {
                let Target { exported: (ops, whole, incomplete), .. } = target.finish().map_err(failed)?;
                return Ok(Exported { view: *view, ops, whole, incomplete, bodies });
            }
        }
    }
    Err(format!("the node ended the export early: what is in {} is not all", to.display()))
}

/// Where an export goes.
struct Target {
    ops: BufWriter<File>,
    /// The directory; none for the ops alone.
    dir: Option<PathBuf>,
    /// The body whose pieces come, with the seq of its op.
    body: Option<(u64, File)>,
    /// Ops, whole bodies, incomplete ones.
    exported: (u64, u64, u64),
}

impl Target {
    fn make(to: &Path, bodies: bool) -> io::Result<Self> {
        // What clients wrote is nobody else's business.
        let create = |path: &Path| OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        if !bodies {
            return Ok(Self { ops: BufWriter::new(create(to)?), dir: None, body: None, exported: (0, 0, 0) });
        }
        match DirBuilder::new().mode(0o700).create(to) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && std::fs::read_dir(to)?.next().is_none() => {}
            made => made?,
        }
        DirBuilder::new().mode(0o700).create(to.join("bodies"))?;
        let ops = BufWriter::new(create(&to.join("ops.jsonl"))?);
        Ok(Self { ops, dir: Some(to.to_owned()), body: None, exported: (0, 0, 0) })
    }

    fn piece(&mut self, piece: &PieceView) -> io::Result<()> {
        let data = STANDARD.decode(&piece.data).map_err(io::Error::other)?;
        let Some(dir) = &self.dir else { return Ok(()) };
        let file = match &self.body {
            Some((seq, file)) if *seq == piece.seq => file,
            _ => &self.body.insert((piece.seq, File::create_new(dir.join(body_file(piece.seq)))?)).1,
        };
        file.write_all_at(&data, piece.offset)
    }

    fn op(&mut self, mut op: OpView) -> io::Result<()> {
        let body = self.body.take().filter(|(seq, _)| *seq == op.seq);
        if let Some(view) = &op.body {
            let (count, whole) = (&mut self.exported, view.missing_bytes == 0);
            *(if whole { &mut count.1 } else { &mut count.2 }) += 1;
            if let Some(dir) = &self.dir {
                op.file = finish_body(dir, &op, body.map(|(_, file)| file), whole)?;
            }
        }
        self.exported.0 += 1;
        serde_json::to_writer(&mut self.ops, &op)?;
        self.ops.write_all(b"\n")
    }

    /// Everything is on the disk when it returns.
    fn finish(mut self) -> io::Result<Self> {
        self.ops.flush()?;
        let ops = self.ops.get_ref();
        ops.sync_all()?;
        if self.dir.is_some() {
            // One call for all the bodies.
            rustix::fs::syncfs(ops)?;
        }
        Ok(self)
    }
}

fn body_file(seq: u64) -> String {
    format!("bodies/{seq:012}")
}

/// Gives a body's file its last name and length. None where nothing of it is there.
fn finish_body(dir: &Path, op: &OpView, file: Option<File>, whole: bool) -> io::Result<Option<String>> {
    let name = body_file(op.seq);
    match file {
        None if whole => drop(File::create_new(dir.join(&name))?),
        None => return Ok(None),
        Some(_) if whole => {}
        Some(file) => {
            file.set_len(op.len.unwrap_or_default())?;
            let incomplete = format!("{name}.incomplete");
            std::fs::rename(dir.join(&name), dir.join(&incomplete))?;
            return Ok(Some(incomplete));
        }
    }
    Ok(Some(name))
}
