#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use tokio::time::Instant;
use twinshore_storage::fault::{Faults, FaultyBucket};
use twinshore_storage::object::object_key;

use super::*;
use crate::double::{Region, body, id};

const PRIMARY: Sides = Sides::only(Side::Primary);
const TARGET: Sides = Sides::only(Side::Target);

/// Buckets are dated by the time since they were made; the clock of the synchroniser agrees.
fn options(verified_of_10000: u64) -> SynchroniserOptions {
    let start = Instant::now();
    let clock = Arc::new(move || i64::try_from(start.elapsed().as_secs()).unwrap());
    SynchroniserOptions {
        verified_of_10000,
        orphan_grace: Duration::from_hours(1),
        ..SynchroniserOptions::new(clock)
    }
}

async fn synchronise(
    region: &Region,
    options: SynchroniserOptions,
    after: Option<ObjectId>,
) -> SynchronisationReport {
    let synchroniser = Synchroniser::new(region.service.session().await, region.pair.clone(), options);
    synchroniser.run(after, &Notify::new()).await;
    region.service.lock().synchronisation.last().unwrap().clone()
}

fn present(region: &Region, number: u64) -> Sides {
    region.service.lock().objects[&id(number)].present
}

fn damage(region: &Region, side: Side, number: u64, with: Option<bytes::Bytes>) {
    region.buckets[side as usize].tamper(&object_key(id(number)), with);
}

#[tokio::test(start_paused = true)]
async fn a_volume_in_order_has_no_findings() {
    let region = Region::new();
    for number in 0..500 {
        region.store(number, 20, if number % 3 == 0 { PRIMARY } else { Sides::BOTH });
    }
    let report = synchronise(&region, options(0), None).await;
    assert!(report.finished && report.absent.is_empty() && report.present.is_empty());
    assert_eq!(
        report.counts,
        SynchronisationCounts {
            objects_checked: 500,
            ..SynchronisationCounts::default()
        }
    );
    assert_eq!(report.checked_until, Some(id(499)));
}

#[tokio::test(start_paused = true)]
async fn every_kind_of_difference_is_found_and_nothing_else() {
    let region = Region::new();
    for number in 0..20 {
        region.store(number, 20, Sides::BOTH);
    }
    damage(&region, Side::Primary, 1, None);
    damage(&region, Side::Target, 2, None);
    damage(&region, Side::Target, 3, Some(body(3, 19)));
    // In neither bucket.
    damage(&region, Side::Primary, 4, None);
    damage(&region, Side::Target, 4, None);
    // There, but metadata does not know; another one is there under the right size with wrong bytes.
    region.service.lock().objects.get_mut(&id(5)).unwrap().present = PRIMARY;
    region.service.lock().objects.get_mut(&id(6)).unwrap().present = PRIMARY;
    damage(&region, Side::Target, 6, Some(body(77, 20)));
    // Dead, and gone already.
    region.service.lock().objects.get_mut(&id(7)).unwrap().live_bytes = 0;
    damage(&region, Side::Primary, 7, None);
    let report = synchronise(&region, options(0), None).await;
    let (mut absent, present_found) = (report.absent, report.present);
    absent.sort_unstable();
    assert_eq!(
        absent,
        [
            (id(1), Side::Primary),
            (id(2), Side::Target),
            (id(3), Side::Target),
            (id(4), Side::Primary),
            (id(4), Side::Target),
        ]
    );
    assert_eq!(present_found, [(id(5), Side::Target)]);
    let expected = SynchronisationCounts {
        objects_checked: 19,
        missing: 4,
        damaged: 1,
        lost: 1,
        orphans_removed: 0,
        checksums_verified: 1,
    };
    assert_eq!(report.counts, expected);
    // A second one finds what is owed, not the same again; the lost object stays lost.
    let again = synchronise(&region, options(0), None).await;
    assert!(again.absent.is_empty() && again.present.is_empty());
    assert_eq!((again.counts.missing, again.counts.lost), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn checksums_are_verified_and_a_damaged_copy_is_owed_again() {
    let region = Region::new();
    for number in 0..50 {
        region.store(number, 20, Sides::BOTH);
    }
    damage(&region, Side::Primary, 9, Some(body(1000, 20)));
    let unnoticed = synchronise(&region, options(0), None).await;
    assert_eq!(unnoticed.counts.damaged, 0);
    let report = synchronise(&region, options(10_000), None).await;
    assert_eq!(report.absent, [(id(9), Side::Primary)]);
    assert_eq!(
        (
            report.counts.checksums_verified,
            report.counts.damaged,
            report.counts.lost
        ),
        (99, 1, 0)
    );
    assert_eq!(present(&region, 9), TARGET);
}

#[tokio::test(start_paused = true)]
async fn only_orphans_beyond_the_grace_time_are_removed() {
    let region = Region::new();
    let options = options(0);
    for number in 0..10 {
        region.store(number, 20, Sides::BOTH);
    }
    region.store(100, 20, Sides::BOTH);
    region.store(101, 20, PRIMARY);
    tokio::time::advance(Duration::from_secs(3601)).await;
    region.store(102, 20, Sides::BOTH);
    region.store(103, 20, PRIMARY);
    // Old on one side, being copied to the other right now.
    damage(&region, Side::Target, 101, Some(body(101, 20)));
    for number in 100..104 {
        region.service.lock().objects.remove(&id(number)).unwrap();
    }
    region.buckets[0].tamper("journal/segment-1", Some(body(1, 1)));
    region.buckets[0].tamper("objects/00/not-an-object", Some(body(1, 1)));
    tokio::time::advance(Duration::from_secs(10)).await;
    let report = synchronise(&region, options, None).await;
    assert_eq!(report.counts.orphans_removed, 1);
    let left = |number| Side::BOTH.map(|side| region.has(side, number));
    assert_eq!(left(100), [false, false]);
    assert_eq!(left(101), [true, true]);
    assert_eq!(left(102), [true, true]);
    assert_eq!(left(103), [true, false]);
    assert_eq!(region.buckets[0].keys().len(), 10 + 3 + 2);
}

#[tokio::test(start_paused = true)]
async fn an_orphan_that_is_committed_at_the_last_moment_stays() {
    let region = Region::new();
    let options = options(0);
    let record = region.store(7, 20, Sides::BOTH);
    region.service.lock().objects.clear();
    region.service.lock().appears_when_looked_up = Some(record);
    tokio::time::advance(Duration::from_secs(4000)).await;
    let report = synchronise(&region, options, None).await;
    assert_eq!(report.counts.orphans_removed, 0);
    assert!(region.has(Side::Primary, 7) && region.has(Side::Target, 7));
}

#[tokio::test(start_paused = true)]
async fn a_successor_goes_on_where_the_last_report_ended_and_goes_on_counting() {
    let region = Region::new();
    region.service.lock().page_limit = 1000;
    let total = BATCH_OBJECTS as u64 + 500;
    for number in 0..total {
        region.store(number, 8, Sides::BOTH);
    }
    damage(&region, Side::Target, 3, None);
    damage(&region, Side::Target, total - 1, None);
    let first = synchronise(&region, options(0), None).await;
    let reports = region.service.lock().synchronisation.clone();
    assert_eq!(reports.len(), 2);
    assert_eq!(reports[0].absent, [(id(3), Side::Target)]);
    assert_eq!(reports[0].checked_until, Some(id(BATCH_OBJECTS as u64 - 1)));
    assert!(!reports[0].finished && first.finished);
    // The same again, begun by one worker and ended by another.
    region.service.lock().synchronisation = vec![reports[0].clone()];
    let resumed = synchronise(&region, options(0), reports[0].checked_until).await;
    assert_eq!(region.service.lock().synchronisation.len(), 2);
    assert_eq!(resumed.counts.objects_checked, total);
    assert!(resumed.finished && resumed.absent.is_empty(), "it is owed by now");
}

#[tokio::test(start_paused = true)]
async fn buckets_and_streams_that_fail_only_cost_time() {
    let faulty = Arc::new(std::sync::Mutex::new(Vec::new()));
    let region = Region::with(|_, bucket| {
        let wrapped = Arc::new(FaultyBucket::new(bucket, 5));
        wrapped.set(Faults {
            errors_before_per_mille: 2,
            ..Faults::default()
        });
        faulty.lock().unwrap().push(Arc::clone(&wrapped));
        wrapped
    });
    region.service.lock().page_limit = 1000;
    let total = BATCH_OBJECTS as u64 * 3;
    for number in 0..total {
        region.store(number, 8, Sides::BOTH);
    }
    for number in (0..total).step_by(100) {
        damage(&region, Side::Target, number, None);
    }
    region.service.lock().break_after_reports = Some(1);
    let report = synchronise(&region, options(0), None).await;
    assert!(report.finished);
    let missing = total.div_ceil(100);
    assert_eq!(
        (
            report.counts.objects_checked,
            report.counts.missing,
            report.counts.lost
        ),
        (total, missing, 0)
    );
    for number in 0..total {
        let expected = if number % 100 == 0 { PRIMARY } else { Sides::BOTH };
        assert_eq!(present(&region, number), expected);
    }
    let failed: u64 = faulty
        .lock()
        .unwrap()
        .iter()
        .map(|bucket| bucket.counts().errors_before)
        .sum();
    assert!(failed > 0, "the buckets failed at times");
}

#[tokio::test(start_paused = true)]
async fn a_volume_with_one_bucket_is_synchronised_too() {
    let region = Region::new();
    region.service.lock().format.settings.target = None;
    region.pair.replace(Side::Target, None);
    for number in 0..5 {
        region.store(number, 20, PRIMARY);
    }
    damage(&region, Side::Primary, 2, None);
    let report = synchronise(&region, options(0), None).await;
    assert_eq!(report.absent, [(id(2), Side::Primary)]);
    assert_eq!((report.counts.objects_checked, report.counts.lost), (5, 1));
}
