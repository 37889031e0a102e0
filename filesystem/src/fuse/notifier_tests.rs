#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use twinshore_protocol::FileName;

use super::*;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Sent {
    Attributes(u64),
    Content(u64),
    Entry(u64, Vec<u8>),
    AllEntries,
}

/// Records what it is told; stands still while its gate is closed.
struct Recorder {
    sent: Mutex<Vec<Sent>>,
    gate: Mutex<bool>,
    opened: Condvar,
    entered: Mutex<Sender<()>>,
    recorded: Condvar,
}

impl Recorder {
    fn record(&self, sent: Sent) {
        self.entered.lock().unwrap().send(()).ok();
        let mut open = self.gate.lock().unwrap();
        while !*open {
            open = self.opened.wait(open).unwrap();
        }
        drop(open);
        self.sent.lock().unwrap().push(sent);
        self.recorded.notify_all();
    }

    fn wait_for(&self, wanted: &Sent) {
        let sent = self.sent.lock().unwrap();
        let missing = |sent: &mut Vec<Sent>| !sent.contains(wanted);
        let result = self.recorded.wait_timeout_while(sent, LONG, missing).unwrap();
        assert!(!result.1.timed_out(), "{wanted:?} was not sent");
    }

    fn open(&self) {
        *self.gate.lock().unwrap() = true;
        self.opened.notify_all();
    }

    fn sent(&self) -> Vec<Sent> {
        self.sent.lock().unwrap().clone()
    }
}

impl Kernel for Recorder {
    fn inval_inode(&self, inode: InodeNumber, content: bool) -> std::io::Result<()> {
        self.record(if content {
            Sent::Content(inode.0)
        } else {
            Sent::Attributes(inode.0)
        });
        Ok(())
    }

    fn inval_entry(&self, parent: InodeNumber, name: &[u8]) -> std::io::Result<()> {
        self.record(Sent::Entry(parent.0, name.to_vec()));
        Ok(())
    }

    fn inval_all_entries(&self) -> std::io::Result<()> {
        // It needs no lock, so no gate holds it up.
        self.sent.lock().unwrap().push(Sent::AllEntries);
        Ok(())
    }
}

fn start(open: bool) -> (Arc<KernelNotifier>, Arc<Recorder>, Receiver<()>) {
    let (entered, receiver) = channel();
    let recorder = Arc::new(Recorder {
        sent: Mutex::default(),
        gate: Mutex::new(open),
        opened: Condvar::new(),
        entered: Mutex::new(entered),
        recorded: Condvar::new(),
    });
    let notifier = KernelNotifier::start().unwrap();
    notifier.attach(Some(recorder.clone()));
    (notifier, recorder, receiver)
}

fn invalidate(notifier: &KernelNotifier, items: Vec<Invalidation>) -> Receiver<()> {
    let (sender, receiver) = channel();
    notifier.invalidate(items, Box::new(move || sender.send(()).unwrap()));
    receiver
}

const LONG: Duration = Duration::from_mins(1);

#[test]
fn done_runs_only_after_the_kernel_was_told_everything() {
    let (notifier, recorder, entered) = start(false);
    let name = FileName::new(*b"name").unwrap();
    let done = invalidate(
        &notifier,
        vec![
            Invalidation::Attributes(InodeNumber(4)),
            Invalidation::Content(InodeNumber(5)),
            Invalidation::Entry(InodeNumber(4), name),
        ],
    );
    entered.recv_timeout(LONG).unwrap();
    assert_eq!(done.try_recv(), Err(std::sync::mpsc::TryRecvError::Empty));
    recorder.open();
    done.recv_timeout(LONG).unwrap();
    let sent = recorder.sent();
    assert_eq!(sent.len(), 3);
    for item in [
        Sent::Attributes(4),
        Sent::Content(5),
        Sent::Entry(4, b"name".to_vec()),
    ] {
        assert!(sent.contains(&item), "{sent:?}");
    }
}

#[test]
fn no_batch_waits_for_a_name_whose_directory_a_request_of_the_mount_holds() {
    let (notifier, recorder, entered) = start(false);
    let drop_name = |name: &[u8]| {
        let name = FileName::new(name.to_vec()).unwrap();
        invalidate(&notifier, vec![Invalidation::Entry(InodeNumber(4), name)])
    };
    let stuck = drop_name(b"one");
    let queued = drop_name(b"two");
    entered.recv_timeout(LONG).unwrap();
    assert!(stuck.try_recv().is_err() && queued.try_recv().is_err());
    notifier.changing_names();
    stuck.recv_timeout(LONG).unwrap();
    queued.recv_timeout(LONG).unwrap();
    drop_name(b"three").recv_timeout(LONG).unwrap();
    assert!(recorder.sent().contains(&Sent::AllEntries));
    notifier.changed_names();
    let later = drop_name(b"four");
    assert!(later.try_recv().is_err());
    recorder.open();
    later.recv_timeout(LONG).unwrap();
    assert!(recorder.sent().contains(&Sent::Entry(4, b"four".to_vec())));
}

#[test]
fn a_stuck_inode_does_not_hold_others_back_and_a_waiting_item_is_sent_once() {
    let (notifier, recorder, entered) = start(false);
    let stuck = invalidate(&notifier, vec![Invalidation::Content(InodeNumber(4))]);
    entered.recv_timeout(LONG).unwrap();
    let again: Vec<_> = (0..10)
        .map(|_| invalidate(&notifier, vec![Invalidation::Attributes(InodeNumber(4))]))
        .collect();
    let other = invalidate(&notifier, vec![Invalidation::Content(InodeNumber(5))]);
    entered.recv_timeout(LONG).unwrap();
    recorder.open();
    for done in [stuck, other].into_iter().chain(again) {
        done.recv_timeout(LONG).unwrap();
    }
    let repeated = recorder
        .sent()
        .into_iter()
        .filter(|sent| *sent == Sent::Attributes(4))
        .count();
    assert_eq!(repeated, 1);
}

#[test]
fn an_item_that_is_being_sent_is_sent_again_if_it_comes_again() {
    let (notifier, recorder, entered) = start(false);
    let first = invalidate(&notifier, vec![Invalidation::Content(InodeNumber(4))]);
    entered.recv_timeout(LONG).unwrap();
    let second = invalidate(&notifier, vec![Invalidation::Content(InodeNumber(4))]);
    recorder.open();
    first.recv_timeout(LONG).unwrap();
    second.recv_timeout(LONG).unwrap();
    assert_eq!(recorder.sent(), [Sent::Content(4), Sent::Content(4)]);
}

#[test]
fn too_many_items_become_one_drop_of_everything_and_all_are_done() {
    let (notifier, recorder, entered) = start(false);
    notifier.opened(InodeNumber(9));
    let mut done = vec![invalidate(&notifier, vec![Invalidation::Content(InodeNumber(4))])];
    entered.recv_timeout(LONG).unwrap();
    let many = |from: u64| {
        (from..from + 60_000)
            .map(|number| Invalidation::Attributes(InodeNumber(number * 4)))
            .collect()
    };
    done.push(invalidate(&notifier, many(10)));
    done.push(invalidate(&notifier, many(100_000)));
    recorder.open();
    for done in done {
        done.recv_timeout(LONG).unwrap();
    }
    let sent = recorder.sent();
    assert!(sent.contains(&Sent::AllEntries) && sent.contains(&Sent::Content(9)));
    assert!(sent.len() < 60_000, "{} notifications", sent.len());
}

#[test]
fn everything_is_dropped_for_files_that_are_open_and_not_for_closed_ones() {
    let (notifier, recorder, _entered) = start(true);
    for _ in 0..2 {
        notifier.opened(InodeNumber(7));
        notifier.opened(InodeNumber(8));
    }
    notifier.released(InodeNumber(7));
    notifier.released(InodeNumber(8));
    notifier.released(InodeNumber(8));
    notifier.drop_everything();
    // A later item of each lane comes after what was queued there.
    for inode in 20..24 {
        invalidate(&notifier, vec![Invalidation::Attributes(InodeNumber(inode))])
            .recv_timeout(LONG)
            .unwrap();
    }
    // Entries have a lane of their own.
    recorder.wait_for(&Sent::AllEntries);
    let sent = recorder.sent();
    assert!(sent.contains(&Sent::Content(7)) && !sent.contains(&Sent::Content(8)));
}

#[test]
fn without_a_kernel_and_after_the_end_items_are_done_at_once() {
    let notifier = KernelNotifier::start().unwrap();
    invalidate(&notifier, vec![Invalidation::Content(InodeNumber(1))])
        .recv_timeout(LONG)
        .unwrap();
    notifier.stop();
    let done = invalidate(&notifier, vec![Invalidation::Content(InodeNumber(1))]);
    assert_ne!(done.recv_timeout(LONG), Err(RecvTimeoutError::Timeout));
}
