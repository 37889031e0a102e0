//! Results of mutating requests, kept so that a request that is sent again is applied once.
//!
//! # Guarantees
//!
//! * A result stands in the record of its effect. Only successes are kept: a failure had no effect, so executing it again
//!   is as good as the first time.
//! * A slot is overwritten only by a request that proves, by the window rule, that its older reply was received.

use twinshore_protocol::message::REQUEST_WINDOW;
use twinshore_protocol::{Reply, RequestNumber, SessionId, wire};

use super::CoreError;
use super::keys;
use super::transaction::read;
use super::values::ResultRow;
use crate::view::{Mutation, View};

/// What is known of a request.
#[allow(clippy::large_enum_variant)] // It lives for one match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It has not been applied: execute it.
    Fresh,
    /// It has: this was the reply.
    Replay(Reply),
    /// A later request has taken its slot, so the client has had the reply: it breaks the rules.
    TooOld,
}

const fn slot(number: RequestNumber) -> u64 {
    number.0 % REQUEST_WINDOW
}

/// What is known of a request of a session.
pub fn stored(view: &dyn View, session: SessionId, number: RequestNumber) -> Result<Stored, CoreError> {
    let row: Option<ResultRow> = read(view, &keys::result(session, slot(number)))?;
    Ok(match row {
        Some(row) if row.number == number => Stored::Replay(row.reply),
        Some(row) if row.number > number => Stored::TooOld,
        _ => Stored::Fresh,
    })
}

/// The mutation that keeps a reply.
pub fn remember(session: SessionId, number: RequestNumber, reply: &Reply) -> Mutation {
    let row = ResultRow {
        number,
        reply: reply.clone(),
    };
    Mutation {
        key: keys::result(session, slot(number)),
        value: Some(wire::encode(&row)),
    }
}
