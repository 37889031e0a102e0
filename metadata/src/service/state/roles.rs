//! What each role may ask for. With certificates the role is that of the certificate (`service/shell/tls.rs`), else what `Hello` says.
//!
//! A client may use the file system, claim directories in it, and copy what it has written: the target's cluster has no other certificate. It may
//! change neither the volume's settings nor limits that it did not claim, nor see or bring back what others have removed. A worker may carry out tasks.
//! An administrator may do everything. A mirror will follow the journal: there is nothing to ask for yet.

use twinshore_protocol::Operation;
use twinshore_protocol::message::Role;

/// May a session of this role ask for this operation?
pub(super) const fn allows(role: Role, operation: &Operation) -> bool {
    match role {
        Role::Admin => true,
        Role::Client => !is_for_workers(operation) && !is_for_administrators(operation),
        Role::Worker => {
            is_for_workers(operation)
                || matches!(
                    operation,
                    Operation::GetStatus | Operation::ReportCopies { .. } | Operation::GrantNumbers
                )
        }
        Role::Mirror => matches!(operation, Operation::GetStatus),
    }
}

const fn is_for_workers(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::ListObjects { .. }
            | Operation::ReportSynchronisation { .. }
            | Operation::Repoint { .. }
            | Operation::ListInline { .. }
            | Operation::ListCompaction { .. }
    )
}

const fn is_for_administrators(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::SetSettings { .. }
            | Operation::SetQuota { .. }
            | Operation::ListTrash { .. }
            | Operation::RestoreTrash { .. }
            | Operation::PurgeTrash { .. }
            | Operation::RequestSynchronisation
            | Operation::RequestCompaction
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use twinshore_protocol::{InodeNumber, Timestamp};

    use super::*;

    #[test]
    fn each_role_may_do_its_work_and_no_more() {
        let inode = InodeNumber::ROOT;
        let purge = Operation::PurgeTrash {
            before: Timestamp::default(),
        };
        let list = Operation::ListInline { limit_bytes: 1 };
        let key = twinshore_protocol::claims::ClaimKey::new("east", "pvc-1").unwrap();
        let reports = Operation::ReportCopies { reports: Vec::new() };
        for (operation, client, worker, mirror) in [
            (Operation::GetAttributes { inode }, true, false, false),
            (Operation::ReleaseClaim { key }, true, false, false),
            (reports, true, true, false),
            (list, false, true, false),
            (purge, false, false, false),
            (Operation::RequestCompaction, false, false, false),
            (Operation::GetStatus, true, true, true),
        ] {
            assert!(allows(Role::Admin, &operation));
            for (role, expected) in [
                (Role::Client, client),
                (Role::Worker, worker),
                (Role::Mirror, mirror),
            ] {
                assert_eq!(allows(role, &operation), expected, "{role:?} {operation:?}");
            }
        }
    }
}
