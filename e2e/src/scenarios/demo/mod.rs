//! `lab demo`: a real application in both regions. What one region writes the other shows, over HTTP and as a database, and both buckets end up with
//! everything. Every number that is printed was measured, every content compared.

mod application;
mod report;

use std::time::{Duration, Instant};

use crate::failure::{Failure, chain};
use crate::image;
use crate::kubectl::{Kubectl, condition_of, summary};
use crate::lab::{is_up, load_image};
use crate::patience::{Look, wait_for};
use crate::place::Place;
use crate::scenarios::claims::{claim, class, is_bound, same};
use crate::scenarios::deployment::{self, READY_PATIENCE, resource};
use crate::scenarios::{Cluster, Context, POD_PATIENCE, claims};

use application::{LABEL, LEDGER, PRESS, SITE, SITE_PORT, ledger, press, site};
use report::{Report, Row};

/// The namespace in both clusters.
const NAMESPACE: &str = "demo";

/// How much is written in each direction.
const ARTICLES: u32 = 20;
const ARTICLE_KIB: u32 = 512;
const LETTERS: u32 = 20;
const LETTER_KIB: u32 = 64;
const TRANSACTIONS: u32 = 40;
const ENTRIES_EACH: u32 = 10;

/// Runs it, and prints how it ended. Whether all came out right.
pub fn run(place: &Place, keep: bool) -> Result<bool, Failure> {
    if !is_up(place)? {
        return Err(Failure::Missing {
            what: "the lab is not up".to_owned(),
            remedy: "bring it up with `cargo xtask lab up`".to_owned(),
        });
    }
    let result = in_context(place, keep);
    match &result {
        Ok(()) => println!("lab demo: ok"),
        Err(error) => println!("lab demo: FAILED ({})", chain(error)),
    }
    Ok(result.is_ok())
}

fn in_context(place: &Place, keep: bool) -> Result<(), Failure> {
    let left = Context::open(place, NAMESPACE)?;
    let is_there = |cluster: &Cluster| cluster.kubectl.find(&format!("namespace/{NAMESPACE}"));
    if is_there(&left.east)?.is_some() || is_there(&left.west)?.is_some() {
        left.step("what an earlier demo has left is removed", || remove(&left))?;
    }
    let context = Context::set_up(place, NAMESPACE)?;
    let mut report = Report::default();
    let shown = steps(&context, &mut report);
    report.print();
    if shown.is_err() {
        claims::tell_logs(&context);
        context.tell_events();
    }
    if keep && shown.is_ok() {
        println!(
            "everything goes on: kubectl --context west --namespace {NAMESPACE} get rvol,pvc,pods\nto remove it: cargo xtask lab demo"
        );
        return shown;
    }
    let removed = context.step("everything is removed again", || remove(&context));
    shown.and(removed).and(context.clean_up())
}

fn steps(context: &Context, report: &mut Report) -> Result<(), Failure> {
    let (east, west) = (&context.east, &context.west);
    context.step("the application's image in every node", || {
        load_image(&context.place, "application-image", &image::application::image()?)
    })?;
    deployment::bring_up(context)?;
    context.step("the same claim in both clusters", || {
        for cluster in context.clusters() {
            cluster.kubectl.apply(&class(context).to_string())?;
            cluster
                .kubectl
                .apply(&claim("newspaper", "ReadWriteMany", "1Gi").to_string())?;
        }
        is_bound(&east.kubectl, "newspaper")?;
        is_bound(&west.kubectl, "newspaper")
    })?;
    context.step("press and ledger in east, web server in west", || {
        east.kubectl.apply(&press().to_string())?;
        east.kubectl.apply(&ledger().to_string())?;
        west.kubectl.apply(&site().to_string())?;
        for (cluster, name) in [(east, PRESS), (east, LEDGER), (west, SITE)] {
            cluster
                .kubectl
                .wait_for_rollout(&format!("deployment/{name}"), POD_PATIENCE)?;
        }
        Ok(())
    })?;
    context.step("east prints articles, west serves the same over HTTP", || {
        articles(east, west, report)
    })?;
    context.step("west takes letters, east reads the same", || {
        letters(west, east, report)
    })?;
    context.step("east keeps a ledger in SQLite, west reads the books", || {
        books(&east.kubectl, &west.kubectl, report)
    })?;
    context.step(
        "the ledger's pod is killed: nothing that was booked is lost",
        || killed(&east.kubectl, report),
    )?;
    context.step("the lag falls to nothing: both buckets hold everything", || {
        in_step(context, report)
    })
}

fn shell(kubectl: &Kubectl, deployment: &str, script: &str) -> Result<String, Failure> {
    kubectl.shell(&format!("deployment/{deployment}"), script)
}

fn articles(east: &Cluster, west: &Cluster, report: &mut Report) -> Result<(), Failure> {
    let begin = Instant::now();
    let printed = shell(
        &east.kubectl,
        PRESS,
        &format!(
            "mkdir -p /data/articles && cd /data/articles && for n in $(seq {ARTICLES}); do dd if=/dev/urandom of=$n bs=1k count={ARTICLE_KIB} \
             2>/dev/null || exit 1; done && sha256sum $(seq {ARTICLES})"
        ),
    )?;
    let written = begin.elapsed();
    let begin = Instant::now();
    let served = shell(
        &west.kubectl,
        SITE,
        &format!(
            "for n in $(seq {ARTICLES}); do wget -q -O - http://127.0.0.1:{SITE_PORT}/$n | sha256sum | sed \"s/-/$n/\"; done"
        ),
    )?;
    same(&printed, &served)?;
    report.add(Row {
        what: "articles, served over HTTP",
        way: "east -> west",
        amount: format!("{ARTICLES} of {ARTICLE_KIB} KiB"),
        written,
        read: begin.elapsed(),
        check: "every SHA-256 is the same".to_owned(),
    });
    Ok(())
}

fn letters(west: &Cluster, east: &Cluster, report: &mut Report) -> Result<(), Failure> {
    let begin = Instant::now();
    let sent = shell(
        &west.kubectl,
        SITE,
        &format!(
            "mkdir -p /data/letters && cd /data/letters && for n in $(seq {LETTERS}); do dd if=/dev/urandom of=$n.part bs=1k count={LETTER_KIB} \
             2>/dev/null && mv $n.part $n || exit 1; done && sha256sum $(seq {LETTERS})"
        ),
    )?;
    let written = begin.elapsed();
    let begin = Instant::now();
    let read = shell(
        &east.kubectl,
        PRESS,
        "cd /data/letters && sha256sum $(ls | sort -n)",
    )?;
    same(&sent, &read)?;
    report.add(Row {
        what: "letters, renamed into place",
        way: "west -> east",
        amount: format!("{LETTERS} of {LETTER_KIB} KiB"),
        written,
        read: begin.elapsed(),
        check: "every SHA-256 is the same, no other name is there".to_owned(),
    });
    Ok(())
}

/// What the books say: whether they are whole, how many entries there are and their sum.
const AUDIT: &str = "sqlite3 /data/ledger.db 'pragma integrity_check; select count(*), total(amount), max(transaction_number) from entries;'";

fn books(east: &Kubectl, west: &Kubectl, report: &mut Report) -> Result<(), Failure> {
    let begin = Instant::now();
    shell(
        east,
        LEDGER,
        &format!(
            "set -e; sqlite3 /data/ledger.db 'create table entries (transaction_number integer, amount integer);'; for t in $(seq {TRANSACTIONS}); \
             do {{ echo 'begin;'; for e in $(seq {ENTRIES_EACH}); do echo \"insert into entries values ($t, $e);\"; done; echo 'commit;'; }} \
             | sqlite3 -bail /data/ledger.db; done"
        ),
    )?;
    let written = begin.elapsed();
    let begin = Instant::now();
    let audited = shell(west, SITE, AUDIT)?;
    same(&expected_books(), &audited)?;
    report.add(Row {
        what: "SQLite, committed transactions",
        way: "east -> west",
        amount: format!("{TRANSACTIONS} of {ENTRIES_EACH} rows"),
        written,
        read: begin.elapsed(),
        check: "integrity_check is ok, count and sum are right".to_owned(),
    });
    Ok(())
}

fn expected_books() -> String {
    let entries = TRANSACTIONS * ENTRIES_EACH;
    let sum = TRANSACTIONS * ENTRIES_EACH * (ENTRIES_EACH + 1) / 2;
    format!("ok\n{entries}|{sum}.0|{TRANSACTIONS}")
}

/// In the middle of a transaction, without a moment to end it.
fn killed(east: &Kubectl, report: &mut Report) -> Result<(), Failure> {
    shell(
        east,
        LEDGER,
        "((echo 'begin; insert into entries values (99, 99);'; sleep 1000) | sqlite3 /data/ledger.db) > /dev/null 2>&1 & \
         while [ ! -s /data/ledger.db-journal ]; do sleep 0.1; done",
    )?;
    let begin = Instant::now();
    let selector = format!("--selector=app={LEDGER}");
    east.command(["delete", "pods", &selector, "--grace-period=0", "--force"])
        .done()?;
    east.wait_for_rollout(&format!("deployment/{LEDGER}"), POD_PATIENCE)?;
    let audited = wait_for("the ledger to be read by the new pod", POD_PATIENCE, || {
        match shell(east, LEDGER, AUDIT) {
            Ok(said) => Look::Done(said),
            // The pod that was killed may still be the one that is entered.
            Err(error) => Look::NotYet(chain(&error)),
        }
    })?;
    same(&expected_books(), &audited)?;
    report.add(Row {
        what: "SQLite, after its pod was killed",
        way: "east",
        amount: format!("{} rows", TRANSACTIONS * ENTRIES_EACH),
        written: Duration::ZERO,
        read: begin.elapsed(),
        check: "rolled back to the last commit, integrity_check is ok".to_owned(),
    });
    Ok(())
}

/// Both clusters say so, and that of the primary has it from the metadata service.
fn in_step(context: &Context, report: &mut Report) -> Result<(), Failure> {
    let begin = Instant::now();
    for cluster in context.clusters() {
        let mut seen: Vec<String> = Vec::new();
        cluster
            .kubectl
            .wait_until(&resource(), READY_PATIENCE, |volume| {
                let lag = volume["status"]["lag"].as_str().unwrap_or("unknown");
                if seen.last().is_none_or(|last| last != lag) {
                    seen.push(lag.to_owned());
                }
                let is_in_sync =
                    condition_of(volume, "InSync").is_some_and(|condition| condition["status"] == "True");
                Look::at(is_in_sync && lag == "0s", summary(volume))
            })?;
        println!("    {} saw a lag of {}", cluster.region, seen.join(", then "));
    }
    report.add(Row {
        what: "copies in the other bucket",
        way: "both",
        amount: "everything".to_owned(),
        written: Duration::ZERO,
        read: begin.elapsed(),
        check: "InSync is True and the lag 0 s in both clusters".to_owned(),
    });
    Ok(())
}

fn remove(context: &Context) -> Result<(), Failure> {
    for cluster in context.clusters() {
        let ours = format!("--selector={LABEL}");
        cluster
            .kubectl
            .command(["delete", "deployments,pods", &ours, "--timeout=60s"])
            .patience(POD_PATIENCE)
            .done()?;
    }
    claims::remove(context)
}
