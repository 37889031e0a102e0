//! What compaction finds, and that rewriting it changes no content.

use twinshore_protocol::Extent;
use twinshore_protocol::operation::{AllocateMode, ExtentExchange};

use super::*;
use crate::core::compaction::{Cursor, Found, Limits, find};
use crate::core::volume;

/// Limits under which everything is worth while, in small pieces.
pub(super) fn limits(extents: usize) -> Limits {
    Limits {
        rows: 20,
        extents,
        bytes: 1000,
        modified_before: None,
        least_sparse_bytes: 1,
        least_extents: 1,
    }
}

/// What a worker has read and will exchange.
pub(super) type Rewriting = Vec<((InodeNumber, Extent), Vec<u8>)>;

impl World {
    pub fn read_for_compaction(&self, extents: Vec<(InodeNumber, Extent)>) -> Rewriting {
        let read = extents.into_iter().map(|found| {
            let ExtentSource::Object {
                object,
                object_offset,
                ..
            } = found.1.source
            else {
                panic!("only what is in objects is compacted: {found:?}")
            };
            let start = usize::try_from(object_offset).unwrap();
            let bytes = &self.store[&object][start..][..usize::try_from(found.1.length).unwrap()];
            let bytes = bytes.to_vec();
            (found, bytes)
        });
        read.collect()
    }

    pub fn rewrite(&mut self, rewriting: Rewriting) -> Result<Reply, Errno> {
        if rewriting.is_empty() {
            return Ok(Reply::Done);
        }
        let content: Vec<u8> = rewriting.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
        let new = self.new_object(&content, Sides::BOTH);
        let mut offset = 0;
        let mut exchanges = Vec::new();
        for ((inode, old), _) in rewriting {
            let source = ExtentSource::Object {
                object: new.object,
                object_offset: offset,
                present: new.present,
            };
            offset += old.length;
            exchanges.push(ExtentExchange {
                inode,
                old,
                new: source,
            });
        }
        self.run(&Operation::Repoint {
            objects: vec![new],
            exchanges,
        })
    }

    /// A whole pass. Tells what was rewritten.
    fn compact(&mut self, limits: Limits) -> Vec<(InodeNumber, Extent)> {
        let mut rewritten = Vec::new();
        let mut cursor = Some(Cursor::START);
        for _ in 0..10_000 {
            let Some(at) = cursor else { return rewritten };
            let Found { extents, next, rows } = find(&self.view, at, limits).unwrap();
            assert!(rows < limits.rows + 300, "a search is bounded: {rows} rows");
            assert!(extents.len() <= limits.extents.max(2));
            rewritten.extend(extents.iter().cloned());
            let read = self.read_for_compaction(extents);
            self.rewrite(read).unwrap();
            cursor = next;
        }
        panic!("a pass does not end")
    }

    fn live(&mut self) -> Vec<(u64, u64)> {
        let Reply::Objects(objects) = self
            .run(&Operation::ListObjects {
                after: None,
                limit: 10_000,
            })
            .unwrap()
        else {
            panic!()
        };
        let live = objects.iter().filter(|object| object.live_bytes > 0);
        live.map(|object| (object.live_bytes, object.content_bytes))
            .collect()
    }

    /// One object that many files share, each with 10 bytes of it.
    fn packed(&mut self, files: u8) -> Vec<InodeNumber> {
        let content: Vec<u8> = (0..files).flat_map(|file| [file; 10]).collect();
        let new = self.new_object(&content, Sides::BOTH);
        let mut packed = Vec::new();
        for file in 0..files {
            let inode = self.create(ROOT, &format!("packed-{}-{file}", new.object.number));
            let source = ExtentSource::Object {
                object: new.object,
                object_offset: u64::from(file) * 10,
                present: new.present,
            };
            let objects = if file == 0 { vec![new] } else { Vec::new() };
            self.write_source(inode, 0, 10, source, &objects).unwrap();
            packed.push(inode);
        }
        packed
    }
}

#[test]
fn what_is_left_of_a_packed_object_moves_and_the_object_dies() {
    let mut world = World::new();
    let first = world.packed(40);
    let second = world.packed(40);
    for (index, inode) in first.iter().chain(&second).enumerate() {
        if index % 10 != 0 {
            world.truncate(*inode, 0).unwrap();
        }
    }
    let sums = volume::totals(&world.view).unwrap();
    assert_eq!((sums.sparse.count, sums.sparse.bytes), (2, 720));
    let rewritten = world.compact(limits(100));
    assert_eq!(rewritten.len(), 8);
    assert_eq!(world.live(), [(80, 80)]);
    for (index, inode) in first.iter().enumerate() {
        let expected = if index % 10 == 0 {
            vec![u8::try_from(index).unwrap(); 10]
        } else {
            Vec::new()
        };
        assert_eq!(world.content(*inode), expected);
    }
    let sums = volume::totals(&world.view).unwrap();
    assert_eq!((sums.sparse.count, sums.sparse.bytes), (0, 0));
    assert_eq!(world.compact(limits(100)), [], "nothing is left to do");
}

#[test]
fn a_file_of_many_small_extents_becomes_one_extent() {
    let mut world = World::new();
    let file = world.create(ROOT, "file");
    world.write_object(file, 0, &[7; 1000], Sides::BOTH).unwrap();
    for at in [500_u16, 0, 990, 300, 700, 305, 310, 100] {
        world
            .write_object(file, u64::from(at), &[at.to_le_bytes()[0] | 1; 10], Sides::BOTH)
            .unwrap();
    }
    let (content, attributes) = (world.content(file), world.stat(file));
    assert_eq!(volume::totals(&world.view).unwrap().fragmented, 1);
    world.compact(limits(100));
    assert_eq!(world.content(file), content);
    assert_eq!(world.stat(file), attributes, "no attribute changes");
    assert_eq!(world.live(), [(1000, 1000)]);
    assert_eq!(volume::totals(&world.view).unwrap().fragmented, 0);
}

#[test]
fn holes_reserved_space_and_inline_bytes_are_never_rewritten() {
    let mut world = World::new();
    let file = world.create(ROOT, "file");
    for at in 0..20_u64 {
        world.write_object(file, at * 100, &[1; 50], Sides::BOTH).unwrap();
    }
    let reserve = Operation::Allocate {
        inode: file,
        offset: 50,
        length: 50,
        mode: AllocateMode::Reserve { keep_size: true },
    };
    world.run(&reserve).unwrap();
    world.write_inline(file, 150, &[2; 50]).unwrap();
    assert_eq!(volume::totals(&world.view).unwrap().fragmented, 1);
    assert_eq!(world.compact(limits(100)), [], "no two of them follow each other");
}

#[test]
fn young_files_and_small_gains_are_left() {
    let mut world = World::new();
    let files = world.packed(10);
    for inode in &files[1..] {
        world.truncate(*inode, 0).unwrap();
    }
    let modified = world.stat(files[0]).modified;
    let young = Limits {
        modified_before: Some(modified.plus_seconds(-1)),
        ..limits(100)
    };
    assert_eq!(world.compact(young), []);
    let little = Limits {
        least_sparse_bytes: 91,
        ..limits(100)
    };
    assert_eq!(world.compact(little), []);
    let old = Limits {
        modified_before: Some(modified),
        least_sparse_bytes: 90,
        ..limits(100)
    };
    assert_eq!(world.compact(old).len(), 1);
}

#[test]
fn what_a_writer_changed_meanwhile_stays_as_the_writer_left_it() {
    let mut world = World::new();
    let files = world.packed(10);
    for inode in &files[3..] {
        world.truncate(*inode, 0).unwrap();
    }
    let found = find(&world.view, Cursor::START, limits(100)).unwrap();
    let read = world.read_for_compaction(found.extents);
    world.write_inline(files[0], 5, b"new").unwrap();
    world.truncate(files[1], 4).unwrap();
    world.rewrite(read).unwrap();
    assert_eq!(world.content(files[0]), b"\0\0\0\0\0new\0\0");
    assert_eq!(world.content(files[1]), [1; 4]);
    assert_eq!(world.content(files[2]), [2; 10]);
}

#[test]
fn files_in_the_trash_and_clones_are_moved_too() {
    let mut world = World::with_trash();
    let files = world.packed(20);
    let clone = world.create(ROOT, "clone");
    let copied = world.run(&Operation::CopyRange {
        source: files[3],
        source_offset: 0,
        destination: clone,
        destination_offset: 0,
        length: 10,
    });
    assert!(copied.is_ok());
    for (index, inode) in files.iter().enumerate() {
        if index != 3 && index != 4 {
            world.truncate(*inode, 0).unwrap();
        }
    }
    let listed = world.list(ROOT, 100);
    let (name, _) = listed.iter().find(|(_, (inode, _))| *inode == files[4]).unwrap();
    world.unlink(ROOT, &name.to_string()).unwrap();
    assert_eq!(world.compact(limits(2)).len(), 3);
    assert!(world.live().iter().all(|(live, content)| live == content));
    assert_eq!(world.content(files[3]), [3; 10]);
    assert_eq!(world.content(files[4]), [4; 10]);
    assert_eq!(world.content(clone), [3; 10]);
}

#[test]
fn a_pass_goes_on_over_any_number_of_pieces() {
    let mut world = World::new();
    let mut left = Vec::new();
    for _ in 0..10 {
        let files = world.packed(30);
        for (index, inode) in files.into_iter().enumerate() {
            if index % 7 == 0 {
                left.push((inode, u8::try_from(index).unwrap()));
            } else {
                world.truncate(inode, 0).unwrap();
            }
        }
    }
    assert_eq!(world.compact(limits(3)).len(), left.len());
    assert!(world.live().iter().all(|(live, content)| live == content));
    for (inode, byte) in left {
        assert_eq!(world.content(inode), [byte; 10]);
    }
}
