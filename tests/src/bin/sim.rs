//! `make sim SEED=…`: runs the simulator over many seeds, or shows one.

use std::process::ExitCode;
use std::time::Instant;

use lockstep_tests::sim::scenario::Scenario;
use lockstep_tests::sim::{Outcome, draw, run, shrink};

const USAGE: &str = "sim --seeds N [--from S] | --seed S [--trace] [--shrink] | --replay FILE [--trace]";

fn main() -> ExitCode {
    // A panic in the code under test is an outcome like any other: it is reported with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    let mut args = std::env::args().skip(1);
    let (mut seeds, mut from, mut seed, mut trace, mut smaller, mut file) = (None, None, None, false, false, None);
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|word| word.parse::<u64>().ok());
        match arg.as_str() {
            "--seeds" => seeds = number(),
            "--from" => from = number(),
            "--seed" => seed = number(),
            "--trace" => trace = true,
            "--shrink" => smaller = true,
            "--replay" => file = args.next(),
            _ => {
                eprintln!("{USAGE}");
                return ExitCode::from(2);
            }
        }
    }
    match (seed, seeds, file) {
        (_, _, Some(file)) => replay(&file, trace),
        (Some(seed), ..) => show(seed, trace, smaller),
        (_, Some(count), _) => many(from.unwrap_or_else(fresh), count),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// A first seed that nobody chose.
fn fresh() -> u64 {
    u64::from(std::process::id()) << 20
}

fn many(from: u64, count: u64) -> ExitCode {
    let began = Instant::now();
    let (mut events, mut answers) = (0, 0);
    for seed in from..from + count {
        let scenario = draw::scenario(seed);
        let outcome = run(&scenario, None, false);
        events += outcome.events;
        answers += outcome.answers;
        if outcome.violation.is_some() {
            println!("seed {seed} failed, the {} after {} clean ones", seed - from + 1, seed - from);
            return show(seed, false, true);
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let rate = count as f64 / seconds * 60.0;
    println!("{count} seeds from {from} are clean: {events} events, {answers} answers, {rate:.0} seeds a minute");
    ExitCode::SUCCESS
}

fn show(seed: u64, trace: bool, smaller: bool) -> ExitCode {
    let scenario = draw::scenario(seed);
    let outcome = run(&scenario, None, true);
    report(&scenario, &outcome, trace);
    if outcome.violation.is_none() {
        return ExitCode::SUCCESS;
    }
    println!("again: make sim SEED={seed}");
    if smaller {
        let small = shrink::shrink(&scenario, None);
        println!("\nas a named test, in {} steps instead of {}:", small.steps.len(), scenario.steps.len());
        println!("    replay(\n        \"{}\",\n    );", small.to_string().trim_end().replace('\n', "\n         "));
        report(&small, &run(&small, None, true), false);
    }
    ExitCode::FAILURE
}

fn replay(file: &str, trace: bool) -> ExitCode {
    let scenario = std::fs::read_to_string(file).map_err(|e| e.to_string()).and_then(|text| text.parse::<Scenario>());
    match scenario {
        Ok(scenario) => {
            let outcome = run(&scenario, None, true);
            report(&scenario, &outcome, trace);
            if outcome.violation.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
        Err(error) => {
            eprintln!("{file}: {error}");
            ExitCode::from(2)
        }
    }
}

fn report(scenario: &Scenario, outcome: &Outcome, trace: bool) {
    let kept = if trace { outcome.lines.len() } else { 50 };
    let tail = outcome.lines.len().saturating_sub(kept);
    if let Some(violation) = &outcome.violation {
        println!("{}", outcome.lines[tail..].join("\n"));
        println!("\nrule {}: {}\n\n{scenario}", violation.rule, violation.what);
    } else {
        if trace {
            println!("{}", outcome.lines.join("\n"));
        }
        println!("clean: {} events, hash {:016x}", outcome.events, outcome.hash);
    }
}
