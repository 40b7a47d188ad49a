//! Rounds of failures between two real processes, one after the other, and a table of what came of them. It is also the
//! program that it runs as a site, so that tests need no other binary; `--program` names another one.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_gateway::demo::sites::Stream;
use lockstep_gateway::demo::workload::Mix;
use lockstep_tests::process::between::Housing;
use lockstep_tests::process::figures::{Figures, spread};
use lockstep_tests::process::hosts::Hosts;
use lockstep_tests::process::scene::Options;
use lockstep_tests::process::{KINDS, Kind, round};

const USAGE: &str = "rounds --kind KIND [--rounds N] [--seed S] [--policy sync|strict] [--objects N] [--writers N] \
                     [--load MS] [--link-timeout SPAN] [--program FILE] [--dir DIR] [--keep] [--hosts]
--hosts: each site in a network namespace of its own, with a long line between them in every second round";
/// Differences that are printed of a round.
const SHOWN_MAX: usize = 20;

struct Plan {
    kind: Kind,
    rounds: u64,
    dir: PathBuf,
    keep: bool,
    hosts: bool,
    options: Options,
}

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|word| !word.starts_with("--")) {
        return lockstep_gateway::cli::run();
    }
    let plan = match plan(std::env::args().skip(1)) {
        Ok(plan) => plan,
        Err(error) => {
            let kinds: Vec<&str> = KINDS.iter().map(|(name, _)| *name).collect();
            eprintln!("{error}\n{USAGE}\nkinds: {}", kinds.join(", "));
            return ExitCode::from(2);
        }
    };
    let ended = if plan.hosts {
        Hosts::new().map(Arc::new).and_then(|hosts| hosts.run(|| run(plan, Some(Arc::clone(&hosts)))))
    } else {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        runtime.map(|runtime| runtime.block_on(run(plan, None))).map_err(|error| error.to_string())
    };
    ended.unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::FAILURE
    })
}

fn plan(mut args: impl Iterator<Item = String>) -> Result<Plan, String> {
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut kind = None;
    let mut plan = Plan {
        kind: Kind::Promote,
        rounds: 1,
        dir: std::env::temp_dir(),
        keep: false,
        hosts: false,
        options: Options {
            program: this,
            root: PathBuf::new(),
            stream: Stream { policy: "sync", link_timeout: "1s" },
            writers: 16,
            mix: Mix::MANY,
            objects: 1000,
            load: Duration::from_secs(2),
            seed: u64::from(std::process::id()) << 20,
            housing: None,
        },
    };
    while let Some(word) = args.next() {
        match word.as_str() {
            "--keep" => plan.keep = true,
            "--hosts" => plan.hosts = true,
            _ => valued(&mut plan, &mut kind, &word, args.next())?,
        }
    }
    plan.kind = kind.ok_or("which kind?")?;
    Ok(plan)
}

/// Takes a word that has a value.
fn valued(plan: &mut Plan, kind: &mut Option<Kind>, word: &str, value: Option<String>) -> Result<(), String> {
    let value = value.ok_or_else(|| format!("{word} needs a value"))?;
    let number = || value.parse::<u64>().map_err(|error| format!("{word} {value}: {error}"));
    match word {
        "--kind" => *kind = Some(value.parse()?),
        "--rounds" => plan.rounds = number()?,
        "--seed" => plan.options.seed = number()?,
        "--objects" => plan.options.objects = number()?,
        "--writers" => plan.options.writers = number()?,
        "--load" => plan.options.load = Duration::from_millis(number()?),
        "--policy" => plan.options.stream.policy = if value == "strict" { "strict" } else { "sync" },
        "--link-timeout" => plan.options.stream.link_timeout = value.leak(),
        "--program" => plan.options.program = value.into(),
        "--dir" => plan.dir = value.into(),
        _ => return Err(format!("{word} is not known")),
    }
    Ok(())
}

async fn run(plan: Plan, hosts: Option<Arc<Hosts>>) -> ExitCode {
    let began = Instant::now();
    let (mut all, mut failed) = (Vec::new(), 0);
    for number in 0..plan.rounds {
        let seed = plan.options.seed + number;
        let root = plan.dir.join(format!("rounds-{}-{seed}", std::process::id()));
        if let Err(error) = std::fs::create_dir_all(&root) {
            eprintln!("{}: {error}", root.display());
            return ExitCode::FAILURE;
        }
        let housing = hosts.as_ref().map(|hosts| {
            let is_long = seed % 2 == 1 && hosts.relay().is_ok();
            Housing { hosts: Arc::clone(hosts), is_long }
        });
        let options = Options { seed, root: root.clone(), housing, ..plan.options.clone() };
        let good = match round(plan.kind, &options).await {
            Ok(figures) => {
                println!("{} {} seed {seed}: {}", plan.kind, options.stream.policy, figures.line());
                figures.different.iter().take(SHOWN_MAX).for_each(|sentence| println!("    {sentence}"));
                let good = figures.different.is_empty();
                all.push(figures);
                good
            }
            Err(error) => {
                println!("{} {} seed {seed}: {error}", plan.kind, options.stream.policy);
                false
            }
        };
        failed += u64::from(!good);
        if good && !plan.keep {
            let _left = std::fs::remove_dir_all(&root);
        } else {
            println!("    kept: {}", root.display());
        }
    }
    println!("{}", summary(&plan, &all, failed, began.elapsed()));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// All rounds in a few lines.
fn summary(plan: &Plan, all: &[Figures], failed: u64, took: Duration) -> String {
    let sum = |of: fn(&Figures) -> u64| all.iter().map(of).sum::<u64>();
    let mut text = format!(
        "{} {}: {} rounds in {:.0} s, {failed} failed; written {} ({} MiB), deleted {}, keys read back {}, unanswered {} \
         (done {}), refused {}, unknown {}, local {}, changes of the source {}, given up {}, set aside {}, lost or different {}",
        plan.kind,
        plan.options.stream.policy,
        plan.rounds,
        took.as_secs_f64(),
        sum(|f| f.counts.writes),
        sum(|f| f.counts.bytes) >> 20,
        sum(|f| f.counts.deletes),
        sum(|f| f.keys),
        sum(|f| f.unanswered),
        sum(|f| f.done_unanswered),
        sum(|f| f.counts.refused),
        sum(|f| f.counts.unknown),
        sum(|f| f.counts.local),
        sum(|f| f.changes),
        sum(|f| f.given_up),
        sum(|f| f.set_aside),
        sum(|f| f.different.len() as u64),
    );
    let mut names: Vec<&str> = all.iter().flat_map(|f| f.times.iter().map(|(name, _)| *name)).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let times = all.iter().flat_map(|f| &f.times).filter(|(n, _)| *n == name).map(|(_, took)| *took).collect();
        if let Some((median, largest)) = spread(times) {
            let ms = |time: Duration| time.as_secs_f64() * 1000.0;
            // Writing to a String cannot fail.
            let _ = write!(text, "\n  {name}: p50 {:.1} ms, max {:.1} ms", ms(median), ms(largest));
        }
    }
    text
}
