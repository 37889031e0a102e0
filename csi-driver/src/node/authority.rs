//! What the kubelet calls itself, made acceptable.
//!
//! The kubelet's plugin manager gives the path of the registration socket as the `:authority` of its requests. That is no authority, and the HTTP/2 library refuses
//! the request (hyperium/h2#487). So what comes over that socket passes through here, where the value is exchanged for `localhost`.
//!
//! Header blocks are compressed (RFC 7541), but which field is which can be seen without decompressing any text: fields are walked over by their lengths. An
//! exchanged value enters the receiver's table in place of the sender's, and is meant when the sender refers to it later.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;

/// What every connection begins with.
const PREFACE_BYTES: usize = 24;
/// Length, type, flags, stream.
const FRAME_HEADER_BYTES: usize = 9;
/// The longest payload, unless a receiver allows more, which ours does not.
const PAYLOAD_MAX_BYTES: usize = 16 * 1024;

const HEADERS: u8 = 1;
const FLAG_END_HEADERS: u8 = 0x4;
const FLAG_PADDED: u8 = 0x8;
const FLAG_PRIORITY: u8 = 0x20;
/// A stream it depends on, and a weight.
const PRIORITY_BYTES: usize = 5;

/// `:authority` in the static table.
const AUTHORITY_INDEX: usize = 1;
const LOCALHOST: &[u8] = b"localhost";

/// Connections under way to the server: the kubelet makes one at a time.
const CONNECTIONS_MAX: usize = 4;

/// Connections of a listener, with their authorities exchanged.
pub fn connections(listener: UnixListener) -> impl Stream<Item = io::Result<UnixStream>> {
    let (sender, receiver) = tokio::sync::mpsc::channel(CONNECTIONS_MAX);
    tokio::spawn(async move {
        loop {
            let next = match listener.accept().await {
                Ok((kubelet, _)) => UnixStream::pair().map(|(ours, inner)| {
                    tokio::spawn(relay(kubelet, inner));
                    ours
                }),
                Err(error) => Err(error),
            };
            if sender.send(next).await.is_err() {
                return;
            }
        }
    });
    ReceiverStream::new(receiver)
}

async fn relay(kubelet: UnixStream, server: UnixStream) {
    let (mut from_kubelet, mut to_kubelet) = kubelet.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let requests = exchange(&mut from_kubelet, &mut to_server);
    let answers = tokio::io::copy(&mut from_server, &mut to_kubelet);
    // Whichever end closes first: the kubelet asks and goes.
    tokio::select! {
        result = requests => if let Err(error) = result {
            tracing::debug!("the kubelet's line ended: {error}");
        },
        _ = answers => {}
    }
}

/// Passes frames on.
async fn exchange(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let mut preface = [0; PREFACE_BYTES];
    from.read_exact(&mut preface).await?;
    to.write_all(&preface).await?;
    loop {
        let mut header = [0; FRAME_HEADER_BYTES];
        from.read_exact(&mut header).await?;
        let length = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
        if length > PAYLOAD_MAX_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is too long"));
        }
        let mut payload = vec![0; length];
        from.read_exact(&mut payload).await?;
        if header[3] == HEADERS {
            // One that cannot be read is passed on as it is: the server says what is wrong with it.
            if let Some(changed) = change_headers(header[4], &payload) {
                payload = changed;
                let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
                header[..3].copy_from_slice(&length[1..]);
            }
        }
        to.write_all(&header).await?;
        to.write_all(&payload).await?;
    }
}

/// The payload of a frame of headers with another authority. None if it is not whole, or makes no sense.
fn change_headers(flags: u8, payload: &[u8]) -> Option<Vec<u8>> {
    if flags & FLAG_END_HEADERS == 0 {
        return None;
    }
    let mut start = 0;
    let mut padding = 0;
    if flags & FLAG_PADDED != 0 {
        padding = usize::from(*payload.first()?);
        start = 1;
    }
    if flags & FLAG_PRIORITY != 0 {
        start += PRIORITY_BYTES;
    }
    let end = payload.len().checked_sub(padding)?;
    let block = change_block(payload.get(start..end)?)?;
    Some([&payload[..start], &block, &payload[end..]].concat())
}

fn change_block(block: &[u8]) -> Option<Vec<u8>> {
    let mut changed = Vec::with_capacity(block.len());
    let mut rest = block;
    while let Some(first) = rest.first() {
        // Which form a field has is in its first bits: RFC 7541, section 6.
        let prefix_bits = match first {
            0x80.. => 7,
            0x40..0x80 => 6,
            0x20..0x40 => 5,
            0x00..0x20 => 4,
        };
        let (index, mut after) = integer(rest, prefix_bits)?;
        // An indexed field, or a new size of the table: nothing follows.
        let has_value = matches!(first, 0x00..0x20 | 0x40..0x80);
        if has_value && index == 0 {
            after = text(after)?;
        }
        changed.extend_from_slice(&rest[..rest.len() - after.len()]);
        if has_value {
            let behind = text(after)?;
            if index == AUTHORITY_INDEX {
                changed.push(u8::try_from(LOCALHOST.len()).ok()?);
                changed.extend_from_slice(LOCALHOST);
            } else {
                changed.extend_from_slice(&after[..after.len() - behind.len()]);
            }
            after = behind;
        }
        rest = after;
    }
    Some(changed)
}

/// An integer in the last bits of a byte and, if they do not suffice, in the next ones; and what follows (section 5.1).
fn integer(bytes: &[u8], prefix_bits: u32) -> Option<(usize, &[u8])> {
    let (first, mut rest) = bytes.split_first()?;
    let limit = (1 << prefix_bits) - 1;
    let mut value = usize::from(*first) & limit;
    if value < limit {
        return Some((value, rest));
    }
    for shift in [0, 7, 14] {
        let (next, after) = rest.split_first()?;
        value += usize::from(next & 0x7f) << shift;
        rest = after;
        if next & 0x80 == 0 {
            return Some((value, rest));
        }
    }
    None
}

/// What follows a text (section 5.2). Whether it is compressed does not matter.
fn text(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = integer(bytes, 7)?;
    rest.get(length..)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// `:method POST`, `:scheme http`, `:path /x`, `:authority %2Fvar`, `te trailers` as a new name, a reference.
    const BLOCK: &[u8] = b"\x83\x86\x44\x02/x\x41\x06%2Fvar\x40\x02te\x08trailers\xbe";

    #[test]
    fn only_the_authority_changes() {
        let changed = change_block(BLOCK).unwrap();
        assert_eq!(
            changed,
            b"\x83\x86\x44\x02/x\x41\x09localhost\x40\x02te\x08trailers\xbe"
        );
        // One that is referred to stands in the receiver's table.
        assert_eq!(change_block(b"\x83\xbf").unwrap(), b"\x83\xbf");
    }

    #[test]
    fn padding_and_priority_stay() {
        let payload = [b"\x02\x00\x00\x00\x00\x10".as_slice(), BLOCK, b"\x00\x00"].concat();
        let flags = FLAG_END_HEADERS | FLAG_PADDED | FLAG_PRIORITY;
        let changed = change_headers(flags, &payload).unwrap();
        assert!(changed.starts_with(b"\x02\x00\x00\x00\x00\x10\x83") && changed.ends_with(b"\xbe\x00\x00"));
        assert_eq!(change_headers(0, &payload), None, "it is continued");
    }

    #[test]
    fn what_is_cut_off_makes_no_sense_and_never_panics() {
        for length in 0..BLOCK.len() {
            let _ = change_block(&BLOCK[..length]);
            let _ = change_headers(0xff, &BLOCK[..length]);
        }
        assert_eq!(change_block(b"\x41\xff\xff\xff\xff\x7f"), None);
    }

    #[test]
    fn integers_may_be_longer_than_a_byte() {
        assert_eq!(integer(b"\x1f\x9a\x0a!", 5), Some((1337, b"!".as_slice())));
        assert_eq!(integer(b"\x0a", 5), Some((10, b"".as_slice())));
    }
}
