//! What was answered early: when it may be added, and what is said to be returned behind it.
#![allow(clippy::unwrap_used)]

use super::*;

fn operation(inode: u64) -> Operation {
    Operation::GetAttributes {
        inode: InodeNumber(inode),
    }
}

fn early(ledger: &mut Ledger<()>, now: Instant) -> Result<RequestNumber, Full> {
    ledger.add_early(Caller::ROOT, operation(1), (), now)
}

fn sent(ledger: &mut Ledger<()>, limit: usize) -> Vec<String> {
    let mut messages = Vec::new();
    ledger.drain(Epoch(1), limit, &mut messages);
    let text = |message: &ClientMessage| match message {
        ClientMessage::Request { number, .. } => format!("request {number}"),
        ClientMessage::Returned { number } => format!("returned {number}"),
        ClientMessage::Acknowledge { number } => format!("acknowledge {number}"),
        other => format!("{other:?}"),
    };
    messages.iter().map(text).collect()
}

#[tokio::test(start_paused = true)]
async fn what_is_returned_leaves_behind_what_was_answered_before_and_not_behind_what_came_later() {
    let mut ledger = Ledger::new();
    let now = Instant::now();
    early(&mut ledger, now).unwrap();
    early(&mut ledger, now).unwrap();
    ledger.give_back(7);
    ledger.add(Caller::ROOT, operation(1), ()).unwrap();
    ledger.acknowledge(3);
    assert_eq!(sent(&mut ledger, 2), ["acknowledge 3", "request 1"]);
    assert!(ledger.has_work());
    assert_eq!(sent(&mut ledger, 9), ["request 2", "request 3", "returned 7"]);
    ledger.give_back(8);
    assert_eq!(sent(&mut ledger, 9), ["returned 8"]);
    assert!(!ledger.has_work());
}

#[tokio::test(start_paused = true)]
async fn on_a_new_stream_everything_answered_is_sent_again_before_it_is_returned() {
    let mut ledger = Ledger::new();
    let now = Instant::now();
    for _ in 0..3 {
        early(&mut ledger, now).unwrap();
    }
    ledger.give_back(7);
    sent(&mut ledger, 9);
    ledger.answered(RequestNumber(2)).unwrap();
    ledger.give_back(8);
    ledger.restart();
    ledger.give_back(0);
    assert_eq!(sent(&mut ledger, 1), ["request 1"]);
    assert_eq!(sent(&mut ledger, 9), ["request 3", "returned 0"]);
    ledger.restart();
    ledger.answered(RequestNumber(1)).unwrap();
    ledger.answered(RequestNumber(3)).unwrap();
    ledger.give_back(0);
    assert_eq!(sent(&mut ledger, 9), ["returned 0"], "nothing is left to be sent");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_answered_early_when_replies_are_late_or_too_much_is_under_way() {
    let mut ledger = Ledger::new();
    let begun = Instant::now();
    for _ in 0..EARLY_MAX {
        early(&mut ledger, begun).unwrap();
    }
    assert_eq!(early(&mut ledger, begun), Err(Full));
    ledger.answered(RequestNumber(5)).unwrap();
    assert!(early(&mut ledger, begun).is_ok());
    ledger.answered(RequestNumber(6)).unwrap();
    let late = begun + EARLY_AGE_MAX;
    assert_eq!(early(&mut ledger, late), Err(Full));

    // An ordinary request that has no reply holds up the window.
    let mut ledger = Ledger::new();
    ledger.add(Caller::ROOT, operation(1), ()).unwrap();
    for number in 2..=REQUEST_WINDOW {
        early(&mut ledger, begun).unwrap();
        ledger.answered(RequestNumber(number)).unwrap();
    }
    assert_eq!(early(&mut ledger, begun), Err(Full));
}
