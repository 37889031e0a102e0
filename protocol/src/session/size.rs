//! How large a request will be on the wire, without encoding it: one that is longer than the service accepts must fail
//! alone instead of breaking the stream, again and again, for all.

use crate::extent::ExtentSource;
use crate::operation::{Caller, Operation};

/// At least what the fixed fields of one element take: a few numbers of at most nine bytes each, and their headers.
const ELEMENT_BYTES: usize = 96;

/// An upper bound of the encoded size in bytes.
pub fn bound_bytes(caller: &Caller, operation: &Operation) -> usize {
    let source = |source: &ExtentSource| match source {
        ExtentSource::Inline(bytes) => ELEMENT_BYTES + bytes.len(),
        ExtentSource::Object { .. } | ExtentSource::Reserved => ELEMENT_BYTES,
    };
    let variable = match operation {
        Operation::Commit { objects, files } => {
            let writes = files.iter().flat_map(|file| &file.writes);
            (objects.len() + files.len()) * ELEMENT_BYTES
                + writes
                    .map(|write| ELEMENT_BYTES + source(&write.source))
                    .sum::<usize>()
        }
        Operation::Repoint { objects, exchanges } => {
            objects.len() * ELEMENT_BYTES
                + exchanges
                    .iter()
                    .map(|exchange| 2 * ELEMENT_BYTES + source(&exchange.old.source) + source(&exchange.new))
                    .sum::<usize>()
        }
        Operation::SetExtendedAttribute { name, value, .. } => name.len() + value.len(),
        Operation::ReportCopies { reports } => reports
            .iter()
            .map(|report| match &report.outcome {
                crate::replication::TaskOutcome::Failed { reason } => ELEMENT_BYTES + reason.len(),
                _ => ELEMENT_BYTES,
            })
            .sum(),
        Operation::ReportSynchronisation { report } => {
            (report.absent.len() + report.present.len()) * ELEMENT_BYTES
        }
        Operation::SymbolicLink { target, .. } => target.len(),
        // A path of names of at most 255 bytes, and the names of a PVC.
        Operation::ClaimDirectory(request) => {
            request.path.names().len() * 260 + request.display.namespace.len() + request.display.name.len()
        }
        Operation::HoldAccess { .. } => 16 * 260,
        // Everything else holds numbers, names of at most 255 bytes, and settings.
        _ => 0,
    };
    variable + caller.groups.len() * 9 + 4096
}
