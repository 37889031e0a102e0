#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;

/// A reply that tells what it was used for.
struct Told(Sender<i32>);

impl Refuse for Told {
    fn refuse(self, errno: fuser::Errno) {
        self.0.send(errno.code()).unwrap();
    }
}

fn told() -> (Told, Receiver<i32>) {
    let (sender, receiver) = channel();
    (Told(sender), receiver)
}

const KILLED: u32 = 9;
const INTERRUPTED: u32 = 2;
const HAPPY: u32 = 7;

#[allow(clippy::unnecessary_wraps)] // It stands in for a function that may not see the process.
fn signals(thread: u32) -> Option<Signals> {
    Some(match thread {
        KILLED => Signals::Killed,
        INTERRUPTED => Signals::Interrupted,
        _ => Signals::None,
    })
}

fn sweep_after(requests: &Requests, age: Duration) {
    requests.table.sweep(Instant::now() + age, signals);
}

#[test]
fn a_killed_process_is_answered_and_the_work_finds_its_reply_gone() {
    let requests = Requests::start().unwrap();
    let (reply, receiver) = told();
    let ticket = requests.enter(reply, KILLED, Patience::Ordinary);
    sweep_after(&requests, GRACE / 4);
    assert!(receiver.try_recv().is_err(), "too early");
    sweep_after(&requests, GRACE * 2);
    assert_eq!(receiver.try_recv(), Ok(4));
    assert!(ticket.take().is_none());
    assert_eq!(requests.waiting(), 0);
}

#[test]
fn any_signal_ends_waiting_for_a_lock_and_nothing_else() {
    let requests = Requests::start().unwrap();
    let (lock, lock_told) = told();
    let (read, read_told) = told();
    let waiting = requests.enter(lock, INTERRUPTED, Patience::Lock);
    let reading = requests.enter(read, INTERRUPTED, Patience::Ordinary);
    sweep_after(&requests, GRACE * 2);
    assert_eq!(lock_told.try_recv(), Ok(4));
    assert!(read_told.try_recv().is_err());
    drop((waiting, reading));
}

#[tokio::test]
async fn whoever_waits_hears_of_the_refusal() {
    let requests = Requests::start().unwrap();
    let (reply, _receiver) = told();
    let ticket = requests.enter(reply, INTERRUPTED, Patience::Lock);
    sweep_after(&requests, GRACE * 2);
    ticket.refused().await;
}

#[test]
fn a_deadline_answers_with_an_error_and_a_lock_has_none() {
    let requests = Requests::start().unwrap();
    let (ordinary, ordinary_told) = told();
    let (lock, lock_told) = told();
    let first = requests.enter(ordinary, HAPPY, Patience::Ordinary);
    let second = requests.enter(lock, HAPPY, Patience::Lock);
    sweep_after(&requests, Duration::from_secs(149));
    assert!(ordinary_told.try_recv().is_err());
    sweep_after(&requests, Duration::from_hours(1));
    assert_eq!(ordinary_told.try_recv(), Ok(5));
    assert!(lock_told.try_recv().is_err());
    drop((first, second));
}

#[test]
fn work_that_ends_without_an_answer_is_answered_with_an_error() {
    let requests = Requests::start().unwrap();
    let (reply, receiver) = told();
    drop(requests.enter(reply, HAPPY, Patience::Ordinary));
    assert_eq!(receiver.recv(), Ok(5));
    assert_eq!(requests.waiting(), 0);
}
