//! `twinshore-simulate`: runs seeds of the simulation.
//!
//! `twinshore-simulate --seeds 100` runs 100 new seeds, `--seed 42` one, twice, and compares the digests.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use twinshore_simulation::{Options, run};

const USAGE: &str = "\
usage: twinshore-simulate [--seeds COUNT] [--from SEED] [--seed SEED] [--seconds SIMULATED]

  --seeds COUNT      how many seeds to run (default 20)
  --from SEED        the first seed (default: from the clock)
  --seed SEED        replay one seed, twice, with the last events if it fails
  --seconds SECONDS  simulated time of faults per run (default 60)

example: twinshore-simulate --seeds 1000
";

struct Arguments {
    first: u64,
    count: u64,
    replay: bool,
    seconds: u64,
}

fn parse() -> Result<Option<Arguments>, String> {
    let clock = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(1, |now| now.as_secs());
    let mut arguments = Arguments {
        first: clock,
        count: 20,
        replay: false,
        seconds: 60,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--help" || word == "-h" {
            return Ok(None);
        }
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        let number: u64 = value
            .parse()
            .map_err(|_| format!("{word}: `{value}` is not a number"))?;
        match word.as_str() {
            "--seeds" => arguments.count = number,
            "--from" => arguments.first = number,
            "--seed" => (arguments.first, arguments.count, arguments.replay) = (number, 1, true),
            "--seconds" => arguments.seconds = number,
            _ => return Err(format!("unknown argument {word}")),
        }
    }
    Ok(Some(arguments))
}

fn main() -> ExitCode {
    let arguments = match parse() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("twinshore-simulate: {error}\n{USAGE}");
            return ExitCode::FAILURE;
        }
    };
    let mut failed = 0;
    for seed in arguments.first..arguments.first + arguments.count {
        let options = Options {
            seed,
            seconds: arguments.seconds,
            fault: None,
            mount_fault: None,
        };
        let report = run(options);
        println!(
            "seed {seed}: {} events, digest {}, {}",
            report.events,
            &report.digest[..16],
            report.outcome()
        );
        if arguments.replay {
            for line in &report.tail {
                println!("  {line}");
            }
            let again = run(options);
            println!("seed {seed} again: digest {}", &again.digest[..16]);
            if again.digest != report.digest {
                println!("the same seed gave another trace: something is not deterministic");
                failed += 1;
            }
        }
        if !report.broken.is_empty() {
            failed += 1;
            for broken in &report.broken {
                println!("  broken: {broken}");
            }
            println!(
                "  replay: cargo xtask simulate --seed {seed} --seconds {}",
                arguments.seconds
            );
        }
    }
    println!(
        "{} passed, {failed} failed",
        arguments.count.saturating_sub(failed)
    );
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
