//! Random programs against an array of bytes.

use proptest::prelude::*;
use twinshore_protocol::attributes::AttributeChanges;
use twinshore_protocol::operation::AllocateMode;
use twinshore_protocol::{Caller, Side};

use super::world::{Mount, World, pattern};

#[derive(Clone, Debug)]
enum Act {
    Write {
        offset: u64,
        length: usize,
    },
    Truncate(u64),
    Allocate {
        offset: u64,
        length: u64,
        mode: AllocateMode,
    },
    Read {
        offset: u64,
        length: usize,
    },
    Flush,
    Pause(u64),
    ForgetBlocks,
    /// The other mount takes over.
    Switch,
}

const LARGEST: u64 = 200_000;

fn act() -> impl Strategy<Value = Act> {
    let mode = prop_oneof![
        Just(AllocateMode::PunchHole),
        Just(AllocateMode::Zero { keep_size: false }),
        Just(AllocateMode::Zero { keep_size: true }),
        Just(AllocateMode::Reserve { keep_size: false }),
    ];
    prop_oneof![
        8 => (0..LARGEST, prop_oneof![1usize..500, 1usize..70_000]).prop_map(|(offset, length)| Act::Write { offset, length }),
        2 => (0..LARGEST).prop_map(Act::Truncate),
        1 => (0..LARGEST, 1..LARGEST / 2, mode).prop_map(|(offset, length, mode)| Act::Allocate { offset, length, mode }),
        6 => (0..LARGEST, 1usize..100_000).prop_map(|(offset, length)| Act::Read { offset, length }),
        3 => Just(Act::Flush),
        2 => (1u64..3000).prop_map(Act::Pause),
        1 => Just(Act::ForgetBlocks),
        1 => Just(Act::Switch),
    ]
}

async fn run(acts: Vec<Act>) {
    let world = World::new();
    let mut options = World::options();
    options.object_size_bytes = 32 << 10;
    options.buffer_size_bytes = 256 << 10;
    let mounts: [Mount; 2] = [
        world.mount_with(Side::Primary, options.clone()).await,
        world.mount_with(Side::Target, options).await,
    ];
    let file = mounts[0].create("f").await;
    let files = [file, mounts[1].open("f").await];
    let mut active = 0;
    let mut model: Vec<u8> = Vec::new();
    for (step, act) in acts.into_iter().enumerate() {
        let (mount, file) = (&mounts[active], files[active]);
        match act {
            Act::Write { offset, length } => {
                let data = pattern(step as u64 + 1, length);
                mount.write(file, offset, &data).await;
                let end = offset as usize + length;
                if model.len() < end {
                    model.resize(end, 0);
                }
                model[offset as usize..end].copy_from_slice(&data);
            }
            Act::Truncate(size) => {
                let changes = AttributeChanges {
                    size_bytes: Some(size),
                    ..AttributeChanges::default()
                };
                mount
                    .vfs
                    .set_attributes(Caller::ROOT, file.0, changes)
                    .await
                    .unwrap();
                model.resize(size as usize, 0);
            }
            Act::Allocate { offset, length, mode } => {
                mount
                    .vfs
                    .allocate(Caller::ROOT, file.0, offset, length, mode)
                    .await
                    .unwrap();
                let (start, end) = (offset as usize, (offset + length) as usize);
                let grows = matches!(
                    mode,
                    AllocateMode::Reserve { keep_size: false } | AllocateMode::Zero { keep_size: false }
                );
                if grows && model.len() < end {
                    model.resize(end, 0);
                }
                if !matches!(mode, AllocateMode::Reserve { .. }) {
                    let end = end.min(model.len());
                    model[start.min(end)..end].fill(0);
                }
            }
            Act::Read { offset, length } => {
                let start = (offset as usize).min(model.len());
                let expected = &model[start..(start + length).min(model.len())];
                if let Some(bytes) = mount.vfs.cached_read(file.0, file.1, offset, length as u32) {
                    assert_eq!(bytes, expected);
                }
                assert_eq!(mount.read(file, offset, length).await, expected);
            }
            Act::Flush => mount.flush(file).await.unwrap(),
            Act::Pause(milliseconds) => {
                tokio::time::sleep(std::time::Duration::from_millis(milliseconds)).await;
            }
            Act::ForgetBlocks => mount.blocks.map.lock().unwrap().clear(),
            Act::Switch => {
                mount.flush(file).await.unwrap();
                active = 1 - active;
            }
        }
        let (mount, file) = (&mounts[active], files[active]);
        let size = mount
            .vfs
            .attributes(Caller::ROOT, file.0)
            .await
            .unwrap()
            .attributes
            .size_bytes;
        assert_eq!(size, model.len() as u64);
    }
    for (mount, file) in mounts.iter().zip(files) {
        mount.flush(file).await.unwrap();
    }
    for (mount, file) in mounts.iter().zip(files) {
        assert_eq!(mount.vfs.unwritten_bytes(), 0);
        mount.blocks.map.lock().unwrap().clear();
        assert_eq!(mount.read(file, 0, 1 << 20).await, model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]
    #[test]
    fn a_file_holds_what_an_array_of_bytes_holds(acts in prop::collection::vec(act(), 1..60)) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(run(acts));
    }
}
