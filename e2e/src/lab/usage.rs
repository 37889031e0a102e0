//! What processes use: a process with all that descend from it.

use std::collections::HashMap;
use std::fs;

/// Memory and processor time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Bytes, pages that several share counted in parts.
    pub memory_bytes: u64,
    /// Clock ticks (hundredths of a second) of processor since each process started.
    pub processor_ticks: u64,
    /// How many processes.
    pub processes: usize,
}

/// A look at all processes of the machine.
pub struct Processes {
    children: HashMap<i32, Vec<i32>>,
    ticks: HashMap<i32, u64>,
}

impl Processes {
    /// Now.
    pub fn look() -> Self {
        let mut look = Self {
            children: HashMap::new(),
            ticks: HashMap::new(),
        };
        let entries = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
        for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
            let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
                continue;
            };
            if let Some((parent, ticks)) = parent_and_ticks(&stat) {
                look.children.entry(parent).or_default().push(pid);
                look.ticks.insert(pid, ticks);
            }
        }
        look
    }

    /// Of a process and its descendants.
    pub fn usage(&self, of: i32) -> Usage {
        let mut usage = Usage::default();
        let mut open = vec![of];
        while let Some(pid) = open.pop() {
            usage.processes += 1;
            usage.processor_ticks += self.ticks.get(&pid).copied().unwrap_or(0);
            usage.memory_bytes += proportional_bytes(pid);
            open.extend(self.children.get(&pid).into_iter().flatten());
        }
        usage
    }
}

/// The fourth field, and the sum of the fourteenth and fifteenth of `/proc/PID/stat`.
fn parent_and_ticks(stat: &str) -> Option<(i32, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let user: u64 = fields.nth(9)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((parent, user + system))
}

fn proportional_bytes(pid: i32) -> u64 {
    fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix("Pss:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok())
        .map_or(0, |kibibytes| kibibytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parent_and_time_are_read_whatever_the_program_is_called() {
        let stat = "77 (a) 1 (b) S 5 77 77 0 -1 4194560 1 2 3 4 30 12 7 8 20 0 1 0 4711";
        assert_eq!(parent_and_ticks(stat), Some((5, 42)));
    }
}
