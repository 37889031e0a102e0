#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;
use twinshore_protocol::{FileName, FileType, InodeNumber};

use super::*;

fn entry(cookie: u64, number: u64, name_bytes: usize) -> ListedEntry {
    let mut name = format!("{number:06}").into_bytes();
    name.resize(name_bytes.max(6), b'x');
    ListedEntry {
        name: FileName::new(name).unwrap(),
        inode: InodeNumber(number + 2),
        kind: FileType::Regular,
        cookie,
        attributes: None,
    }
}

/// Lists as the kernel does: buffer after buffer, each going on after the offset of the last entry of the one before.
fn list_all(entries: &[ListedEntry], buffer_bytes: usize, header_bytes: usize) -> Vec<FileName> {
    let mut listed = Vec::new();
    let mut offset = 0;
    loop {
        let rest: Vec<_> = entries
            .iter()
            .filter(|entry| entry.cookie > offset)
            .cloned()
            .collect();
        let mut free = buffer_bytes;
        let taken = fill(&rest, 0, header_bytes, |entry| {
            let size = (header_bytes + entry.name.as_bytes().len()).next_multiple_of(8);
            if size > free {
                return true;
            }
            free -= size;
            listed.push(entry.name.clone());
            offset = entry.cookie;
            false
        });
        if taken == 0 {
            assert!(rest.is_empty(), "a buffer stayed empty although there is more");
            return listed;
        }
    }
}

proptest! {
    #[test]
    fn every_entry_is_listed_exactly_once_whatever_cookies_are_equal(
        steps in prop::collection::vec((0_u64..3, 6_usize..255), 1..300),
        buffer_pages in 1_usize..9,
        plus in any::<bool>(),
    ) {
        let mut cookie = 3;
        let mut twins = 0;
        let entries: Vec<_> = (0..).zip(steps).map(|(number, (step, name_bytes))| {
            // Equal cookies come from collisions of a 63-bit hash: more than eight in a row do not exist.
            twins = if step == 0 && twins < 8 { twins + 1 } else { 0 };
            cookie += if twins > 0 { 0 } else { step.max(1) };
            entry(cookie, number, name_bytes)
        }).collect();
        let header_bytes = if plus { PLUS_HEADER_BYTES } else { PLAIN_HEADER_BYTES };
        let expected: Vec<_> = entries.iter().map(|entry| entry.name.clone()).collect();
        prop_assert_eq!(list_all(&entries, buffer_pages * 4096, header_bytes), expected);
    }
}

#[test]
fn twins_that_might_not_fit_are_left_for_the_next_buffer() {
    let entries = [entry(5, 0, 200), entry(6, 1, 200), entry(6, 2, 200)];
    assert_eq!(fill(&entries, 0, PLAIN_HEADER_BYTES, |_| false), 3);
    assert_eq!(fill(&entries, 3800, PLAIN_HEADER_BYTES, |_| false), 1);
    assert_eq!(fill(&entries[1..], 3900, PLAIN_HEADER_BYTES, |_| false), 0);
}
