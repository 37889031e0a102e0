//! Sizes, rates and durations as people write them.

/// A text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a size: write bytes, or a number with KiB, MiB, GiB or TiB, such as 16KiB")]
pub struct ParseSizeError(String);

const UNITS: [(&str, u32); 4] = [("k", 10), ("m", 20), ("g", 30), ("t", 40)];

/// Parses a size in bytes: `4096`, `16KiB`, `1G`. Units are powers of 1024, as in `JuiceFS`.
pub fn size(text: &str) -> Result<u64, ParseSizeError> {
    parse(text, 0)
}

/// The same, but a number without a unit means MiB: `--cache-size` and `--buffer-size` of `JuiceFS`.
pub fn size_in_mebibytes(text: &str) -> Result<u64, ParseSizeError> {
    parse(text, 20)
}

fn parse(text: &str, default_shift: u32) -> Result<u64, ParseSizeError> {
    let wrong = || ParseSizeError(text.to_owned());
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = lower.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit = unit.trim();
    let shift = match unit {
        "" => default_shift,
        "b" => 0,
        _ => {
            let letter = unit
                .strip_suffix("ib")
                .or_else(|| unit.strip_suffix('b'))
                .unwrap_or(unit);
            UNITS
                .iter()
                .find(|(name, _)| *name == letter)
                .map(|(_, shift)| *shift)
                .ok_or_else(wrong)?
        }
    };
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

/// Writes a size with the unit that suits it.
#[allow(clippy::cast_precision_loss)] // For people: three digits are enough.
pub fn show_size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 || unit == "TiB" {
            return if unit == "B" {
                format!("{bytes} B")
            } else {
                format!("{value:.1} {unit}")
            };
        }
        value /= 1024.0;
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let cases = [
            ("0", Some(0)),
            ("4096", Some(4096)),
            ("16KiB", Some(16 << 10)),
            ("16k", Some(16 << 10)),
            ("2 MB", Some(2 << 20)),
            ("1G", Some(1 << 30)),
            ("3tib", Some(3 << 40)),
            ("", None),
            ("KiB", None),
            ("-1", None),
            ("1.5G", None),
            ("99999999999T", None),
            ("5x", None),
        ];
        for (text, expected) in cases {
            assert_eq!(size(text).ok(), expected, "{text}");
        }
        assert_eq!(size_in_mebibytes("100"), Ok(100 << 20));
        assert_eq!(size_in_mebibytes("1GiB"), Ok(1 << 30));
    }

    #[test]
    fn sizes_are_shown_with_a_unit() {
        assert_eq!(show_size(0), "0 B");
        assert_eq!(show_size(1023), "1023 B");
        assert_eq!(show_size(1536), "1.5 KiB");
        assert_eq!(show_size(5 << 40), "5.0 TiB");
    }
}
