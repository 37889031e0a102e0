//! The simulation on fixed seeds: the same seed replays, and no seed breaks an invariant.

use twinshore_simulation::{Options, run};

/// Seeds of every run of the tests; `cargo xtask simulate --seeds N` runs others.
const SEEDS: std::ops::Range<u64> = 1..25;

/// Seeds that have found something.
const FOUND: [u64; 14] = [
    44, 79, 84, 93, 106, 171, 190, 196, 211, 234, 350, 370, 385, 100_007,
];

/// Simulated seconds under faults.
const SECONDS: u64 = 60;

#[test]
fn no_seed_breaks_an_invariant() {
    for seed in SEEDS.chain(FOUND) {
        let report = run(Options {
            seed,
            seconds: SECONDS,
            fault: None,
            mount_fault: None,
        });
        assert!(
            report.broken.is_empty(),
            "seed {seed}: {:?}\nreplay: cargo xtask simulate --seed {seed} --seconds {SECONDS}",
            report.broken
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [7, 8] {
        let options = Options {
            seed,
            seconds: SECONDS,
            fault: None,
            mount_fault: None,
        };
        let (first, second) = (run(options), run(options));
        assert!(
            first.events > 100,
            "a run of {} events shows nothing",
            first.events
        );
        assert_eq!(first.digest, second.digest, "seed {seed}");
    }
}
