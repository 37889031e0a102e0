//! The line between the regions, as pods see it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::address::{Region, S3_PORT};
use crate::command::Run;
use crate::failure::{Failure, at_once, chain};
use crate::patience::{Look, wait_for};
use crate::s3::Keys;
use crate::scenarios::presign::{Request, presign};
use crate::scenarios::{Cluster, Context, POD_PATIENCE, busybox_pod, http};
use crate::wan::ROUND_TRIP;

const POD: &str = "client";

/// A round trip that no machine has by accident.
const LONG_ROUND_TRIP: Duration = Duration::from_millis(120);

/// The region of signatures that the servers expect; they have one each and do not know where they are.
const SIGNING_REGION: &str = "us-east-1";

/// For an object to come over the line, or not.
const WGET_SECONDS: u32 = 5;

pub fn run(context: &Context) -> Result<(), Failure> {
    context.step("a pod in each region", || {
        at_once("start clients", &context.clusters(), |cluster| {
            let pod = busybox_pod(POD, "exec sleep 1000000", None, "32Mi");
            cluster.kubectl.apply(&pod.to_string())?;
            cluster.kubectl.wait_for_pod(POD, POD_PATIENCE)
        })
    })?;
    for cluster in context.clusters() {
        context.step(&format!("{}: an object is stored", cluster.region), || {
            store(cluster)
        })?;
    }
    for cluster in context.clusters() {
        let region = cluster.region;
        context.step(&format!("{region}: a pod reads from both S3 servers"), || {
            reads(context, cluster, region)?;
            reads(context, cluster, region.other())
        })?;
    }
    context.step("a server refuses the other one's secret", || {
        let keys = Keys {
            access_key: context.east.s3.keys()?.access_key,
            secret_key: context.west.s3.keys()?.secret_key,
        };
        let path = address("GET", &context.east, &keys)?;
        let answer = http::request("GET", Region::East.s3(), S3_PORT, &path, "")
            .map_err(Failure::io("ask the S3 server of east"))?;
        if answer.status == 403 {
            return Ok(());
        }
        Err(Failure::wrong(format!("it answered {answer:?}")))
    })?;
    context.step("packets take the round trip", || {
        takes(context, ROUND_TRIP)?;
        context.wan.set_round_trip(LONG_ROUND_TRIP)?;
        takes(context, LONG_ROUND_TRIP)?;
        context.wan.set_round_trip(ROUND_TRIP)
    })?;
    context.step("cut: each region has its own server only", || {
        context.wan.cut()?;
        for cluster in context.clusters() {
            reads(context, cluster, cluster.region)?;
            if let Ok(said) = read(context, cluster, cluster.region.other()) {
                return Err(Failure::wrong(format!("{} read {said}", cluster.region)));
            }
        }
        Ok(())
    })?;
    context.step("healed: both have both", || {
        context.wan.heal()?;
        for cluster in context.clusters() {
            reads(context, cluster, cluster.region.other())?;
        }
        Ok(())
    })?;
    context.step("without the line there is no path", || {
        context.wan.stop()?;
        for cluster in context.clusters() {
            if let Ok(said) = read(context, cluster, cluster.region.other()) {
                return Err(Failure::wrong(format!("{} read {said}", cluster.region)));
            }
        }
        context.wan.start()
    })
}

fn object(region: Region) -> String {
    format!("kept in {region}")
}

/// Path and query of the object in a region's bucket.
fn address(method: &str, server: &Cluster, keys: &Keys) -> Result<String, Failure> {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_err(|_| Failure::wrong("the clock is before 1970"))?
        .as_secs();
    let time = Run::new(
        "date",
        ["--utc", &format!("--date=@{seconds}"), "+%Y%m%dT%H%M%SZ"],
    )
    .output()?;
    Ok(presign(
        &Request {
            method,
            host: &format!("{}:{S3_PORT}", server.region.s3()),
            path: &format!("/{}/suite-wan", server.s3.bucket()),
            region: SIGNING_REGION,
            time: &time,
            seconds: 3600,
        },
        keys,
    ))
}

fn store(cluster: &Cluster) -> Result<(), Failure> {
    let path = address("PUT", cluster, &cluster.s3.keys()?)?;
    let body = object(cluster.region);
    let answer = http::request("PUT", cluster.region.s3(), S3_PORT, &path, &body)
        .map_err(Failure::io(format!("ask the S3 server of {}", cluster.region)))?;
    if answer.status == 200 {
        return Ok(());
    }
    Err(Failure::wrong(format!("it answered {answer:?}")))
}

/// What a pod reads from a region's server.
fn read(context: &Context, from: &Cluster, region: Region) -> Result<String, Failure> {
    let server = context.cluster(region);
    let path = address("GET", server, &server.s3.keys()?)?;
    let url = format!("http://{}:{S3_PORT}{path}", region.s3());
    from.kubectl
        .shell(POD, &format!("timeout {WGET_SECONDS} wget -qO- '{url}'"))
}

fn reads(context: &Context, from: &Cluster, region: Region) -> Result<(), Failure> {
    let what = format!("a pod in {} to read from {region}", from.region);
    wait_for(&what, POD_PATIENCE, || match read(context, from, region) {
        Ok(said) => Look::at(said == object(region), said),
        Err(error) => Look::NotYet(chain(&error)),
    })?;
    Ok(())
}

/// The shortest of some pings from west to east. How much longer is a matter of the machine's load, not of the line.
fn takes(context: &Context, round_trip: Duration) -> Result<(), Failure> {
    let target = Region::East.s3().to_string();
    let said = context
        .west
        .kubectl
        .exec(POD, ["ping", "-c", "5", "-i", "0.2", "-q", &target])?;
    let shortest =
        shortest_ping(&said).ok_or_else(|| Failure::wrong(format!("ping said no round trip: {said}")))?;
    println!("    asked for {round_trip:?}, measured {shortest:?}");
    if shortest >= round_trip && shortest < round_trip * 2 {
        return Ok(());
    }
    Err(Failure::wrong(format!("{shortest:?} instead of {round_trip:?}")))
}

/// `round-trip min/avg/max = 30.123/30.456/31.000 ms`
fn shortest_ping(said: &str) -> Option<Duration> {
    let numbers = said.lines().last()?.split_once("= ")?.1;
    let milliseconds: f64 = numbers.split('/').next()?.parse().ok()?;
    Some(Duration::from_secs_f64(milliseconds / 1000.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_round_trip_is_read() {
        let said = "5 packets transmitted, 5 packets received, 0% packet loss\nround-trip min/avg/max = 30.500/31.1/32.0 ms";
        assert_eq!(shortest_ping(said), Some(Duration::from_micros(30_500)));
    }
}
