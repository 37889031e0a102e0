//! File contents that name the write that they come from, so that a reader knows what it got and whether it is whole.

use bytes::Bytes;

use crate::history::WriteNumber;

/// Bytes before the pattern: number and length.
const HEADER_BYTES: usize = 16;

/// Bytes of a sector of a file that is overwritten in place: less than a page, so that pages are written in part, too.
pub const SECTOR_BYTES: usize = 1024;

/// One sector of a write, which tells where it belongs.
pub fn of_sector(number: WriteNumber, sector: u64) -> Bytes {
    let mut content = of_write(number, SECTOR_BYTES).to_vec();
    content[8..HEADER_BYTES].copy_from_slice(&sector.to_le_bytes());
    content.into()
}

/// The write that a sector comes from.
pub fn parse_sector(content: &[u8], sector: u64) -> Result<WriteNumber, String> {
    let place: Option<[u8; 8]> = content
        .get(8..HEADER_BYTES)
        .and_then(|bytes| bytes.try_into().ok());
    if content.len() != SECTOR_BYTES || place.map(u64::from_le_bytes) != Some(sector) {
        return Err(format!(
            "sector {sector} has {} bytes and says that it is {:?}",
            content.len(),
            place.map(u64::from_le_bytes)
        ));
    }
    let mut whole = content.to_vec();
    whole[8..HEADER_BYTES].copy_from_slice(&(SECTOR_BYTES as u64).to_le_bytes());
    parse(&whole)
}

/// The write that the beginning of a content comes from, and its length.
pub fn parse_prefix(content: &[u8]) -> Result<(WriteNumber, usize), String> {
    let length: Option<[u8; 8]> = content
        .get(8..HEADER_BYTES)
        .and_then(|bytes| bytes.try_into().ok());
    let length = length
        .map(u64::from_le_bytes)
        .and_then(|length| usize::try_from(length).ok())
        .filter(|length| *length <= content.len())
        .ok_or_else(|| format!("content of {} bytes is not as long as it says", content.len()))?;
    parse(&content[..length]).map(|number| (number, length))
}

/// The content of a write: `length` bytes (at least the header's) that depend on its number.
pub fn of_write(number: WriteNumber, length: usize) -> Bytes {
    let length = length.max(HEADER_BYTES);
    let mut content = Vec::with_capacity(length);
    content.extend_from_slice(&number.0.to_le_bytes());
    content.extend_from_slice(&(length as u64).to_le_bytes());
    content.extend((HEADER_BYTES..length).map(|offset| pattern(number, offset)));
    content.into()
}

/// The write that a content comes from, if it is whole and right.
pub fn parse(content: &[u8]) -> Result<WriteNumber, String> {
    let word = |start: usize| {
        let bytes: Option<[u8; 8]> = content
            .get(start..start + 8)
            .and_then(|bytes| bytes.try_into().ok());
        bytes
            .map(u64::from_le_bytes)
            .ok_or_else(|| format!("content of {} bytes is too short", content.len()))
    };
    let number = WriteNumber(word(0)?);
    let length = word(8)?;
    if length != content.len() as u64 {
        return Err(format!(
            "content of {number:?} has {} bytes instead of {length}",
            content.len()
        ));
    }
    match (HEADER_BYTES..content.len()).find(|offset| content[*offset] != pattern(number, *offset)) {
        Some(offset) => Err(format!(
            "content of {number:?} is wrong at byte {offset}: {}",
            content[offset]
        )),
        None => Ok(number),
    }
}

#[allow(clippy::cast_possible_truncation)] // The low byte is what is wanted.
fn pattern(number: WriteNumber, offset: usize) -> u8 {
    // Never 0, so that a hole cannot pass for content.
    (number.0.wrapping_mul(31).wrapping_add(offset as u64 * 7) % 255) as u8 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_content_is_not_taken_for_a_write() {
        let content = of_write(WriteNumber(7), 100);
        assert_eq!(parse(&content), Ok(WriteNumber(7)));
        assert!(parse(&content[..99]).is_err());
        let mut zeroed = content.to_vec();
        zeroed[50] = 0;
        assert!(parse(&zeroed).is_err());
        assert!(parse(b"").is_err());
    }
}
