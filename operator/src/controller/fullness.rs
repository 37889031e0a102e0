//! Whether a volume is almost full. Pure.

use twinshore_crds::UsageStatus;

/// From how many percent of a limit on somebody is told. At the limit programs get errors, and what was removed counts until the trash is emptied: there
/// has to be time to do something.
const TOLD_FROM_PERCENT: i64 = 90;

/// What to say of a volume that is almost full.
pub fn almost_full(usage: &UsageStatus) -> Option<String> {
    let UsageStatus {
        used_bytes,
        used_inodes,
        limit_bytes,
        limit_inodes,
    } = usage;
    let is_reached = |used: i64, limit: &Option<i64>| {
        limit.is_some_and(|limit| i128::from(used) * 100 >= i128::from(limit) * i128::from(TOLD_FROM_PERCENT))
    };
    let (what, field) = if is_reached(*used_bytes, limit_bytes) {
        ("bytes", "size")
    } else if is_reached(*used_inodes, limit_inodes) {
        ("files and directories", "inodes")
    } else {
        return None;
    };
    // No numbers: they are in status.usage, and would change the condition every time.
    Some(format!(
        "at least {TOLD_FROM_PERCENT} % of the {what} that spec.quota allows are used, and when all are, programs can write no more: raise \
         spec.quota.{field}, or remove files"
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_volume_is_almost_full_from_ninety_percent_of_either_limit_on() {
        let usage = |used_bytes, used_inodes, limit: Option<i64>| UsageStatus {
            used_bytes,
            used_inodes,
            limit_bytes: limit,
            limit_inodes: limit,
        };
        assert_eq!(almost_full(&usage(1_000_000, 1_000_000, None)), None);
        assert_eq!(almost_full(&usage(89, 89, Some(100))), None);
        assert!(
            almost_full(&usage(90, 0, Some(100)))
                .unwrap()
                .contains("spec.quota.size")
        );
        assert!(
            almost_full(&usage(0, 90, Some(100)))
                .unwrap()
                .contains("spec.quota.inodes")
        );
        assert!(almost_full(&usage(i64::MAX, 0, Some(i64::MAX))).is_some());
    }
}
