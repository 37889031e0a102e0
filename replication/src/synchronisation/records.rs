//! All objects that metadata names, in order of their names, as a stream of pages.

use std::collections::VecDeque;

use twinshore_protocol::reply::ObjectRecord;
use twinshore_protocol::session::{RequestError, Session};
use twinshore_protocol::{Caller, Epoch, ObjectId, Operation, Reply};

/// Records in a page, about 60 bytes each on the wire.
const PAGE: u32 = 4096;

/// See the module.
pub struct Records {
    session: Session,
    after: Option<ObjectId>,
    page: VecDeque<ObjectRecord>,
    complete: bool,
}

impl Records {
    /// Of all objects after `after`.
    pub const fn new(session: Session, after: Option<ObjectId>) -> Self {
        Self {
            session,
            after,
            page: VecDeque::new(),
            complete: false,
        }
    }

    /// The next record, without taking it. After an error it can be asked again: nothing is lost.
    pub async fn peek(&mut self) -> Result<Option<ObjectRecord>, RequestError> {
        if self.page.is_empty() && !self.complete {
            self.page = list(&self.session, self.after, PAGE).await?.into();
            // The service may return less than it was asked for: only an empty page is the end. Taking a short page for
            // the end would make orphans of everything after it.
            self.complete = self.page.is_empty();
        }
        Ok(self.page.front().copied())
    }

    /// Takes what [`Self::peek`] has shown.
    pub fn take(&mut self) {
        if let Some(record) = self.page.pop_front() {
            self.after = Some(record.object);
        }
    }
}

/// What metadata says of one object at this moment.
pub async fn look_up(session: &Session, object: ObjectId) -> Result<Option<ObjectRecord>, RequestError> {
    let found = list(session, predecessor(object), 1).await?;
    Ok(found.into_iter().find(|record| record.object == object))
}

async fn list(
    session: &Session,
    after: Option<ObjectId>,
    limit: u32,
) -> Result<Vec<ObjectRecord>, RequestError> {
    match session
        .request(Caller::ROOT, Operation::ListObjects { after, limit })
        .await?
    {
        Reply::Objects(records) => Ok(records),
        // An answer that makes no sense must not look like "no objects".
        _ => Err(RequestError::Failed(twinshore_protocol::Errno::InputOutput)),
    }
}

/// The name before this one: no name is between the two.
const fn predecessor(object: ObjectId) -> Option<ObjectId> {
    match (object.epoch.0, object.number) {
        (0, 0) => None,
        (epoch, 0) => Some(ObjectId {
            epoch: Epoch(epoch - 1),
            number: u64::MAX,
        }),
        (_, number) => Some(ObjectId {
            epoch: object.epoch,
            number: number - 1,
        }),
    }
}
