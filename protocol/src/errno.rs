//! What a failed operation answers: the error numbers of Linux that Twinshore uses.

use minicbor::{Decode, Encode};

macro_rules! errno {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// An error of an operation. The discriminant is the number of Linux on x86-64 and aarch64; it is what the wire carries.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, thiserror::Error)]
        #[cbor(index_only)]
        pub enum Errno {
            $($(#[$doc])* #[doc = $text] #[error($text)] #[n($number)] $name = $number,)*
        }
    };
}

errno! {
    NotPermitted = 1, "operation not permitted";
    NotFound = 2, "no such file or directory";
    Interrupted = 4, "interrupted";
    InputOutput = 5, "input/output error";
    TooBig = 7, "argument list too long";
    BadHandle = 9, "bad file descriptor";
    Again = 11, "try again";
    AccessDenied = 13, "permission denied";
    Busy = 16, "device or resource busy";
    Exists = 17, "file exists";
    CrossDevice = 18, "invalid cross-device link";
    NotDirectory = 20, "not a directory";
    IsDirectory = 21, "is a directory";
    Invalid = 22, "invalid argument";
    TextBusy = 26, "text file busy";
    FileTooBig = 27, "file too large";
    NoSpace = 28, "no space left on device";
    ReadOnly = 30, "read-only file system";
    TooManyLinks = 31, "too many links";
    OutOfRange = 34, "numerical result out of range";
    Deadlock = 35, "resource deadlock would occur";
    NameTooLong = 36, "file name too long";
    NoLocks = 37, "no locks available";
    NotImplemented = 38, "function not implemented";
    NotEmpty = 39, "directory not empty";
    Loop = 40, "too many levels of symbolic links";
    NoData = 61, "no data available";
    Overflow = 75, "value too large for defined data type";
    NotSupported = 95, "operation not supported";
    TimedOut = 110, "connection timed out";
    Stale = 116, "stale file handle";
    QuotaExceeded = 122, "disk quota exceeded";
}

impl Errno {
    /// The number that the kernel knows.
    pub const fn number(self) -> i32 {
        self as i32
    }
}

impl From<crate::name::NameError> for Errno {
    fn from(error: crate::name::NameError) -> Self {
        match error {
            crate::name::NameError::Invalid => Self::Invalid,
            crate::name::NameError::TooLong => Self::NameTooLong,
        }
    }
}
