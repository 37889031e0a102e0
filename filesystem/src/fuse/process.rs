//! What `/proc` tells of the process behind a request: its supplementary groups, and whether a signal waits for it.
//!
//! FUSE requests carry one group only, and fuser answers interrupts with `ENOSYS`. Nothing is cached: a process may drop a group at any time, and
//! the few operations that need this cost a message anyway.

use std::fs;

const SIGKILL_BIT: u64 = 1 << (9 - 1);

/// What waits for a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signals {
    /// Nothing that it would react to.
    None,
    /// A signal that it handles or that would end it.
    Interrupted,
    /// It is being killed, and waits for the reply in order to go.
    Killed,
}

/// The supplementary groups of a thread. `None` where it cannot be seen: in another PID namespace, or gone.
pub fn supplementary_groups(thread: u32) -> Option<Vec<u32>> {
    parse_groups(&status(thread)?)
}

/// The signals that wait for a thread. `None` where it cannot be seen.
pub fn pending_signals(thread: u32) -> Option<Signals> {
    Some(parse_signals(&status(thread)?))
}

fn status(thread: u32) -> Option<String> {
    // 0 stands for a process of another PID namespace, and for the kernel itself.
    if thread == 0 {
        return None;
    }
    // The name of the process (the first line) may be any bytes.
    fs::read(format!("/proc/{thread}/status"))
        .ok()
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    // The first line is the name of the process, which may look like anything: it is skipped.
    status
        .lines()
        .skip(1)
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

fn parse_groups(status: &str) -> Option<Vec<u32>> {
    field(status, "Groups")?
        .split_ascii_whitespace()
        .map(|group| group.parse().ok())
        .collect()
}

fn parse_signals(status: &str) -> Signals {
    let set = |name| {
        field(status, name)
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
            .unwrap_or(0)
    };
    let pending = set("SigPnd") | set("ShdPnd");
    if pending & SIGKILL_BIT != 0 {
        Signals::Killed
    } else if pending & !set("SigBlk") & !set("SigIgn") != 0 {
        Signals::Interrupted
    } else {
        Signals::None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const STATUS: &str = "Name:\tGroups: 9\nState:\tD (disk sleep)\nGroups:\t4 24 1000 \nSigPnd:\t0000000000000000\n\
        ShdPnd:\t0000000000000002\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001000\nSigCgt:\t0000000000000002\n";

    #[test]
    fn groups_are_read_and_the_name_of_the_process_cannot_fake_them() {
        assert_eq!(parse_groups(STATUS), Some(vec![4, 24, 1000]));
        assert_eq!(parse_groups("Name:\tx\nGroups:\t \n"), Some(Vec::new()));
        assert_eq!(parse_groups("Name:\tx\n"), None);
    }

    #[test]
    fn a_signal_counts_unless_it_is_blocked_or_ignored() {
        assert_eq!(parse_signals(STATUS), Signals::Interrupted);
        assert_eq!(
            parse_signals(&STATUS.replace("SigBlk:\t0000000000000000", "SigBlk:\t0000000000000002")),
            Signals::None
        );
        assert_eq!(
            parse_signals(&STATUS.replace("SigIgn:\t0000000000001000", "SigIgn:\t0000000000000002")),
            Signals::None
        );
        assert_eq!(
            parse_signals(&STATUS.replace("ShdPnd:\t0000000000000002", "ShdPnd:\t0000000000000100")),
            Signals::Killed
        );
    }

    #[test]
    fn the_own_process_can_be_seen_and_no_process_cannot() {
        assert!(supplementary_groups(std::process::id()).is_some());
        assert_eq!(pending_signals(std::process::id()), Some(Signals::None));
        assert_eq!(supplementary_groups(0), None);
    }
}
