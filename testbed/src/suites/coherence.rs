//! What one region does, the other sees at once, with everything cached in the kernel before.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::time::Duration;

use twinshore_testbed::failure::{Failure, blocking};
use twinshore_testbed::regions::Region;

use crate::context::{Context, ensure};

/// Runs every case in both directions.
pub async fn run(context: &mut Context) -> Result<(), Failure> {
    for writer in Region::BOTH {
        let here = context.path(writer, &format!("from-{writer}"));
        let there = context.path(writer.other(), &format!("from-{writer}"));
        blocking("looking from both sides", Duration::from_secs(100), move || {
            cases(&Pair { here, there })
        })
        .await?;
        println!("  {writer} changes, {} sees it", writer.other());
    }
    Ok(())
}

/// The same directory from both sides.
struct Pair {
    here: PathBuf,
    there: PathBuf,
}

fn cases(pair: &Pair) -> Result<(), Failure> {
    // The other side first learns that the directory is not there: this must not be believed for long.
    expect(!pair.there.exists(), "a directory exists before it is made")?;
    fs::create_dir(&pair.here).map_err(Failure::io("make a directory"))?;
    expect(pair.there.is_dir(), "a new directory is not seen")?;
    let steps: [(&str, Step); 9] = [
        ("names", names),
        ("content", content),
        ("small content again and again", small_content),
        ("an open file grows and shrinks", open_file),
        ("attributes", attributes),
        ("rename over an open file", rename_over_open),
        ("removed while open", removed_while_open),
        ("links", links),
        ("listing", listing),
    ];
    for (name, step) in steps {
        let wrong = step(pair).map_err(Failure::io(format!("go through the case `{name}`")))?;
        ensure(wrong.is_empty(), || format!("{name}: {wrong}"))?;
    }
    Ok(())
}

fn expect(condition: bool, message: &str) -> Result<(), Failure> {
    ensure(condition, || message.to_owned())
}

/// An empty string if all is well.
type Wrong = io::Result<&'static str>;

/// One case.
type Step = fn(&Pair) -> Wrong;

fn names(pair: &Pair) -> Wrong {
    for round in 0..10 {
        let (one, two) = (format!("one-{round}"), format!("two-{round}"));
        if pair.there.join(&one).exists() {
            return Ok("a file exists before it is created");
        }
        fs::write(pair.here.join(&one), "x")?;
        if !pair.there.join(&one).exists() {
            return Ok("a new file is not seen");
        }
        fs::rename(pair.here.join(&one), pair.here.join(&two))?;
        if pair.there.join(&one).exists() || !pair.there.join(&two).exists() {
            return Ok("a rename is not seen");
        }
        fs::remove_file(pair.here.join(&two))?;
        if pair.there.join(&two).exists() {
            return Ok("a removal is not seen");
        }
    }
    Ok("")
}

fn content(pair: &Pair) -> Wrong {
    for round in 0_u8..6 {
        let written = vec![round; 300_000 + usize::from(round) * 1000];
        fs::write(pair.here.join("content"), &written)?;
        if fs::read(pair.there.join("content"))? != written {
            return Ok("what was written and closed is not read");
        }
    }
    Ok("")
}

fn small_content(pair: &Pair) -> Wrong {
    for round in 0..40 {
        let written = format!("round {round}");
        fs::write(pair.here.join("small"), &written)?;
        if fs::read_to_string(pair.there.join("small"))? != written {
            return Ok("what was written and closed is not read");
        }
    }
    Ok("")
}

fn open_file(pair: &Pair) -> Wrong {
    let mut writer = File::create(pair.here.join("open"))?;
    let mut reader = File::open(pair.there.join("open"))?;
    for round in 1..=8_u8 {
        writer.write_all(&vec![round; 50_000])?;
        writer.sync_all()?;
        if reader.metadata()?.len() != u64::from(round) * 50_000 {
            return Ok("the size after fsync is not seen by a file that was open before");
        }
        let mut piece = vec![0; 50_000];
        reader.seek(SeekFrom::Start(u64::from(round - 1) * 50_000))?;
        reader.read_exact(&mut piece)?;
        if piece.iter().any(|byte| *byte != round) {
            return Ok("the content after fsync is not read by a file that was open before");
        }
    }
    writer.set_len(10)?;
    if reader.metadata()?.len() != 10 {
        return Ok("truncation is not seen by an open file");
    }
    let mut rest = Vec::new();
    reader.seek(SeekFrom::Start(0))?;
    reader.read_to_end(&mut rest)?;
    Ok(if rest == [1; 10] {
        ""
    } else {
        "after truncation more is read than is there"
    })
}

fn attributes(pair: &Pair) -> Wrong {
    let (here, there) = (pair.here.join("attributes"), pair.there.join("attributes"));
    fs::write(&here, "x")?;
    for mode in [0o600, 0o644, 0o400, 0o755] {
        fs::set_permissions(&here, fs::Permissions::from_mode(mode))?;
        if fs::metadata(&there)?.mode() & 0o7777 != mode {
            return Ok("a mode is not seen");
        }
    }
    std::os::unix::fs::chown(&here, Some(1234), Some(4321))?;
    let found = fs::metadata(&there)?;
    if (found.uid(), found.gid()) != (1234, 4321) {
        return Ok("an owner is not seen");
    }
    let time = std::time::SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    OpenOptions::new().write(true).open(&here)?.set_modified(time)?;
    let (here, there) = (fs::metadata(&here)?, fs::metadata(&there)?);
    if there.modified()? != time {
        return Ok("a time is not seen to the nanosecond");
    }
    let same =
        here.ino() == there.ino() && here.ctime_nsec() == there.ctime_nsec() && here.nlink() == there.nlink();
    Ok(if same {
        ""
    } else {
        "inode, change time or links differ"
    })
}

fn rename_over_open(pair: &Pair) -> Wrong {
    fs::write(pair.here.join("old"), "old content")?;
    fs::write(pair.here.join("new"), "new content")?;
    let mut reader = File::open(pair.there.join("old"))?;
    fs::rename(pair.here.join("new"), pair.here.join("old"))?;
    if fs::read_to_string(pair.there.join("old"))? != "new content" {
        return Ok("the name does not lead to the new file");
    }
    let mut found = String::new();
    reader.read_to_string(&mut found)?;
    Ok(if found == "old content" {
        ""
    } else {
        "the open file is not the old one any more"
    })
}

fn removed_while_open(pair: &Pair) -> Wrong {
    let written = vec![7; 200_000];
    fs::write(pair.here.join("removed"), &written)?;
    let mut reader = File::open(pair.there.join("removed"))?;
    fs::remove_file(pair.here.join("removed"))?;
    if pair.there.join("removed").exists() {
        return Ok("the name is still there");
    }
    if reader.metadata()?.nlink() != 0 {
        return Ok("a removed open file has links");
    }
    let mut found = Vec::new();
    reader.read_to_end(&mut found)?;
    Ok(if found == written {
        ""
    } else {
        "a removed open file is not read as it was"
    })
}

fn links(pair: &Pair) -> Wrong {
    fs::write(pair.here.join("linked"), "shared")?;
    fs::hard_link(pair.there.join("linked"), pair.there.join("second"))?;
    if fs::metadata(pair.here.join("linked"))?.nlink() != 2 {
        return Ok("a second link is not counted");
    }
    fs::write(pair.here.join("second"), "changed")?;
    if fs::read_to_string(pair.there.join("linked"))? != "changed" {
        return Ok("two names are not one file");
    }
    std::os::unix::fs::symlink("linked", pair.there.join("symbolic"))?;
    let found = fs::read_to_string(pair.here.join("symbolic"))?;
    Ok(if found == "changed" {
        ""
    } else {
        "a symbolic link does not lead to its target"
    })
}

fn listing(pair: &Pair) -> Wrong {
    let count = |path: &PathBuf| fs::read_dir(path).map(Iterator::count);
    fs::create_dir(pair.here.join("listed"))?;
    for number in 0..60 {
        let side = if number % 2 == 0 { &pair.here } else { &pair.there };
        fs::write(side.join("listed").join(number.to_string()), "")?;
        if count(&pair.here.join("listed"))? != number + 1 || count(&pair.there.join("listed"))? != number + 1
        {
            return Ok("a listing does not show every entry");
        }
    }
    fs::remove_dir_all(pair.there.join("listed"))?;
    Ok(if pair.here.join("listed").exists() {
        "a removed directory is seen"
    } else {
        ""
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_local_file_system_passes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("both");
        cases(&Pair {
            here: path.clone(),
            there: path,
        })
        .unwrap();
    }

    #[test]
    fn two_separate_directories_do_not() {
        let directory = tempfile::tempdir().unwrap();
        let pair = Pair {
            here: directory.path().join("one"),
            there: directory.path().join("other"),
        };
        assert!(cases(&pair).is_err());
    }
}
