//! Real programs on the mounts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use twinshore_testbed::commands::Run;
use twinshore_testbed::failure::{Failure, blocking, make_directory, same, write_file};
use twinshore_testbed::regions::Region;
use twinshore_testbed::tree::{Manifest, Names, Selection, known_source_trees};

use crate::context::{Context, ensure};

const PATIENCE: Duration = Duration::from_mins(2);

/// Commits of each side.
const COMMITS: u32 = 6;

/// Transactions of each side at once.
const TRANSACTIONS: u32 = 15;

/// Both regions commit in turn in clones on the volume, pushing to and pulling from a repository on the volume.
pub async fn git(context: &mut Context) -> Result<(), Failure> {
    let shared = |region| context.path(region, "shared.git");
    let clone = |region: Region| context.path(region, &format!("clone-{region}"));
    let root = context.regions.mount_point(Region::East);
    Run::git(&root, PATIENCE)
        .arguments(["init", "-q", "--bare", "shared.git"])
        .success()
        .await?;
    for region in Region::BOTH {
        let root = context.regions.mount_point(region);
        Run::git(&root, PATIENCE)
            .arguments(["clone", "-q", "--no-hardlinks"])
            .arguments([shared(region), clone(region)])
            .success()
            .await?;
    }
    for number in 0..COMMITS {
        for region in Region::BOTH {
            let directory = clone(region);
            if number > 0 || region == Region::West {
                // The remote's path differs by region: it is named each time.
                Run::git(&directory, PATIENCE)
                    .arguments(["pull", "-q", "--rebase"])
                    .argument(shared(region))
                    .argument("main")
                    .success()
                    .await?;
            }
            let file = directory.join(format!("{region}-{number}"));
            write_file(&file, format!("{number}\n").repeat(5000)).await?;
            Run::git(&directory, PATIENCE)
                .arguments(["add", "--all"])
                .success()
                .await?;
            let message = format!("Commit {number} of {region}");
            Run::git(&directory, PATIENCE)
                .arguments(["commit", "-q", "-m", &message])
                .success()
                .await?;
            Run::git(&directory, PATIENCE)
                .arguments(["push", "-q"])
                .argument(shared(region))
                .argument("HEAD:main")
                .success()
                .await?;
        }
    }
    for region in Region::BOTH {
        Run::git(&shared(region), PATIENCE)
            .arguments(["fsck", "--full", "--strict"])
            .success()
            .await?;
        let count = Run::git(&shared(region), PATIENCE)
            .arguments(["rev-list", "--count", "main"])
            .success()
            .await?
            .text();
        ensure(count == (2 * COMMITS).to_string(), || {
            format!("{count} commits in {region}")
        })?;
    }
    Run::git(&shared(Region::East), PATIENCE)
        .arguments(["gc", "-q"])
        .success()
        .await?;
    Run::git(&shared(Region::West), PATIENCE)
        .arguments(["fsck", "--full", "--strict"])
        .success()
        .await?;
    Ok(())
}

/// Both regions write into one database at once; every transaction is there and the file is whole.
pub async fn sqlite(context: &mut Context) -> Result<(), Failure> {
    let sqlite = |region, script: &str| {
        Run::new("sqlite3", PATIENCE)
            .arguments(["-batch", "-bail", "-cmd", ".timeout 60000"])
            .argument(context.path(region, "both.sqlite"))
            .argument(script)
    };
    sqlite(
        Region::East,
        "CREATE TABLE t (region TEXT, number INTEGER, filler TEXT)",
    )
    .success()
    .await?;
    let transactions = |region: Region| {
        let insert = |number| format!("INSERT INTO t VALUES ('{region}', {number}, hex(randomblob(3000)));");
        (0..TRANSACTIONS).map(insert).collect::<String>()
    };
    let (east, west) = tokio::join!(
        sqlite(Region::East, &transactions(Region::East)).success(),
        sqlite(Region::West, &transactions(Region::West)).success(),
    );
    east?;
    west?;
    for region in Region::BOTH {
        let found = sqlite(region, "PRAGMA integrity_check; SELECT count(*) FROM t")
            .success()
            .await?
            .text();
        ensure(found == format!("ok\n{}", 2 * TRANSACTIONS), || {
            format!("in {region} sqlite says {found}")
        })?;
    }
    // A crash in the middle of a transaction: its rollback journal is played back from the other side.
    let killed = context.work.join("killed.sql");
    let script = "PRAGMA cache_size=5; BEGIN; UPDATE t SET filler = hex(randomblob(4000));\n.shell kill -9 $PPID\nCOMMIT;";
    std::fs::write(&killed, script).map_err(Failure::io("write a script"))?;
    let ended = sqlite(Region::East, &format!(".read {}", killed.display()))
        .output()
        .await?;
    ensure(!ended.status.success(), || "sqlite survived kill -9".to_owned())?;
    let check = "PRAGMA integrity_check; SELECT count(*) FROM t WHERE length(filler) = 6000";
    let found = sqlite(Region::West, check).success().await?.text();
    ensure(found == format!("ok\n{}", 2 * TRANSACTIONS), || {
        format!("after a crash in east, west finds {found}")
    })
}

/// A real source tree.
fn source_tree(files: usize) -> Result<Selection, Failure> {
    for root in known_source_trees().iter().filter(|root| root.is_dir()) {
        let part = Selection::part(root, files, files * 3).map_err(Failure::io("read a source tree"))?;
        if part.files >= files {
            return Ok(part);
        }
    }
    Err(Failure::Wrong(format!(
        "no source tree with {files} files was found"
    )))
}

async fn manifest(root: PathBuf, names: Option<Vec<String>>) -> Result<Manifest, Failure> {
    blocking("reading a tree", PATIENCE, move || {
        let names = names.as_deref().map_or(Names::All, Names::Only);
        Manifest::read(&root, names, 8).map_err(Failure::io(format!("read {}", root.display())))
    })
    .await
}

/// Packs a tree in one region, unpacks it in the other, synchronises it back with rsync.
pub async fn tar_and_rsync(context: &mut Context) -> Result<(), Failure> {
    let input = source_tree(150)?;
    let expected = manifest(input.root.clone(), Some(input.names.clone())).await?;
    let archive = context.path(Region::East, "tree.tar");
    Run::new("tar", PATIENCE)
        .arguments([Path::new("-C"), &input.root, Path::new("-cf"), &archive])
        .arguments(&input.names)
        .success()
        .await?;
    for region in Region::BOTH {
        let unpacked = context.path(region, &format!("unpacked-{region}"));
        make_directory(&unpacked).await?;
        Run::new("tar", PATIENCE)
            .arguments([
                Path::new("-C"),
                &unpacked,
                Path::new("-xpf"),
                &context.path(region, "tree.tar"),
            ])
            .success()
            .await?;
        let seen = manifest(context.path(region.other(), &format!("unpacked-{region}")), None).await?;
        same(
            &expected,
            &seen,
            "the input",
            &format!("what {} sees", region.other()),
        )?;
    }
    println!(
        "  tar: {} files packed in east, unpacked on both sides",
        expected.files()
    );
    let (from, to) = (
        context.path(Region::West, "unpacked-east/"),
        context.path(Region::West, "copied/"),
    );
    for what in ["", "changed"] {
        if !what.is_empty() {
            // The selection's first name may be a file or a directory; this one is new in either case.
            let target = from.join("added");
            write_file(&target, what).await?;
        }
        Run::new("rsync", PATIENCE)
            .arguments(["-a", "--delete", "--checksum"])
            .arguments([&from, &to])
            .success()
            .await?;
        let wanted = manifest(context.path(Region::East, "unpacked-east"), None).await?;
        let found = manifest(context.path(Region::East, "copied"), None).await?;
        same(&wanted, &found, "the source", "the copy")?;
    }
    let again = Run::new("rsync", PATIENCE)
        .arguments(["-a", "--itemize-changes"])
        .arguments([&from, &to])
        .success()
        .await?
        .text();
    ensure(again.is_empty(), || {
        format!("rsync finds something to do in a copy that it just made: {again}")
    })?;
    println!("  rsync: copied, updated, and then nothing left to do");
    Ok(())
}

/// A program of several modules, built with source and target directory on the volume, changed in west and built again.
pub async fn compiler(context: &mut Context) -> Result<(), Failure> {
    const MODULES: usize = 30;
    let package = context.path(Region::East, "package");
    make_directory(&package.join("src")).await?;
    let write = async |path: &str, text: String| write_file(&package.join(path), text).await;
    write(
        "Cargo.toml",
        "[package]\nname = \"sum\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[workspace]\n".to_owned(),
    )
    .await?;
    for number in 0..MODULES {
        write(
            &format!("src/part{number}.rs"),
            format!("pub fn value() -> u64 {{ {number} }}\n"),
        )
        .await?;
    }
    let sum: Vec<String> = (0..MODULES)
        .map(|number| format!("part{number}::value()"))
        .collect();
    let modules: Vec<String> = (0..MODULES).map(|number| format!("mod part{number};")).collect();
    let main = format!(
        "{}\nfn main() {{ println!(\"{{}}\", {}); }}\n",
        modules.join("\n"),
        sum.join(" + ")
    );
    write("src/main.rs", main).await?;
    let build = |region| {
        Run::new("cargo", Duration::from_secs(200))
            .directory(&context.path(region, "package"))
            .environment("CARGO_TARGET_DIR", context.path(region, "package/target"))
            .arguments(["run", "--quiet", "--offline"])
    };
    let first = build(Region::East).success().await?.text();
    let expected: usize = (0..MODULES).sum();
    ensure(first == expected.to_string(), || {
        format!("the program says {first}")
    })?;
    let changed = context.path(Region::West, "package/src/part0.rs");
    write_file(&changed, "pub fn value() -> u64 { 1000 }\n").await?;
    let second = build(Region::West).success().await?.text();
    ensure(second == (expected + 1000).to_string(), || {
        format!("the program built in west says {second}")
    })?;
    let binary = context.path(Region::East, "package/target/debug/sum");
    let third = Run::new(binary, PATIENCE).success().await?.text();
    ensure(third == second, || {
        format!("the program built in west says {third} in east")
    })
}
