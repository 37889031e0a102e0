//! Which part of the core does which piece of the service's own work.

use twinshore_protocol::Reply;

use super::Maintenance;
use super::transaction::{Attempt, Transaction};

pub(super) fn execute(transaction: &mut Transaction<'_>, maintenance: &Maintenance) -> Attempt<Reply> {
    match maintenance {
        Maintenance::CreateVolume { format, limits } => transaction.create_volume(format, *limits),
        Maintenance::StartEpoch { epoch } => transaction.start_epoch(*epoch),
        Maintenance::OpenSession {
            session,
            role,
            near,
            description,
        } => transaction.open_session(*session, *role, *near, description),
        Maintenance::CloseSession { session } => transaction.close_session(*session),
        Maintenance::CopyOn => transaction.copy_some(),
        Maintenance::FailCopy { copy, reason } => {
            transaction.fail_copy(*copy, reason)?;
            Ok(Reply::Done)
        }
        Maintenance::CleanUp { limit, archived } => transaction.clean_up(*limit, *archived),
    }
}
