//! pjdfstest and fsx, as they are published.

use std::time::Duration;

use twinshore_testbed::commands::Run;
use twinshore_testbed::failure::{Failure, make_directory};
use twinshore_testbed::regions::Region;

use crate::context::{Context, ensure};

/// Parts of the reasons for which a test may be skipped, and why that is right.
const SKIPS: [(&str, &str); 6] = [
    (
        "LINK_MAX",
        "pathconf(3) knows the limit of no FUSE file system; the core's own test has it (65,000, EMLINK)",
    ),
    ("chflags", "file flags are of the BSDs"),
    ("nfsv4_acls", "NFSv4 ACLs are of the BSDs"),
    ("stat_st_birthtime", "`struct stat` of Linux has no birth time"),
    ("FreeBSD", "another system"),
    (
        "not allowed in the configuration",
        "remounting read-only changes the whole volume of the other tests",
    ),
];

/// Operations of one run of fsx.
const FSX_OPERATIONS: u32 = 4000;

/// Seeds of fsx: fixed, so that a failure can be repeated.
const FSX_SEEDS: [u64; 2] = [1, 20_26];

/// All of pjdfstest in one region.
pub async fn pjdfstest(context: &mut Context, region: Region) -> Result<(), Failure> {
    let directory = context.path(region, "pjdfstest");
    make_directory(&directory).await?;
    let configuration = context.work.join("pjdfstest.toml");
    let text = format!(
        "[features]\nposix_fallocate = {{}}\nrename_ctime = {{}}\nutime_now = {{}}\nutimensat = {{}}\n\
         [settings]\nnaptime = 0.02\nallow_remount = false\n[dummy_auth]\nentries = [{}]\n",
        two_users()?
    );
    std::fs::write(&configuration, text).map_err(Failure::io("write the configuration of pjdfstest"))?;
    let output = Run::new(context.tool("pjdfstest")?, Duration::from_secs(280))
        .directory(&context.work)
        .arguments([
            "-c".as_ref(),
            configuration.as_os_str(),
            "-p".as_ref(),
            directory.as_os_str(),
        ])
        .arguments(["-s".as_ref(), context.work.as_os_str()])
        .output()
        .await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let log = context.regions.log_directory().join("pjdfstest.log");
    std::fs::write(&log, &text).map_err(Failure::io("keep the output of pjdfstest"))?;
    let failures: Vec<&str> = text.lines().filter(|line| line.ends_with("FAILED")).collect();
    for failure in &failures {
        println!("  {failure}");
    }
    let summary = text
        .lines()
        .rev()
        .find(|line| line.starts_with("Summary: "))
        .unwrap_or("no summary");
    println!("  {summary}");
    explain_skips(&text)?;
    ensure(failures.is_empty() && output.status.success(), || {
        format!("pjdfstest: {summary}")
    })?;
    // A run that found nothing to do is no success.
    ensure(summary.contains(" 398 total"), || {
        format!("pjdfstest did not run everything: {summary}")
    })
}

/// Every skipped test must have one of the reasons.
fn explain_skips(output: &str) -> Result<(), Failure> {
    let mut lines = output.lines().peekable();
    let mut unexplained = Vec::new();
    while let Some(line) = lines.next() {
        if !line.ends_with("skipped") {
            continue;
        }
        let mut reasons = String::new();
        while let Some(reason) = lines.next_if(|line| line.starts_with('\t')) {
            reasons.push_str(reason.trim());
            reasons.push(' ');
        }
        if !SKIPS.iter().any(|(part, _)| reasons.contains(part)) {
            unexplained.push(format!(
                "{} ({})",
                line.trim_end_matches("skipped").trim(),
                reasons.trim()
            ));
        }
    }
    ensure(unexplained.is_empty(), || {
        format!("skipped without an accepted reason: {}", unexplained.join(", "))
    })
}

/// Two users besides root with their groups, as pjdfstest wants them, of those that every Debian has.
fn two_users() -> Result<String, Failure> {
    let read = |path: &str| std::fs::read_to_string(path).map_err(Failure::io(format!("read {path}")));
    let (users, groups) = (read("/etc/passwd")?, read("/etc/group")?);
    let field = |line: &str, index: usize| line.split(':').nth(index).unwrap_or_default().to_owned();
    let mut found = Vec::new();
    for user in users.lines().filter(|line| field(line, 2) != "0") {
        let group = groups
            .lines()
            .find(|group| field(group, 2) == field(user, 3))
            .map(|group| field(group, 0));
        if let Some(group) = group {
            found.push(format!("[\"{}\", \"{group}\"]", field(user, 0)));
        }
    }
    ensure(found.len() >= 2, || {
        "pjdfstest needs two users besides root in /etc/passwd".to_owned()
    })?;
    Ok(format!("{}, {}", found[0], found[1]))
}

/// fsx in one region: reads, writes, mappings, truncation, holes, copies, with the file reopened now and then.
pub async fn fsx(context: &mut Context, region: Region) -> Result<(), Failure> {
    let configuration = context.work.join("fsx.toml");
    let text = "flen = 1048576\n[opsize]\nmax = 131072\n[weights]\nclose_open = 2\ninvalidate = 1\nfsync = 1\nfdatasync = 1\n\
                posix_fallocate = 2\npunch_hole = 4\nsendfile = 2\nposix_fadvise = 1\ncopy_file_range = 3\n";
    std::fs::write(&configuration, text).map_err(Failure::io("write the configuration of fsx"))?;
    for seed in FSX_SEEDS {
        Run::new(context.tool("fsx")?, Duration::from_secs(130))
            .directory(&context.work)
            .argument("-f")
            .argument(&configuration)
            .arguments([
                "-N".to_owned(),
                FSX_OPERATIONS.to_string(),
                "-S".to_owned(),
                seed.to_string(),
                "-P".to_owned(),
            ])
            .argument(context.regions.log_directory())
            .argument(context.path(region, &format!("fsx-{seed}")))
            .success()
            .await?;
        println!("  seed {seed}: {FSX_OPERATIONS} operations");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skips_need_a_reason_from_the_list() {
        let explained = "chflags::set  skipped\n\trequires features: chflags\nopen::x  ok\n";
        assert!(explain_skips(explained).is_ok());
        assert!(explain_skips("open::x  skipped\n\trequires features: utimensat\n").is_err());
        assert!(explain_skips("open::x  skipped\n").is_err());
    }
}
