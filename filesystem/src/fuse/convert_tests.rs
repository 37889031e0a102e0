#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;

use super::*;

/// What fuser 0.18 makes of the kernel's numbers.
fn as_fuser_reads(seconds: i64, nanoseconds: u32) -> SystemTime {
    if seconds >= 0 {
        UNIX_EPOCH + Duration::new(seconds.unsigned_abs(), nanoseconds)
    } else {
        UNIX_EPOCH - Duration::new(seconds.unsigned_abs(), nanoseconds)
    }
}

/// What fuser 0.18 sends to the kernel.
fn as_fuser_writes(time: SystemTime) -> (i64, u32) {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (after.as_secs().cast_signed(), after.subsec_nanos()),
        Err(before) if before.duration().subsec_nanos() == 0 => {
            (-before.duration().as_secs().cast_signed(), 0)
        }
        Err(before) => (
            -before.duration().as_secs().cast_signed() - 1,
            1_000_000_000 - before.duration().subsec_nanos(),
        ),
    }
}

proptest! {
    #[test]
    fn a_time_that_a_program_sets_is_the_time_that_it_reads(
        seconds in -100_000_000_000_i64..100_000_000_000, nanoseconds in 0_u32..1_000_000_000,
    ) {
        let ours = timestamp(as_fuser_reads(seconds, nanoseconds));
        prop_assert_eq!(ours, Timestamp { seconds, nanoseconds });
        prop_assert_eq!(as_fuser_writes(system_time(ours)), (seconds, nanoseconds));
    }
}

#[test]
fn times_at_the_ends_of_what_can_be_said_do_not_panic() {
    for seconds in [i64::MIN, i64::MIN + 1, i64::MAX] {
        let _ = system_time(Timestamp {
            seconds,
            nanoseconds: 999_999_999,
        });
    }
}

#[test]
fn every_errno_is_the_number_that_linux_knows() {
    assert_eq!(errno(Errno::NotFound).code(), 2);
    assert_eq!(errno(Errno::NotSupported).code(), 95);
    assert_eq!(errno(Errno::QuotaExceeded).code(), 122);
}

#[test]
fn mknod_makes_every_type_but_directories_and_links() {
    for (mode, expected) in [
        (0o644, Some(FileType::Regular)),
        (0o100_644, Some(FileType::Regular)),
        (0o010_600, Some(FileType::Fifo)),
        (0o140_777, Some(FileType::Socket)),
        (0o020_666, Some(FileType::CharacterDevice)),
        (0o060_660, Some(FileType::BlockDevice)),
        (0o040_755, None),
        (0o120_777, None),
    ] {
        assert_eq!(node_kind(mode), expected, "{mode:o}");
    }
    assert_eq!(permissions(0o107_777), 0o7777);
}

#[test]
fn fallocate_knows_three_things_and_refuses_those_that_move_bytes() {
    assert_eq!(allocate_mode(0), Ok(AllocateMode::Reserve { keep_size: false }));
    assert_eq!(allocate_mode(1), Ok(AllocateMode::Reserve { keep_size: true }));
    assert_eq!(allocate_mode(3), Ok(AllocateMode::PunchHole));
    assert_eq!(allocate_mode(16), Ok(AllocateMode::Zero { keep_size: false }));
    assert_eq!(allocate_mode(17), Ok(AllocateMode::Zero { keep_size: true }));
    for refused in [2, 8, 32, 64, 128] {
        assert_eq!(allocate_mode(refused), Err(Errno::NotSupported), "{refused}");
    }
}

#[test]
fn flags_of_open_rename_and_setxattr_are_understood() {
    assert_eq!(open_flags(0), OpenFlags::default());
    let flags = open_flags(0o2 | O_APPEND | O_TRUNC | O_DIRECT | 0o4_010_000);
    assert!(flags.write && flags.append && flags.truncate && flags.direct && flags.synchronous);
    assert!(is_exclusive(0o300) && !is_exclusive(0o100));
    assert_eq!(rename_mode(RenameFlags::empty()), Ok(RenameMode::Replace));
    assert_eq!(
        rename_mode(RenameFlags::RENAME_EXCHANGE),
        Ok(RenameMode::Exchange)
    );
    assert_eq!(rename_mode(RenameFlags::RENAME_WHITEOUT), Err(Errno::Invalid));
    assert_eq!(
        rename_mode(RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_EXCHANGE),
        Err(Errno::Invalid)
    );
    assert_eq!(
        (set_mode(0), set_mode(1), set_mode(2)),
        (Ok(SetMode::Any), Ok(SetMode::Create), Ok(SetMode::Replace))
    );
    assert_eq!(set_mode(3), Err(Errno::Invalid));
}

#[test]
fn a_lock_to_the_end_of_the_file_keeps_its_meaning_in_both_directions() {
    assert_eq!(lock_end(OFFSET_MAX), u64::MAX);
    assert_eq!(kernel_lock_end(u64::MAX), OFFSET_MAX);
    assert_eq!((lock_end(99), kernel_lock_end(99)), (99, 99));
    for kind in [LockKind::Read, LockKind::Write, LockKind::Unlock] {
        assert_eq!(lock_kind(lock_type(kind)), Ok(kind));
    }
}

#[test]
fn the_smallest_time_is_what_fuser_makes_of_it() {
    // fuser negates `i64::MIN`, which wraps around to itself, and takes it away as a duration. The kernel sets the nanoseconds
    // of this one time to zero.
    let smallest = UNIX_EPOCH - Duration::from_secs(i64::MIN.unsigned_abs());
    let expected = Timestamp {
        seconds: i64::MIN,
        nanoseconds: 0,
    };
    assert_eq!(timestamp(smallest), expected);
    assert_eq!(system_time(expected), smallest);
}
