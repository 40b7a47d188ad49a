//! `make sim SEED=…`: runs the simulator over many seeds, or shows one.

use std::process::ExitCode;

use lockstep_tests::sim::campaign::{Campaign, fresh_seed};
use lockstep_tests::sim::mistake::Mistake;
use lockstep_tests::sim::scenario::Scenario;
use lockstep_tests::sim::{Outcome, draw, report, run, shrink};

const USAGE: &str =
    "sim --seeds N [--from S] [--threads T] [--all] | --seed S [--trace] [--shrink] | --replay FILE [--trace]
    [--mistake NAME] plants a mistake in every run";

#[derive(Default)]
struct Args {
    seeds: Option<u64>,
    from: Option<u64>,
    threads: Option<u64>,
    seed: Option<u64>,
    replay: Option<String>,
    mistake: Option<Mistake>,
    all: bool,
    trace: bool,
    shrink: bool,
}

fn main() -> ExitCode {
    // A panic in the code under test is an outcome like any other: it is reported with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    let Some(args) = parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match (&args.replay, args.seed, args.seeds) {
        (Some(file), ..) => replay(file, &args),
        (_, Some(seed), _) => show(&draw::scenario(seed), &format!("make sim SEED={seed}"), &args),
        (.., Some(count)) => many(count, &args),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Option<Args> {
    let mut args = Args::default();
    while let Some(word) = words.next() {
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        match word.as_str() {
            "--seeds" => args.seeds = Some(number()?),
            "--from" => args.from = Some(number()?),
            "--threads" => args.threads = Some(number()?),
            "--seed" => args.seed = Some(number()?),
            "--all" => args.all = true,
            "--trace" => args.trace = true,
            "--shrink" => args.shrink = true,
            "--replay" => args.replay = Some(words.next()?),
            "--mistake" => args.mistake = Some(words.next()?.parse().ok()?),
            _ => return None,
        }
    }
    Some(args)
}

fn many(count: u64, args: &Args) -> ExitCode {
    let from = args.from.unwrap_or_else(fresh_seed);
    let threads = args.threads.unwrap_or(1) as usize;
    let found = Campaign { from, count, threads, mistake: args.mistake, all: args.all }.run();
    println!("{}", found.seen);
    println!(
        "{} seeds from {from} are clean: {} events, {} answers, {:.0} seeds a minute",
        found.clean,
        found.events,
        found.answers,
        found.rate()
    );
    for (seed, violation) in &found.failed {
        println!("seed {seed}: rule {}: {}", violation.rule, violation.what);
    }
    match found.failed.first() {
        None => ExitCode::SUCCESS,
        Some((seed, _)) => {
            let args = Args { shrink: true, mistake: args.mistake, ..Args::default() };
            show(&draw::scenario(*seed), &format!("make sim SEED={seed}"), &args)
        }
    }
}

/// Runs one scenario and tells what came of it; `again` says how to see it once more.
fn show(scenario: &Scenario, again: &str, args: &Args) -> ExitCode {
    let outcome = run(scenario, args.mistake, true);
    tell(scenario, &outcome, args.trace);
    if outcome.violation.is_none() {
        return ExitCode::SUCCESS;
    }
    println!("again: {again}");
    if args.shrink {
        let small = shrink::shrink(scenario, args.mistake);
        println!("\nas a named test, in {} steps instead of {}:", small.steps.len(), scenario.steps.len());
        println!("{}", report::as_test(&small));
        tell(&small, &run(&small, args.mistake, true), false);
    }
    ExitCode::FAILURE
}

fn replay(file: &str, args: &Args) -> ExitCode {
    let scenario = std::fs::read_to_string(file).map_err(|e| e.to_string()).and_then(|text| text.parse::<Scenario>());
    match scenario {
        Ok(scenario) => show(&scenario, &format!("sim --replay {file}"), args),
        Err(error) => {
            eprintln!("{file}: {error}");
            ExitCode::from(2)
        }
    }
}

fn tell(scenario: &Scenario, outcome: &Outcome, trace: bool) {
    if trace {
        println!("{}\n{}", report::LEGEND, outcome.lines.join("\n"));
    }
    match &outcome.violation {
        Some(violation) => println!("{}", report::failure(scenario, violation, &outcome.lines)),
        None => println!("clean: {} events, hash {:016x}", outcome.events, outcome.hash),
    }
}
