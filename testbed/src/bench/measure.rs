//! Doing something many times with several threads: how long it took, and what it cost whom.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use twinshore_testbed::failure::{Failure, blocking};

/// For one measurement: far more than any takes.
pub const PATIENCE: Duration = Duration::from_mins(10);

/// What the kernel counts processor time in, for programs: 100 in a second, fixed by its ABI (`USER_HZ`).
const TICKS_PER_SECOND: u32 = 100;

/// How long background work of an earlier row may go on before the next one begins all the same.
const QUIET_PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at who is busy. Long against a tick.
const QUIET_INTERVAL: Duration = Duration::from_millis(500);

/// A program whose processor time counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The metadata service, of whatever is measured.
    Service,
    /// The mount.
    Mount,
    /// The S3 server.
    Store,
    /// The replication worker.
    Worker,
}

impl Part {
    /// Its name in table and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Mount => "mount",
            Self::Store => "store",
            Self::Worker => "worker",
        }
    }
}

/// Who works for what is measured.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    /// Programs, by process id.
    pub processes: Vec<(Part, i32)>,
    /// Where the metadata service serves `/metrics`.
    pub metrics: Option<SocketAddr>,
}

/// What one operation cost.
#[derive(Clone, Debug, Default)]
pub struct Cost {
    /// Microseconds of processor time, by part.
    pub processor_micros: BTreeMap<Part, f64>,
    /// Operations that the metadata service executed, by kind.
    pub messages: BTreeMap<String, f64>,
    /// Records that it appended to the journal.
    pub records: Option<f64>,
}

impl Cost {
    /// Operations of the metadata service, of all kinds.
    pub fn messages_total(&self) -> Option<f64> {
        (!self.messages.is_empty()).then(|| self.messages.values().sum())
    }
}

/// The counters at one moment.
struct Counters {
    ticks: BTreeMap<Part, u64>,
    messages: BTreeMap<String, f64>,
    records: Option<f64>,
}

impl Meter {
    async fn read(&self) -> Result<Counters, Failure> {
        let mut ticks = BTreeMap::new();
        for (part, process) in &self.processes {
            *ticks.entry(*part).or_default() += processor_ticks(*process)?;
        }
        let text = match self.metrics {
            Some(address) => scrape(address).await.map_err(Failure::io("read /metrics"))?,
            None => String::new(),
        };
        let (messages, records) = parse_metrics(&text);
        Ok(Counters {
            ticks,
            messages,
            records,
        })
    }

    /// Measures the time and cost of some work, per each of `count` operations.
    pub async fn measure(
        &self,
        count: usize,
        work: impl Future<Output = Result<Duration, Failure>>,
    ) -> Result<(Duration, Cost), Failure> {
        let before = self.read().await?;
        let took = work.await?;
        let after = self.read().await?;
        #[allow(clippy::cast_precision_loss)] // Counts are far below 2^52.
        let each = |amount: f64| amount / count.max(1) as f64;
        let micros = f64::from(1_000_000 / TICKS_PER_SECOND);
        let mut cost = Cost::default();
        for (part, now) in after.ticks {
            let ticks = now.saturating_sub(before.ticks.get(&part).copied().unwrap_or(0));
            #[allow(clippy::cast_precision_loss)] // Ticks too.
            cost.processor_micros.insert(part, each(ticks as f64 * micros));
        }
        for (kind, now) in after.messages {
            let executed = now - before.messages.get(&kind).copied().unwrap_or(0.0);
            if executed > 0.0 {
                cost.messages.insert(kind, each(executed));
            }
        }
        cost.records = after
            .records
            .zip(before.records)
            .map(|(now, then)| each(now - then));
        Ok((took, cost))
    }

    /// Waits until the programs are idle, so that what one row leaves to the background is not paid by the next. Gives up
    /// after a while: that something never rests is seen in the figures.
    pub async fn quiet(&self) -> Result<(), Failure> {
        let total = || -> Result<u64, Failure> {
            let each = self
                .processes
                .iter()
                .map(|(_, process)| processor_ticks(*process));
            each.sum()
        };
        let started = Instant::now();
        let mut before = total()?;
        while started.elapsed() < QUIET_PATIENCE {
            tokio::time::sleep(QUIET_INTERVAL).await;
            let now = total()?;
            // A twentieth of one processor: heartbeats and timers.
            if now.saturating_sub(before) <= 2 {
                break;
            }
            before = now;
        }
        Ok(())
    }
}

/// Processor time of a process, of all its threads, user and system.
fn processor_ticks(process: i32) -> Result<u64, Failure> {
    let path = format!("/proc/{process}/stat");
    let text = std::fs::read_to_string(&path).map_err(Failure::io(format!("read {path}")))?;
    parse_stat(&text).ok_or_else(|| Failure::Wrong(format!("{path} cannot be understood")))
}

/// The name, in parentheses, may hold anything, so fields are counted after the last one.
fn parse_stat(text: &str) -> Option<u64> {
    let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// Memory of a process that is really there, in bytes.
pub fn resident_bytes(process: i32) -> Result<u64, Failure> {
    let path = format!("/proc/{process}/status");
    let text = std::fs::read_to_string(&path).map_err(Failure::io(format!("read {path}")))?;
    let kibibytes = text
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kibibytes
        .map(|kibibytes| kibibytes << 10)
        .ok_or_else(|| Failure::Wrong(format!("{path} cannot be understood")))
}

/// `/metrics`, with the smallest HTTP client.
async fn scrape(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream
        .write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")
        .await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

/// Executed operations by kind, and records.
fn parse_metrics(text: &str) -> (BTreeMap<String, f64>, Option<f64>) {
    let (mut messages, mut records) = (BTreeMap::new(), None);
    for line in text.lines() {
        let Some((name, value)) = line.rsplit_once(' ') else {
            continue;
        };
        let Ok(value) = value.trim().parse::<f64>() else {
            continue;
        };
        let kind = name
            .strip_prefix("twinshore_metadata_operations_total{kind=\"")
            .and_then(|rest| rest.strip_suffix("\"}"));
        if let Some(kind) = kind {
            messages.insert(kind.to_owned(), value);
        } else if name == "twinshore_metadata_records_total" {
            records = Some(value);
        }
    }
    (messages, records)
}

/// Calls `operation` with each number below `count`, from `workers` threads; how long all took. The operation is told which
/// thread calls it, and the number.
pub async fn parallel(
    what: &str,
    count: usize,
    workers: usize,
    operation: impl Fn(usize, usize) -> io::Result<()> + Send + Sync + 'static,
) -> Result<Duration, Failure> {
    let named = what.to_owned();
    blocking(what, PATIENCE, move || {
        let operation = &operation;
        let next = AtomicUsize::new(0);
        let failure = Mutex::new(None);
        let (next, failed) = (&next, &failure);
        let started = Instant::now();
        std::thread::scope(|scope| {
            for worker in 0..workers {
                scope.spawn(move || {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= count {
                            return;
                        }
                        if let Err(error) = operation(worker, number) {
                            failed
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let text = "7 (a ) b) S 1 7 7 0 -1 4194560 1 2 3 4 150 25 0 0 20 0 9 0 100 1000 200";
        assert_eq!(parse_stat(text), Some(175));
        assert_eq!(parse_stat("7 (cut"), None);
    }

    #[test]
    fn operations_and_records_are_found_in_the_metrics() {
        let text = "HTTP/1.0 200 OK\r\n\r\n# TYPE x counter\n\
            twinshore_metadata_operations_total{kind=\"create\"} 12\n\
            twinshore_metadata_operations_total{kind=\"lookup\"} 3\n\
            twinshore_metadata_records_total 5\ntwinshore_metadata_epoch 9\n";
        let (messages, records) = parse_metrics(text);
        assert_eq!(messages.get("create").copied(), Some(12.0));
        assert_eq!((messages.len(), records), (2, Some(5.0)));
    }

    #[tokio::test]
    async fn cost_is_counted_for_each_operation() {
        let own = i32::try_from(std::process::id()).unwrap();
        let meter = Meter {
            processes: vec![(Part::Mount, own)],
            metrics: None,
        };
        let burn = async {
            let started = Instant::now();
            while started.elapsed() < Duration::from_millis(100) {
                std::hint::spin_loop();
            }
            Ok(started.elapsed())
        };
        let (took, cost) = meter.measure(10, burn).await.unwrap();
        assert!(took >= Duration::from_millis(100));
        assert!(cost.processor_micros.contains_key(&Part::Mount));
        assert_eq!(cost.messages_total(), None);
        assert!(resident_bytes(own).unwrap() > 100_000);
    }
}
