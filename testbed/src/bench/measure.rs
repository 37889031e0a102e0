//! Doing something many times with several threads, and how long it took.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use twinshore_testbed::failure::{Failure, blocking};

/// For one measurement: far more than any takes.
pub const PATIENCE: Duration = Duration::from_mins(10);

/// Calls `operation` with each number below `count`, from `workers` threads; how long all took.
pub async fn parallel(
    what: &str,
    count: usize,
    workers: usize,
    operation: impl Fn(usize) -> io::Result<()> + Send + Sync + 'static,
) -> Result<Duration, Failure> {
    let named = what.to_owned();
    blocking(what, PATIENCE, move || {
        let next = AtomicUsize::new(0);
        let failure = Mutex::new(None);
        let started = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= count {
                            return;
                        }
                        if let Err(error) = operation(number) {
                            failure
                                .lock()
                                .unwrap_or_else(PoisonError::into_inner)
                                .get_or_insert(error);
                            return;
                        }
                    }
                });
            }
        });
        let took = started.elapsed();
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(Failure::io(named)(error)),
            None => Ok(took),
        }
    })
    .await
}
