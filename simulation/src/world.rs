//! One run: builds everything, lets it work under faults, heals it, and checks what is left.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use twinshore_filesystem::vfs::{
    BlockCache, BlockRun, Fault as MountFault, KernelInvalidator, Origin, Surroundings, TaskRunner, Vfs,
    VfsOptions,
};
use twinshore_metadata::core;
use twinshore_metadata::service::state::compaction::CompactionOptions;
use twinshore_metadata::service::state::{Fault, ServiceOptions};
use twinshore_metadata::view::ViewStore as _;
use twinshore_protocol::format::{
    Compression, Durability, Encryption, FORMAT_VERSION, RegionFormat, VolumeFormat, VolumeSettings,
};
use twinshore_protocol::message::{Role, SessionDescription};
use twinshore_protocol::session::SessionOptions;
use twinshore_protocol::{ObjectId, Side, Timestamp, VolumeId};
use twinshore_storage::pair::{BucketPair, PairOptions};

use crate::actor::{Actor, Expected};
use crate::buckets::{Buckets, stored_objects};
use crate::faults::{Targets, strike};
use crate::history::{History, MountNumber};
use crate::host::{Host, HostParts, WALL_START_SECONDS};
use crate::kernel::{Caches, Kernel};
use crate::loss::Losses;
use crate::names::{Namer, Names};
use crate::network::Network;
use crate::random::Random;
use crate::shared::{Shared, name, read_file};
use crate::state::named_objects;
use crate::trace::Trace;
use crate::verdict::Verdict;
use crate::watcher::Watcher;
use crate::worker;

/// The nodes with mounts, and which side is near to each.
const MOUNTS: [(&str, Side); 4] = [
    ("east-1", Side::Primary),
    ("east-2", Side::Primary),
    ("west-1", Side::Target),
    ("west-2", Side::Target),
];

/// The nodes with workers.
const WORKERS: [(&str, Side); 2] = [("worker-east", Side::Primary), ("worker-west", Side::Target)];

/// How long the volume may take to become quiet after everything was healed: sessions that were lost have to expire (60 s),
/// then what they held is cleaned up, packed and copied, with back-off after the faults before.
const QUIET_LIMIT: Duration = Duration::from_mins(15);

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The seed.
    pub seed: u64,
    /// Simulated seconds under faults.
    pub seconds: u64,
    /// A deliberate fault in the service.
    pub fault: Option<Fault>,
    /// A deliberate fault in the mounts.
    pub mount_fault: Option<MountFault>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Report {
    /// Invariants that were broken.
    pub broken: Vec<String>,
    /// The digest of the trace.
    pub digest: String,
    /// How many events there were.
    pub events: u64,
    /// The last of them.
    pub tail: Vec<String>,
}

impl Report {
    /// One word.
    pub fn outcome(&self) -> &'static str {
        if self.broken.is_empty() { "ok" } else { "FAILED" }
    }
}

/// Runs one seed in a thread of its own: one runtime, one thread, paused time.
pub fn run(options: Options) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    let (mut report, losses) = match runtime {
        Ok(runtime) => runtime.block_on(run_inside(options)),
        Err(error) => unreachable!("a runtime without IO needs nothing from the system: {error}"),
    };
    if report.broken.is_empty() {
        match losses.judge() {
            Ok(broken) => report.broken = broken,
            Err(reason) => report.broken.push(reason),
        }
    }
    report
}

async fn run_inside(options: Options) -> (Report, Losses) {
    let trace = Trace::new();
    let verdict = Verdict::default();
    let losses = Losses::default();
    if let Err(reason) = play(options, &trace, &verdict, &losses).await {
        verdict.guilty(reason);
    }
    let report = Report {
        broken: verdict.found(),
        digest: trace.digest(),
        events: trace.events(),
        tail: trace.tail(),
    };
    (report, losses)
}

#[allow(clippy::too_many_lines)] // One run from its beginning to its end, in order.
async fn play(options: Options, trace: &Trace, verdict: &Verdict, losses: &Losses) -> Result<(), String> {
    let started = Instant::now();
    let network = Network::new(options.seed, trace.clone());
    let buckets = Buckets::new(options.seed);
    buckets.claim(&format()).await?;
    let host = Host::start(HostParts {
        seed: options.seed,
        trace: trace.clone(),
        network: network.clone(),
        buckets: buckets.clone(),
        format: format(),
        options: service_options(options.fault),
    })?;
    losses.begin(
        &host,
        &buckets,
        Random::fork(options.seed, "losses"),
        options.seconds,
    );
    let mut workers = Vec::new();
    for (node, near) in WORKERS {
        workers.push(worker::start(&network, &buckets, node, near).await?);
    }
    let until = started + Duration::from_secs(options.seconds);
    let history = History::default();
    let names = Names::default();
    let mut changing = Vec::new();
    let mut programs = Vec::new();
    let mut watchers = Vec::new();
    let mut kernels = Vec::new();
    for ((node, near), mount_number) in MOUNTS.into_iter().zip(0..) {
        let (seed, fault) = (options.seed, options.mount_fault);
        let kernel = mount(&network, &buckets, (node, near), started, seed, fault, trace).await?;
        let shared = |program: &str| Shared {
            name: program.to_owned(),
            kernel: kernel.clone(),
            mount: MountNumber(mount_number),
            history: history.clone(),
            verdict: verdict.clone(),
            trace: trace.clone(),
            random: Random::fork(options.seed, &format!("program {program}")),
        };
        let set_up = |errno| format!("{node} cannot be set up: {errno}");
        if mount_number == 0 {
            shared("set-up").set_up().await.map_err(set_up)?;
        }
        programs.push(Actor::new(shared(node)).await.map_err(set_up)?);
        let changes = Namer::new(shared(&format!("{node}-namer")), names.clone());
        changing.push(changes.await.map_err(set_up)?);
        watchers.push(Watcher::new(shared(&format!("{node}-watcher")), names.clone()));
        kernels.push(kernel);
    }
    let programs: Vec<_> = programs
        .into_iter()
        .map(|program| tokio::spawn(program.work(until)))
        .collect();
    let watchers: Vec<_> = watchers
        .into_iter()
        .map(|watcher| tokio::spawn(watcher.work(until)))
        .collect();
    let changing: Vec<_> = changing
        .into_iter()
        .map(|program| tokio::spawn(program.work(until)))
        .collect();
    let nodes = MOUNTS
        .iter()
        .chain(&WORKERS)
        .map(|(node, _)| (*node).to_owned())
        .collect();
    let targets = Targets {
        host: host.clone(),
        network: network.clone(),
        buckets: buckets.clone(),
        nodes,
    };
    strike(
        targets,
        Random::fork(options.seed, "faults"),
        trace.clone(),
        verdict.clone(),
        until,
    )
    .await;
    let died = |error| format!("a program died: {error}");
    let mut expected = Vec::new();
    for watcher in watchers {
        watcher.await.map_err(died)?;
    }
    for program in programs {
        expected.push(program.await.map_err(died)?);
    }
    for program in changing {
        program.await.map_err(died)?;
    }
    for kernel in kernels {
        // What a program could not write has been reported to it; what it holds open must be given back.
        let flushed = kernel.vfs.shut_down().await;
        trace.event("mount", &format!("shut down: {flushed:?}"));
    }
    if verdict.is_guilty() {
        return Ok(());
    }
    if let Some(reason) = host.stopped() {
        return Err(reason);
    }
    wait_until_quiet(&host, &buckets, trace).await?;
    losses.take("at the end", &host, &buckets);
    check_files(
        &network,
        &buckets,
        started,
        options.seed,
        (expected.as_slice(), &names),
        verdict,
        trace,
    )
    .await?;
    check_state(&host, verdict)
}

fn service_options(fault: Option<Fault>) -> ServiceOptions {
    ServiceOptions {
        fault,
        // Files are small and a run is short: whatever can be compacted is, all the time.
        compaction: CompactionOptions {
            pause: Duration::from_secs(3),
            idle_seconds: 1,
            least_sparse_bytes: 1,
            least_extents: 4,
        },
        ..ServiceOptions::default()
    }
}

fn format() -> VolumeFormat {
    let region = |name: &str| RegionFormat {
        name: name.to_owned(),
        bucket: format!("file:///{name}"),
    };
    VolumeFormat {
        version: FORMAT_VERSION,
        volume: VolumeId([7; 16]),
        name: "simulated".to_owned(),
        encryption: Encryption::None,
        settings: VolumeSettings {
            primary: region("east"),
            target: Some(region("west")),
            replication_enabled: true,
            compression: Compression::Lz4,
            durability: Durability::Close,
            inline_limit_bytes: 16 << 10,
            trash_retention_seconds: 0,
            synchronisation_interval_seconds: 0,
            bandwidth_limit_bytes_per_second: [0, 0],
        },
    }
}

/// The latency of a node's line to the service, one way.
pub fn latency_ms(near: Side) -> u64 {
    match near {
        Side::Primary => 1,
        Side::Target => 15,
    }
}

async fn mount(
    network: &Network,
    buckets: &Buckets,
    (node, near): (&str, Side),
    started: Instant,
    seed: u64,
    fault: Option<MountFault>,
    trace: &Trace,
) -> Result<Kernel, String> {
    let transport = network.transport(node, latency_ms(near));
    let session = SessionOptions {
        volume: None,
        role: Role::Client,
        near,
        task_slots: 0,
        description: SessionDescription {
            host: node.to_owned(),
            process: 1,
            purpose: "mount".to_owned(),
            node: None,
        },
        request_deadline: Duration::from_secs(30),
    };
    let caches = Caches::new(node, Random::fork(seed, &format!("kernel {node}")), trace.clone());
    let surroundings = || Surroundings {
        buckets: pair(buckets, near),
        blocks: Arc::new(NoCache),
        kernel: Arc::clone(&caches) as Arc<dyn KernelInvalidator>,
        tasks: Arc::new(NoTasks),
    };
    let clock = Arc::new(move || Timestamp::since_epoch(started.elapsed()).plus_seconds(WALL_START_SECONDS));
    // A mount that starts while the service is down tries again, as a person or the kubelet would.
    loop {
        let options = VfsOptions {
            buffer_size_bytes: 16 << 20,
            fault,
            ..VfsOptions::new(clock.clone())
        };
        match Vfs::connect(Arc::clone(&transport), session.clone(), surroundings(), options).await {
            Ok(vfs) => return Ok(Kernel::new(vfs, caches)),
            Err(error) if started.elapsed() < QUIET_LIMIT * 4 => {
                drop(error);
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(error) => return Err(format!("{node} cannot mount: {error}")),
        }
    }
}

/// The pair of buckets as a node sees it.
pub fn pair(buckets: &Buckets, near: Side) -> BucketPair {
    let [primary, target] = Side::BOTH.map(|side| Some(buckets.store(side)));
    BucketPair::new(near, primary, target, PairOptions::default())
}

/// Waits until nothing is owed, inline, dead or orphaned any more, and both buckets hold the same.
async fn wait_until_quiet(host: &Host, buckets: &Buckets, trace: &Trace) -> Result<(), String> {
    let deadline = Instant::now() + QUIET_LIMIT;
    loop {
        let disquiet = disquiet(host, buckets)?;
        let Some(disquiet) = disquiet else {
            trace.event("world", "quiet");
            return Ok(());
        };
        if Instant::now() > deadline {
            return Err(format!(
                "the volume does not become quiet after everything was healed: {disquiet}"
            ));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// What is still to be done, if anything.
fn disquiet(host: &Host, buckets: &Buckets) -> Result<Option<String>, String> {
    if let Some(reason) = host.stopped() {
        return Err(reason);
    }
    let view = host.durable_view()?;
    let core_error = |error: core::CoreError| error.to_string();
    for side in Side::BOTH {
        let watermark = core::outbox::watermark(&view, side, view.applied()).map_err(core_error)?;
        if watermark < view.applied() {
            return Ok(Some(format!(
                "{side} has everything up to {watermark} of {}",
                view.applied()
            )));
        }
        let deletions = core::outbox::pending_deletions(&view, side, 1).map_err(core_error)?;
        if !deletions.is_empty() {
            return Ok(Some(format!("{} is to be deleted from {side}", deletions[0])));
        }
    }
    let named = named_objects(&view)?;
    for side in Side::BOTH {
        let archived = host.archived()[side as usize];
        if archived < view.applied() {
            return Ok(Some(format!(
                "the archive in {side} has record {archived} of {}",
                view.applied()
            )));
        }
    }
    let known: BTreeSet<ObjectId> = named.iter().map(|record| record.object).collect();
    for side in Side::BOTH {
        let stored: BTreeSet<ObjectId> = stored_objects(buckets, side);
        if let Some(missing) = known.difference(&stored).next() {
            return Err(format!(
                "metadata names {missing}, and nothing is owed, but {side} does not have it"
            ));
        }
    }
    Ok(None)
}

/// Every file whose last change was acknowledged is there, as seen from both regions.
async fn check_files(
    network: &Network,
    buckets: &Buckets,
    started: Instant,
    seed: u64,
    (expected, names): (&[Expected], &Names),
    verdict: &Verdict,
    trace: &Trace,
) -> Result<(), String> {
    for (node, near) in [("judge-east", Side::Primary), ("judge-west", Side::Target)] {
        let kernel = mount(network, buckets, (node, near), started, seed, None, trace).await?;
        for Expected { home, files } in expected {
            for (file, content) in files {
                let found = read_file(&kernel, *home, &name(file)).await;
                let place = format!("{node}: {file} in {home}");
                match found {
                    Ok(Some(found)) if found == *content => {}
                    Ok(Some(found)) => verdict.guilty(format!(
                        "{place} holds {} bytes which are not the {} that were acknowledged",
                        found.len(),
                        content.len()
                    )),
                    Ok(None) => verdict.guilty(format!("{place} is lost")),
                    Err(errno) => verdict.guilty(format!("{place} cannot be read: {errno}")),
                }
            }
        }
        for (directory, file, exists) in names.durable() {
            let found = kernel.lookup(directory, &file).await;
            if !found.is_ok_and(|found| found.is_some() == exists) {
                let must = if exists { "exist" } else { "not exist" };
                verdict.guilty(format!(
                    "{node}: {file} in {directory} must {must}, but it is {found:?}"
                ));
            }
        }
        kernel
            .vfs
            .shut_down()
            .await
            .map_err(|errno| format!("{node} cannot be shut down: {errno}"))?;
    }
    Ok(())
}

/// The metadata does not contradict itself.
fn check_state(host: &Host, verdict: &Verdict) -> Result<(), String> {
    let view = host.durable_view()?;
    for problem in core::check::consistency(&view).map_err(|error| error.to_string())? {
        verdict.guilty(format!("metadata: {problem}"));
    }
    Ok(())
}

/// No block is kept: every read goes to the buckets, where the faults are.
struct NoCache;

#[async_trait]
impl BlockCache for NoCache {
    async fn get(&self, _: ObjectId, _: Range<u64>) -> Vec<BlockRun> {
        Vec::new()
    }

    fn insert(&self, _: ObjectId, _: BlockRun, _: Origin) {}
}

struct NoTasks;

impl TaskRunner for NoTasks {}

#[cfg(test)]
#[path = "world_tests.rs"]
mod tests;
