//! Claims on directories: found or made, limited, registered, given up.
//!
//! # States
//!
//! A directory is claimed by the first claim on its path (`d`, `p`), which makes it if it is missing, or has it copied ([`super::copying`]). Further claims
//! on the same path join it. The last one that is released sends it to the trash, whole ([`super::trees`]).
//!
//! # Invariants
//!
//! * Every row in `c` has one in `e` under its directory, which has one in `d` and, by its path, in `p`.
//! * A claimed directory that is ready stands at its path: neither it nor what holds it can be moved or removed (`UsageRow::claimed`).
//! * No claimed directory is within another.

pub mod access;
pub mod rows;
mod snapshots;

use std::fmt::Display;

use twinshore_protocol::claims::{
    Claim, ClaimKey, ClaimRequest, ClaimsPage, CopySource, DirectoryPath, Label, PAGE_MAX, Refused,
};
use twinshore_protocol::{Errno, FileName, FileType, InodeNumber, Operation, Reply};

use self::rows::{ClaimRow, ClaimedRow, CopyGoal, CopyState};
use super::keys::{self, KeyReader};
use super::transaction::{Attempt, Transaction, corrupt, decode};
use super::values::{EntryRow, QuotaRow};

/// Claims on one directory at most: one for each cluster is usual.
const CLAIMS_PER_DIRECTORY_MAX: usize = 1024;

/// Directories that are made on the way to a claimed one.
const PARENT_MODE: u16 = 0o755;

pub(super) fn execute(t: &mut Transaction<'_>, operation: &Operation) -> Attempt<Reply> {
    t.require_root()?;
    match operation {
        Operation::ClaimDirectory(request) => t.claim_directory(request),
        Operation::ReleaseClaim { key } => t.release_claim(key),
        Operation::GetClaim { key } => t.get_claim(key),
        Operation::ListClaims { region, from, limit } => {
            t.list_claims(region.as_ref(), from.as_ref(), *limit)
        }
        Operation::ResizeClaim { key, capacity_bytes } => t.resize_claim(key, *capacity_bytes),
        Operation::CreateSnapshot { key, source } => t.create_snapshot(key, source),
        Operation::DeleteSnapshot { key } => t.delete_snapshot(key),
        Operation::GetSnapshot { key } => t.get_snapshot(key),
        Operation::ListSnapshots {
            region,
            source,
            from,
            limit,
        } => t.list_snapshots(region.as_ref(), source.as_ref(), from.as_ref(), *limit),
        Operation::HoldAccess {
            to,
            node,
            target,
            mode,
        } => t.hold_access(to, node, target, *mode),
        Operation::ReleaseAccess { node, target } => t.release_access(node, target),
        Operation::ListAccess { node, from, limit } => t.list_access(node.as_ref(), from.as_ref(), *limit),
        _ => Err(Errno::NotImplemented.into()),
    }
}

/// How many rows a page has.
fn page_limit(limit: u32) -> usize {
    usize::try_from(limit.clamp(1, PAGE_MAX)).unwrap_or(1)
}

fn unknown(key: &ClaimKey) -> Refused {
    Refused::UnknownClaim(key.clone())
}

fn differs(key: &ClaimKey, what: &str, stands: &dyn Display, asked: &dyn Display) -> Refused {
    Refused::Differs {
        key: format!("claim {key}"),
        what: what.to_owned(),
        stands: stands.to_string(),
        asked: asked.to_string(),
    }
}

fn source_text(source: Option<&CopySource>) -> String {
    match source {
        None => "none".to_owned(),
        Some(CopySource::Claim(claim)) => format!("claim {claim}"),
        Some(CopySource::Snapshot(snapshot)) => format!("snapshot {snapshot}"),
    }
}

impl Transaction<'_> {
    pub(super) fn claim_row(&self, key: &ClaimKey) -> Attempt<Option<ClaimRow>> {
        self.get(&keys::claim(key))
    }

    pub(super) fn claimed_row(&self, directory: InodeNumber) -> Attempt<ClaimedRow> {
        let key = keys::claimed(directory);
        Ok(self
            .get(&key)?
            .ok_or_else(|| corrupt(&key, "a claim names the directory, but nobody claims it"))?)
    }

    fn claim_directory(&mut self, request: &ClaimRequest) -> Attempt<Reply> {
        if let Some(row) = self.claim_row(&request.key)? {
            return self.claim_again(request, &row);
        }
        let directory = match self.get::<InodeNumber>(&keys::claimed_path(request.path.names()))? {
            Some(directory) => {
                self.join(request, directory)?;
                directory
            }
            None => self.claim_first(request)?,
        };
        let row = ClaimRow {
            directory,
            display: request.display.clone(),
            requested_bytes: request.capacity_bytes,
            created: self.context.now,
        };
        self.put(keys::claim(&request.key), &row);
        self.mark(keys::claim_of(directory, &request.key));
        self.claim_reply(&request.key, &row)
    }

    /// The same key again: the same answer, if the same is asked.
    fn claim_again(&mut self, request: &ClaimRequest, row: &ClaimRow) -> Attempt<Reply> {
        let claimed = self.claimed_row(row.directory)?;
        let key = &request.key;
        if claimed.path != request.path {
            return Err(differs(key, "directory", &claimed.path, &request.path).into());
        }
        if request.source.is_some() && claimed.source != request.source {
            let (stands, asked) = (
                source_text(claimed.source.as_ref()),
                source_text(request.source.as_ref()),
            );
            return Err(differs(key, "source", &stands, &asked).into());
        }
        let asked = request.capacity_bytes;
        if asked != row.requested_bytes && asked != self.capacity(row)? {
            return Err(differs(key, "size in bytes", &row.requested_bytes, &asked).into());
        }
        self.claim_reply(key, row)
    }

    /// One more claim on a directory.
    fn join(&mut self, request: &ClaimRequest, directory: InodeNumber) -> Attempt<()> {
        let claimed = self.claimed_row(directory)?;
        if request.source.is_some() && claimed.source != request.source {
            return Err(Refused::Occupied(request.path.clone()).into());
        }
        let claims = self.scan_prefix(&keys::of(keys::CLAIM_OF, directory.0), CLAIMS_PER_DIRECTORY_MAX)?;
        if claims.len() >= CLAIMS_PER_DIRECTORY_MAX {
            return Err(Refused::TooMany {
                what: format!("claims on {}", claimed.path),
                limit: CLAIMS_PER_DIRECTORY_MAX as u64,
            }
            .into());
        }
        let other = claims.first().and_then(|(key, _)| {
            let mut reader = KeyReader::new(key);
            reader.number()?;
            reader.claim()
        });
        let key = keys::claimed(directory);
        let other = other.ok_or_else(|| corrupt(&key, "nobody claims it"))?;
        let other = self
            .claim_row(&other)?
            .ok_or_else(|| corrupt(&key, "a claim on it is missing"))?;
        let stands = self.capacity(&other)?;
        if request.capacity_bytes != 0 && request.capacity_bytes != stands {
            return Err(Refused::OtherSize {
                path: claimed.path,
                stands_bytes: stands,
                asked_bytes: request.capacity_bytes,
            }
            .into());
        }
        Ok(())
    }

    /// The first claim on a path: finds or makes the directory.
    fn claim_first(&mut self, request: &ClaimRequest) -> Attempt<InodeNumber> {
        let path = &request.path;
        self.refuse_nested(path)?;
        let (parent, name) = self.make_parents(path)?;
        let existing = self.entry(parent, &name)?;
        let new = request.new;
        let owner = (new.mode & 0o7777, new.user, new.group);
        let (directory, state) = match (&request.source, existing) {
            (Some(_), Some(_)) => return Err(Refused::Occupied(path.clone()).into()),
            (Some(source), None) => self.begin_clone(request, source, parent)?,
            (None, Some(entry)) if entry.kind == FileType::Directory => (entry.inode, CopyState::Ready),
            (None, Some(_)) => return Err(Refused::NotADirectory(path.clone()).into()),
            (None, None) => (self.make_bare_directory(parent, &name, owner)?, CopyState::Ready),
        };
        self.put(keys::claimed_path(path.names()), &directory);
        let row = ClaimedRow {
            path: path.clone(),
            source: request.source.clone(),
            state: state.clone(),
        };
        self.put(keys::claimed(directory), &row);
        if state == CopyState::Ready {
            self.limit_bytes(directory, request.capacity_bytes)?;
            self.count_claimed(directory, 1)?;
        } else {
            // What is small is done at once.
            self.copy_on(directory)?;
        }
        Ok(directory)
    }

    fn begin_clone(
        &mut self,
        request: &ClaimRequest,
        source: &CopySource,
        parent: InodeNumber,
    ) -> Attempt<(InodeNumber, CopyState)> {
        let (root, live) = self.copy_source(source)?;
        let needed_bytes = self.usage(root)?.bytes;
        let asked_bytes = request.capacity_bytes;
        if asked_bytes != 0 && asked_bytes < needed_bytes {
            return Err(Refused::SourceTooLarge {
                asked_bytes,
                needed_bytes,
            }
            .into());
        }
        let goal = CopyGoal::Claim {
            capacity_bytes: asked_bytes,
        };
        let copy = self.begin_copy(root, live, goal, parent)?;
        Ok((copy, CopyState::Copying))
    }

    /// What is to be copied, and whether it can change.
    fn copy_source(&mut self, source: &CopySource) -> Attempt<(InodeNumber, bool)> {
        let (root, state, live) = match source {
            CopySource::Claim(key) => {
                let row = self.claim_row(key)?.ok_or_else(|| unknown(key))?;
                (row.directory, self.claimed_row(row.directory)?.state, true)
            }
            CopySource::Snapshot(key) => {
                let row = self
                    .snapshot_row(key)?
                    .ok_or_else(|| Refused::UnknownSnapshot(key.clone()))?;
                (row.directory, row.state, false)
            }
        };
        match state {
            CopyState::Ready => Ok((root, live)),
            CopyState::Copying => Err(Refused::BeingCopied(source_text(Some(source))).into()),
            CopyState::Failed { reason } => Err(Refused::CopyFailed {
                what: source_text(Some(source)),
                reason,
            }
            .into()),
        }
    }

    fn refuse_nested(&mut self, path: &DirectoryPath) -> Attempt<()> {
        let names = path.names();
        let nested = |other: String| {
            Err(Refused::Nested {
                path: path.clone(),
                other,
            }
            .into())
        };
        for depth in 1..names.len() {
            let outer = names.get(..depth).unwrap_or_default();
            if self.exists(&keys::claimed_path(outer))? {
                let text = outer
                    .iter()
                    .fold(String::new(), |text, name| format!("{text}/{name}"));
                return nested(text);
            }
        }
        let within = self.scan_prefix(&keys::claimed_path(names), 1)?;
        match within.first() {
            Some((key, _)) => {
                let inner = String::from_utf8_lossy(KeyReader::new(key).rest()).into_owned();
                nested(format!("/{}", inner.trim_end_matches('/')))
            }
            None => Ok(()),
        }
    }

    /// The directory that holds a path, made if it is missing, and the last name.
    pub(super) fn make_parents(&mut self, path: &DirectoryPath) -> Attempt<(InodeNumber, FileName)> {
        let Some((last, parents)) = path.names().split_last() else {
            return Err(Errno::Invalid.into());
        };
        let mut directory = InodeNumber::ROOT;
        for name in parents {
            directory = match self.entry(directory, name)? {
                Some(EntryRow {
                    inode,
                    kind: FileType::Directory,
                }) => inode,
                Some(_) => return Err(Refused::NotADirectory(path.clone()).into()),
                None => self.make_bare_directory(directory, name, (PARENT_MODE, 0, 0))?,
            };
        }
        Ok((directory, last.clone()))
    }

    /// The bytes that a directory is limited to; 0 for no limit.
    fn limit_of(&mut self, directory: InodeNumber) -> Attempt<u64> {
        Ok(self.directory_usage(directory)?.limit_bytes.unwrap_or(0))
    }

    /// Limits a directory's bytes; 0 leaves it as it is.
    pub(super) fn limit_bytes(&mut self, directory: InodeNumber, bytes: u64) -> Attempt<()> {
        if bytes == 0 {
            return Ok(());
        }
        let limit_inodes = self
            .get::<QuotaRow>(&keys::quota(directory))?
            .and_then(|quota| quota.limit_inodes);
        self.set_quota(directory, Some(bytes), limit_inodes)?;
        Ok(())
    }

    /// The capacity of a claim's directory.
    fn capacity(&mut self, row: &ClaimRow) -> Attempt<u64> {
        if self.claimed_row(row.directory)?.state == CopyState::Ready {
            self.limit_of(row.directory)
        } else {
            Ok(row.requested_bytes)
        }
    }

    fn claim_reply(&mut self, key: &ClaimKey, row: &ClaimRow) -> Attempt<Reply> {
        let state = self.claimed_row(row.directory)?.state;
        if let CopyState::Failed { reason } = state {
            return Err(Refused::CopyFailed {
                what: format!("claim {key}"),
                reason,
            }
            .into());
        }
        Ok(Reply::Claim(Box::new(self.claim(key.clone(), row)?)))
    }

    fn claim(&mut self, key: ClaimKey, row: &ClaimRow) -> Attempt<Claim> {
        let ClaimRow {
            directory,
            display,
            requested_bytes: _,
            created,
        } = row.clone();
        let ClaimedRow { path, source, state } = self.claimed_row(directory)?;
        let ready = state == CopyState::Ready;
        let (used_bytes, used_inodes) = if ready {
            let usage = self.directory_usage(directory)?;
            (usage.used_bytes, usage.used_inodes)
        } else {
            (0, 0)
        };
        let claims = self.scan_prefix(&keys::of(keys::CLAIM_OF, directory.0), CLAIMS_PER_DIRECTORY_MAX)?;
        Ok(Claim {
            key,
            display,
            path,
            directory,
            capacity_bytes: self.capacity(row)?,
            used_bytes,
            used_inodes,
            created,
            source,
            ready,
            others: u32::try_from(claims.len().saturating_sub(1)).unwrap_or(u32::MAX),
        })
    }

    fn get_claim(&mut self, key: &ClaimKey) -> Attempt<Reply> {
        let row = self.claim_row(key)?.ok_or_else(|| unknown(key))?;
        self.claim_reply(key, &row)
    }

    fn list_claims(&mut self, region: Option<&Label>, from: Option<&ClaimKey>, limit: u32) -> Attempt<Reply> {
        let prefix = match region {
            Some(region) => keys::of_region(keys::CLAIM, region.as_str()),
            None => bytes::Bytes::from_static(&[keys::CLAIM]),
        };
        let start = from.map(keys::claim).filter(|start| *start > prefix);
        let (start, end) = (
            start.unwrap_or_else(|| prefix.clone()),
            keys::after_prefix(&prefix),
        );
        let limit = page_limit(limit);
        let mut page = ClaimsPage::default();
        for (at, (key, value)) in self.scan(&start, &end, limit + 1)?.into_iter().enumerate() {
            let claim = KeyReader::new(&key)
                .claim()
                .ok_or_else(|| corrupt(&key, "malformed key"))?;
            if at == limit {
                page.next = Some(claim);
            } else {
                let row: ClaimRow = decode(&key, &value)?;
                page.claims.push(self.claim(claim, &row)?);
            }
        }
        Ok(Reply::Claims(page))
    }

    fn resize_claim(&mut self, key: &ClaimKey, capacity_bytes: u64) -> Attempt<Reply> {
        let row = self.claim_row(key)?.ok_or_else(|| unknown(key))?;
        if self.claimed_row(row.directory)?.state == CopyState::Copying {
            return Err(Refused::BeingCopied(format!("claim {key}")).into());
        }
        let reply = self.claim_reply(key, &row)?;
        let stands = self.limit_of(row.directory)?;
        if stands == 0 || capacity_bytes <= stands {
            return Ok(reply);
        }
        self.limit_bytes(row.directory, capacity_bytes)?;
        self.claim_reply(key, &row)
    }

    fn release_claim(&mut self, key: &ClaimKey) -> Attempt<Reply> {
        let Some(row) = self.claim_row(key)? else {
            return Ok(Reply::Done);
        };
        self.remove(keys::claim(key));
        self.remove(keys::claim_of(row.directory, key));
        let others = self.scan_prefix(&keys::of(keys::CLAIM_OF, row.directory.0), 1)?;
        if others.is_empty() {
            self.unclaim(row.directory)?;
        }
        Ok(Reply::Done)
    }

    /// Nobody claims a directory any more.
    fn unclaim(&mut self, directory: InodeNumber) -> Attempt<()> {
        let ClaimedRow {
            path,
            source: _,
            state,
        } = self.claimed_row(directory)?;
        self.remove(keys::claimed(directory));
        self.remove(keys::claimed_path(path.names()));
        match state {
            CopyState::Failed { .. } => return Ok(()),
            CopyState::Copying => return self.give_up_copy(directory),
            CopyState::Ready => {}
        }
        self.refuse_while_copied(directory, &path)?;
        self.drop_holds(directory, &path)?;
        self.count_claimed(directory, -1)?;
        let (parent, name) = self.make_parents(&path)?;
        self.remove_tree(directory, (parent, &name))
    }
}
