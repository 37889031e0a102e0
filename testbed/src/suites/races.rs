//! Two regions race on every pair of namespace operations. Whatever order the service chose, one order of the two must explain
//! both answers and what is there afterwards; and both regions see the same.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use twinshore_testbed::failure::{Failure, blocking};
use twinshore_testbed::regions::Region;

use crate::context::{Context, ensure};

/// How often each pair is tried: each time another side may come first.
const ROUNDS: u32 = 4;

/// Operations on a directory that has the file `a`, the file `b` and the empty directory `d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    CreateC,
    UnlinkA,
    RenameAToB,
    RenameAToC,
    RenameBToA,
    ExchangeAB,
    RenameAToCNoReplace,
    LinkAToC,
    MkdirC,
    RmdirD,
    CreateInD,
    MoveAIntoD,
    RenameDToC,
}

const OPERATIONS: [Operation; 13] = [
    Operation::CreateC,
    Operation::UnlinkA,
    Operation::RenameAToB,
    Operation::RenameAToC,
    Operation::RenameBToA,
    Operation::ExchangeAB,
    Operation::RenameAToCNoReplace,
    Operation::LinkAToC,
    Operation::MkdirC,
    Operation::RmdirD,
    Operation::CreateInD,
    Operation::MoveAIntoD,
    Operation::RenameDToC,
];

/// What an operation answered.
type Answer = Result<(), i32>;

/// Everything in the directory: paths, with the content of files.
type State = BTreeSet<String>;

impl Operation {
    fn run(self, root: &Path) -> Answer {
        let path = |name: &str| root.join(name);
        let rename = |from: &str, to: &str, flags| {
            renameat_with(CWD, path(from), CWD, path(to), flags).map_err(std::io::Error::from)
        };
        let result = match self {
            Self::CreateC => fs::File::create_new(path("c")).map(drop),
            Self::UnlinkA => fs::remove_file(path("a")),
            Self::RenameAToB => fs::rename(path("a"), path("b")),
            Self::RenameAToC => fs::rename(path("a"), path("c")),
            Self::RenameBToA => fs::rename(path("b"), path("a")),
            Self::ExchangeAB => rename("a", "b", RenameFlags::EXCHANGE),
            Self::RenameAToCNoReplace => rename("a", "c", RenameFlags::NOREPLACE),
            Self::LinkAToC => fs::hard_link(path("a"), path("c")),
            Self::MkdirC => fs::create_dir(path("c")),
            Self::RmdirD => fs::remove_dir(path("d")),
            Self::CreateInD => fs::File::create_new(path("d/x")).map(drop),
            Self::MoveAIntoD => fs::rename(path("a"), path("d/a")),
            Self::RenameDToC => fs::rename(path("d"), path("c")),
        };
        result.map_err(|error| error.raw_os_error().unwrap_or(-1))
    }
}

/// All pairs.
pub async fn run(context: &mut Context) -> Result<(), Failure> {
    let roots = Region::BOTH.map(|region| context.path(region, ""));
    let reference = context.work.join("reference");
    let pairs = blocking("racing", Duration::from_secs(280), move || {
        all_pairs(&roots, &reference)
    })
    .await?;
    println!("  {pairs} pairs, {ROUNDS} times each");
    Ok(())
}

fn all_pairs(roots: &[PathBuf; 2], reference: &Path) -> Result<u32, Failure> {
    let mut pairs = 0;
    for first in OPERATIONS {
        for second in OPERATIONS {
            pairs += 1;
            // What a local file system says of both orders is what is allowed.
            let mut allowed = vec![
                in_order(reference, [first, second], false)?,
                in_order(reference, [second, first], true)?,
            ];
            allowed.extend(overtaken(reference, [first, second])?);
            for round in 0..ROUNDS {
                let name = format!("race-{pairs}-{round}");
                let found = race(&roots.clone().map(|root| root.join(&name)), [first, second])?;
                ensure(allowed.contains(&found), || {
                    format!("{first:?} in east and {second:?} in west: {found:?} is none of {allowed:?}")
                })?;
            }
        }
    }
    Ok(pairs)
}

/// Answers (of the first and the second operation of the pair) and the state afterwards.
type Found = ([Answer; 2], State);

fn in_order(reference: &Path, operations: [Operation; 2], exchanged: bool) -> Result<Found, Failure> {
    prepare(reference)?;
    let mut answers = operations.map(|operation| operation.run(reference));
    if exchanged {
        answers.swap(0, 1);
    }
    let state = state(reference)?;
    fs::remove_dir_all(reference).map_err(Failure::io("remove the reference"))?;
    Ok((answers, state))
}

/// Finding names is not one step with doing what was asked: the kernel finds the inode of the old name first, then the new name,
/// and may answer by itself. If the other operation moves the old name between the two, what is answered fits no order, but is what
/// POSIX allows: where the conditions of two errors hold, either may be answered, and renaming a file onto itself does nothing.
fn overtaken(reference: &Path, operations: [Operation; 2]) -> Result<Vec<Found>, Failure> {
    let not_found = Err(rustix::io::Errno::NOENT.raw_os_error());
    let exists = Err(rustix::io::Errno::EXIST.raw_os_error());
    let mut found = Vec::new();
    for (slow, other) in [(0, 1), (1, 0)] {
        // The answers, and what the other operation must have made of the new name.
        let (answers, became): (&[Answer], Option<&str>) = match operations[slow] {
            Operation::LinkAToC => (&[not_found, exists], None),
            Operation::RenameAToCNoReplace => (&[exists], Some("c: content of a")),
            Operation::RenameAToC => (&[Ok(())], Some("c: content of a")),
            Operation::RenameAToB => (&[Ok(())], Some("b: content of a")),
            Operation::RenameBToA => (&[Ok(())], Some("a: content of b")),
            _ => continue,
        };
        prepare(reference)?;
        let answer_of_other = operations[other].run(reference);
        let state = state(reference)?;
        fs::remove_dir_all(reference).map_err(Failure::io("remove the reference"))?;
        if became.is_some_and(|became| !state.contains(became)) {
            continue;
        }
        for answer in answers {
            let mut answers = [*answer; 2];
            answers[other] = answer_of_other;
            found.push((answers, state.clone()));
        }
    }
    Ok(found)
}

fn race(roots: &[PathBuf; 2], operations: [Operation; 2]) -> Result<Found, Failure> {
    prepare(&roots[0])?;
    let barrier = Barrier::new(2);
    // West looks first, so that it has the names in its caches when the race begins.
    let before = state(&roots[1])?;
    let one = |root: &Path, operation: Operation| {
        barrier.wait();
        operation.run(root)
    };
    let answers = std::thread::scope(|scope| {
        let east = scope.spawn(|| one(&roots[0], operations[0]));
        let west = one(&roots[1], operations[1]);
        east.join().map(|east| [east, west])
    });
    let Ok(answers) = answers else {
        return Err(Failure::Wrong("a racing thread failed".to_owned()));
    };
    let states = [state(&roots[0])?, state(&roots[1])?];
    ensure(states[0] == states[1], || {
        format!(
            "after {operations:?} on {before:?}, east sees {:?}, west {:?}",
            states[0], states[1]
        )
    })?;
    fs::remove_dir_all(&roots[1]).map_err(Failure::io("remove the directory of a race"))?;
    let [state, _] = states;
    Ok((answers, state))
}

fn prepare(root: &Path) -> Result<(), Failure> {
    fs::create_dir(root)
        .and_then(|()| fs::write(root.join("a"), "content of a"))
        .and_then(|()| fs::write(root.join("b"), "content of b"))
        .and_then(|()| fs::create_dir(root.join("d")))
        .map_err(Failure::io("prepare a race"))
}

fn state(root: &Path) -> Result<State, Failure> {
    let mut found = State::new();
    collect(root, "", &mut found).map_err(Failure::io("look at the outcome of a race"))?;
    Ok(found)
}

fn collect(root: &Path, below: &str, found: &mut State) -> std::io::Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let name = format!("{below}{}", entry?.file_name().to_string_lossy());
        let path = root.join(&name);
        // A listing names only what is there, and nobody changes it now.
        let kind = fs::symlink_metadata(&path)?;
        if kind.is_dir() {
            collect(root, &format!("{name}/"), found)?;
            found.insert(format!("{name}/"));
        } else {
            match fs::read_to_string(&path) {
                Ok(content) => found.insert(format!("{name}: {content}")),
                Err(error) if error.kind() == ErrorKind::InvalidData => {
                    found.insert(format!("{name}: not text"))
                }
                Err(error) => return Err(error),
            };
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_local_file_system_passes() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().to_owned();
        let pairs = all_pairs(&[root.clone(), root], &directory.path().join("reference")).unwrap();
        assert_eq!(pairs, 169);
    }

    #[test]
    fn an_outcome_of_no_order_is_not_allowed() {
        let directory = tempfile::tempdir().unwrap();
        let reference = directory.path().join("reference");
        let (answers, _) = in_order(
            &reference,
            [Operation::RenameAToCNoReplace, Operation::CreateC],
            false,
        )
        .unwrap();
        assert_eq!(answers[0], Ok(()));
        assert!(answers[1].is_err(), "both cannot make c");
    }
}
