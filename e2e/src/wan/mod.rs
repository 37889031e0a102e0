//! The line between the regions: packets of any protocol through this process, with a round-trip time, that can be cut.
//!
//! One process with a tunnel in each region's network. For each direction a thread reads packets from one tunnel into a [`line::Line`] and another writes them
//! to the other tunnel when they have travelled long enough. Commands come over a Unix socket, one line each (`cut`, `heal`, `rtt MICROSECONDS`, `status`) with
//! one line as the answer.
//!
//! States: up and open, up and cut, down. It starts open. Cut, packets vanish in silence, as on a broken cable: connections stay until their ends lose
//! patience. Down (the process is not there), routers have no route to the other region and say so.

pub mod line;
mod tun;

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::address::Region;
use crate::failure::Failure;
use crate::network::connect_wan;
use crate::patience::{Look, wait_for};
use crate::place::Place;
use crate::process::{self, Process};
use crate::wan::line::{Counts, Line, Next};

pub use crate::wan::tun::check;

/// The round trip if nothing else is asked for: two regions of one continent.
pub const ROUND_TRIP: Duration = Duration::from_millis(30);

/// The link in each region's network.
const LINK: &str = "wan";

/// Larger than any packet: the links carry 1500 bytes.
const PACKET_MAX_BYTES: usize = 1 << 16;

/// For the process to make its tunnels and listen.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// For an answer: every command is carried out at once.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// One direction: the line, and what wakes its far end.
struct Direction {
    line: Mutex<Line>,
    came: Condvar,
}

impl Direction {
    fn lock(&self) -> MutexGuard<'_, Line> {
        // Nothing panics while it holds the lock; and a line is whole after each of its steps.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The two directions, from the region of that index.
type Directions = [Arc<Direction>; 2];

/// Runs the line until it is killed. It has started when its socket is there.
pub fn run(place: &Place, round_trip: Duration) -> Result<(), Failure> {
    let [east, west] = Region::BOTH;
    let ends = [
        Arc::new(tun::open(&east.network_namespace(), LINK)?),
        Arc::new(tun::open(&west.network_namespace(), LINK)?),
    ];
    for region in Region::BOTH {
        connect_wan(region, LINK)?;
    }
    let directions: Directions = [(); 2].map(|()| {
        Arc::new(Direction {
            line: Mutex::new(Line::new(round_trip / 2)),
            came: Condvar::new(),
        })
    });
    for (from, direction) in directions.iter().enumerate() {
        let (near, far) = (Arc::clone(&ends[from]), Arc::clone(&ends[1 - from]));
        let departures = Arc::clone(direction);
        thread::spawn(move || end_with(&send(&near, &departures)));
        let arrivals = Arc::clone(direction);
        thread::spawn(move || end_with(&deliver(&far, &arrivals)));
    }
    let socket = place.wan_control();
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).map_err(Failure::file("listen at", &socket))?;
    for connection in listener.incoming() {
        let connection = connection.map_err(Failure::file("accept at", &socket))?;
        // A client that goes away early has its own error.
        let _ = serve(&connection, &directions);
    }
    Ok(())
}

/// A thread that has lost its tunnel cannot go on, and half a line is worse than none.
fn end_with(error: &io::Error) {
    eprintln!("the line between the regions ends: {error}");
    std::process::exit(1);
}

fn send(mut near: &File, direction: &Direction) -> io::Error {
    let mut buffer = vec![0; PACKET_MAX_BYTES];
    loop {
        match near.read(&mut buffer) {
            Ok(count) => direction.lock().send(&buffer[..count], Instant::now()),
            Err(error) => return error,
        }
        direction.came.notify_one();
    }
}

fn deliver(mut far: &File, direction: &Direction) -> io::Error {
    let mut line = direction.lock();
    loop {
        let now = Instant::now();
        line = match line.next(now) {
            Next::Deliver(packet) => {
                drop(line);
                match far.write(&packet) {
                    Ok(_) => {}
                    // The link has no room or does not like the packet: so it is lost, as on any line.
                    Err(error) if error.raw_os_error() != Some(rustix::io::Errno::BADFD.raw_os_error()) => {}
                    Err(error) => return error,
                }
                direction.lock()
            }
            Next::WaitUntil(time) => {
                let waited = direction.came.wait_timeout(line, time - now);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            Next::Wait => {
                let waited = direction.came.wait(line);
                waited.unwrap_or_else(PoisonError::into_inner)
            }
        };
    }
}

fn serve(connection: &UnixStream, directions: &Directions) -> io::Result<()> {
    connection.set_read_timeout(Some(ANSWER_PATIENCE))?;
    let mut command = String::new();
    BufReader::new(connection).read_line(&mut command)?;
    let mut answer = connection;
    writeln!(answer, "{}", execute(command.trim(), directions))
}

fn execute(command: &str, directions: &Directions) -> String {
    let mut words = command.split(' ');
    let all = |change: &dyn Fn(&mut Line)| {
        for direction in directions {
            change(&mut direction.lock());
            direction.came.notify_one();
        }
        "ok".to_owned()
    };
    match (words.next(), words.next().map(str::parse::<u64>)) {
        (Some("cut"), None) => all(&|line| line.set_open(false)),
        (Some("heal"), None) => all(&|line| line.set_open(true)),
        (Some("rtt"), Some(Ok(micros))) => all(&|line| line.set_delay(Duration::from_micros(micros) / 2)),
        (Some("status"), None) => {
            let [east, west] = [0, 1].map(|from| {
                let line = directions[from].lock();
                Status::of_line(&line)
            });
            format!("{east} {west}")
        }
        _ => format!("unknown command {command}"),
    }
}

/// How one direction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// From shore to shore and back, if the other direction is as this one.
    pub round_trip: Duration,
    /// Whether packets get through.
    pub is_open: bool,
    /// What became of packets.
    pub counts: Counts,
}

impl Status {
    fn of_line(line: &Line) -> Self {
        Self {
            round_trip: line.delay() * 2,
            is_open: line.is_open(),
            counts: line.counts(),
        }
    }

    fn read(words: &mut dyn Iterator<Item = &str>) -> Option<Self> {
        let mut number = || words.next()?.parse::<u64>().ok();
        Some(Self {
            round_trip: Duration::from_micros(number()?),
            is_open: number()? == 1,
            counts: Counts {
                packets: number()?,
                bytes: number()?,
                lost: number()?,
            },
        })
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} {} {} {} {}",
            self.round_trip.as_micros(),
            u8::from(self.is_open),
            self.counts.packets,
            self.counts.bytes,
            self.counts.lost
        )
    }
}

/// The line of the lab, from outside.
#[derive(Clone, Debug)]
pub struct Wan {
    place: Place,
}

impl Wan {
    /// That of a lab.
    pub fn of(place: &Place) -> Self {
        Self { place: place.clone() }
    }

    fn record(&self) -> std::path::PathBuf {
        self.place.wan().join("process")
    }

    /// What it says.
    pub fn log(&self) -> std::path::PathBuf {
        self.place.wan().join("log")
    }

    /// Its process, if it runs.
    pub fn process(&self) -> Result<Option<Process>, Failure> {
        Process::alive(&self.record())
    }

    /// Starts it, unless it runs.
    pub fn start(&self) -> Result<(), Failure> {
        if self.process()?.is_none() {
            let program = std::env::current_exe().map_err(Failure::io("find this program"))?;
            let mut command = Command::new(program);
            command.arg("run-wan");
            // So that the wait below sees the new process's socket.
            let _ = fs::remove_file(self.place.wan_control());
            process::start(
                "the line between the regions",
                &command,
                &self.log(),
                &self.record(),
            )?;
        }
        wait_for("the line between the regions", START_PATIENCE, || {
            match self.status() {
                Ok(_) => Look::Done(()),
                Err(error) => Look::NotYet(error.to_string()),
            }
        })?;
        Ok(())
    }

    /// Ends it: the regions have no path to each other.
    pub fn stop(&self) -> Result<(), Failure> {
        match self.process()? {
            Some(process) => process.kill("the line between the regions"),
            None => Ok(()),
        }
    }

    /// Nothing arrives.
    pub fn cut(&self) -> Result<(), Failure> {
        self.expect_ok("cut")
    }

    /// Everything arrives again.
    pub fn heal(&self) -> Result<(), Failure> {
        self.expect_ok("heal")
    }

    /// Changes the time from shore to shore and back.
    pub fn set_round_trip(&self, round_trip: Duration) -> Result<(), Failure> {
        self.expect_ok(&format!("rtt {}", round_trip.as_micros()))
    }

    /// How the directions from east and from west are.
    pub fn status(&self) -> Result<[Status; 2], Failure> {
        let answer = self.ask("status")?;
        let mut words = answer.split(' ');
        let statuses = Status::read(&mut words).zip(Status::read(&mut words));
        let (east, west) = statuses.ok_or_else(|| Failure::wrong(format!("the line answered {answer}")))?;
        Ok([east, west])
    }

    fn expect_ok(&self, command: &str) -> Result<(), Failure> {
        match self.ask(command)?.as_str() {
            "ok" => Ok(()),
            other => Err(Failure::wrong(format!("the line answered {other}"))),
        }
    }

    fn ask(&self, command: &str) -> Result<String, Failure> {
        let socket = self.place.wan_control();
        let failed = || Failure::file("ask the line at", &socket);
        let mut connection = UnixStream::connect(&socket).map_err(failed())?;
        connection
            .set_read_timeout(Some(ANSWER_PATIENCE))
            .map_err(failed())?;
        writeln!(connection, "{command}").map_err(failed())?;
        let mut answer = String::new();
        BufReader::new(connection)
            .read_line(&mut answer)
            .map_err(failed())?;
        Ok(answer.trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_status_is_read_as_it_is_written() {
        let status = Status {
            round_trip: Duration::from_millis(30),
            is_open: true,
            counts: Counts {
                packets: 3,
                bytes: 4500,
                lost: 1,
            },
        };
        let text = format!("{status} {status}");
        let mut words = text.split(' ');
        assert_eq!(Status::read(&mut words).unwrap(), status);
        assert_eq!(Status::read(&mut words).unwrap(), status);
        assert!(Status::read(&mut words).is_none());
    }
}
