//! Frames of the gRPC stream and the messages in them.

use bytes::Bytes;
use minicbor::{Decode, Encode};

/// The generated gRPC client, server and frames.
#[allow(missing_docs, clippy::pedantic)]
pub mod grpc {
    tonic::include_proto!("twinshore.v1");
}

/// The largest message in bytes: a commit with inline data of many files, or a page of a directory.
pub const MESSAGE_MAX_BYTES: usize = 4 << 20;

/// The largest frame in bytes that is accepted. Messages are coalesced up to [`FRAME_TARGET_BYTES`].
pub const FRAME_MAX_BYTES: usize = 16 << 20;

/// A frame is closed once it has this many bytes.
pub const FRAME_TARGET_BYTES: usize = 256 << 10;

/// A message could not be decoded.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// It is longer than [`MESSAGE_MAX_BYTES`].
    #[error("a message of {0} bytes is longer than the limit of {MESSAGE_MAX_BYTES}")]
    TooLong(usize),
    /// Its bytes make no sense.
    #[error("a message cannot be decoded")]
    Malformed(#[source] minicbor::decode::Error),
}

/// Encodes anything of this crate. Infallible: writing to memory cannot fail.
pub fn encode<T: Encode<()>>(value: &T) -> Bytes {
    let mut buffer = Vec::new();
    match minicbor::encode(value, &mut buffer) {
        Ok(()) => buffer.into(),
        Err(error) => unreachable!("writing to a Vec cannot fail: {error}"),
    }
}

/// Decodes a message.
pub fn decode<'b, T: Decode<'b, ()>>(bytes: &'b [u8]) -> Result<T, WireError> {
    if bytes.len() > MESSAGE_MAX_BYTES {
        return Err(WireError::TooLong(bytes.len()));
    }
    minicbor::decode(bytes).map_err(WireError::Malformed)
}
