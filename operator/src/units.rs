//! Quantities and durations of the spec as numbers. Their patterns are checked by the API server; here they are parsed once.

use std::time::Duration;

/// A text is not a quantity or duration, or too large.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// No quantity.
    #[error("{0:?} is not a quantity of bytes such as 500Gi")]
    Quantity(String),
    /// No duration.
    #[error("{0:?} is not a duration such as 24h or 1h30m")]
    Duration(String),
}

/// Bytes of a quantity without fractions, such as `500Gi` or `1000`.
pub fn bytes(text: &str) -> Result<u64, UnitError> {
    let wrong = || UnitError::Quantity(text.to_owned());
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, suffix) = text.split_at(digits);
    let factor: u64 = match suffix {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "P" => 1_000_000_000_000_000,
        "E" => 1_000_000_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        "Ei" => 1 << 60,
        _ => return Err(wrong()),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .ok_or_else(wrong)
}

/// A duration in hours, minutes and seconds, such as `1h30m`.
pub fn duration(text: &str) -> Result<Duration, UnitError> {
    let wrong = || UnitError::Duration(text.to_owned());
    let mut seconds: u64 = 0;
    let mut number: Option<u64> = None;
    for character in text.chars() {
        if let Some(digit) = character.to_digit(10) {
            number = Some(
                number
                    .unwrap_or(0)
                    .checked_mul(10)
                    .and_then(|number| number.checked_add(u64::from(digit)))
                    .ok_or_else(wrong)?,
            );
            continue;
        }
        let factor = match character {
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return Err(wrong()),
        };
        let amount = number.take().ok_or_else(wrong)?;
        seconds = amount
            .checked_mul(factor)
            .and_then(|amount| seconds.checked_add(amount))
            .ok_or_else(wrong)?;
    }
    if number.is_some() || text.is_empty() {
        return Err(wrong());
    }
    Ok(Duration::from_secs(seconds))
}

/// A number of seconds for people: `0s`, `45s`, `3m20s`, `2h5m`, `3d4h`.
pub fn show_seconds(seconds: u64) -> String {
    let parts = |big: u64, big_unit: &str, small: u64, small_unit: &str| {
        if small == 0 {
            format!("{big}{big_unit}")
        } else {
            format!("{big}{big_unit}{small}{small_unit}")
        }
    };
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => parts(seconds / 60, "m", seconds % 60, "s"),
        3600..86_400 => parts(seconds / 3600, "h", seconds % 3600 / 60, "m"),
        _ => parts(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

/// Rounds up to three digits: what is shown never says less than is true, and does not change with every byte.
pub fn three_digits_up(number: u64) -> i64 {
    let mut unit: u64 = 1;
    while number / unit >= 1000 {
        unit = unit.saturating_mul(10);
    }
    i64::try_from(number.div_ceil(unit).saturating_mul(unit)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_bytes() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1000", Some(1000)),
            ("5k", Some(5000)),
            ("10Gi", Some(10 << 30)),
            ("15Ei", Some(15 << 60)),
            ("16Ei", None),
            ("1.5Gi", None),
            ("Gi", None),
            ("", None),
            ("1 Gi", None),
        ] {
            assert_eq!(bytes(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn durations_are_seconds() {
        for (text, expected) in [
            ("0s", Some(0)),
            ("24h", Some(86_400)),
            ("1h30m5s", Some(5405)),
            ("", None),
            ("5", None),
            ("h", None),
            ("1d", None),
        ] {
            assert_eq!(
                duration(text).ok().map(|duration| duration.as_secs()),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn numbers_are_rounded_up_and_only_when_large() {
        for (number, expected) in [
            (0, 0),
            (999, 999),
            (1000, 1000),
            (1001, 1010),
            (123_456, 124_000),
            (999_001, 1_000_000),
        ] {
            assert_eq!(three_digits_up(number), expected);
        }
        assert_eq!(three_digits_up(u64::MAX), i64::MAX);
    }

    #[test]
    fn seconds_are_shown_in_two_units_at_most() {
        for (seconds, text) in [(0, "0s"), (200, "3m20s"), (3600, "1h"), (90_000, "1d1h")] {
            assert_eq!(show_seconds(seconds), text);
        }
    }
}
