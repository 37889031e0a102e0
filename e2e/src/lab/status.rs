//! How the lab is, as a table.

use crate::address::{Node, Region};
use crate::failure::{Failure, chain};
use crate::kubectl::{Kubectl, condition_of};
use crate::lab::usage::{Processes, Usage};
use crate::node::NodeHandle;
use crate::place::Place;
use crate::process::Process;
use crate::s3::S3Server;
use crate::wan::Wan;

/// A line of the table.
struct Row {
    what: String,
    state: String,
    usage: Option<Usage>,
    detail: String,
}

/// Whether any node runs.
pub fn is_up(place: &Place) -> Result<bool, Failure> {
    for node in Node::all() {
        if NodeHandle::of(place, node).process()?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Prints the table. Whether all is well.
pub fn status(place: &Place) -> Result<bool, Failure> {
    let processes = Processes::look();
    let mut rows = Vec::new();
    for region in Region::BOTH {
        for node in region.nodes() {
            rows.push(node_row(place, node, &processes)?);
        }
        rows.push(s3_row(place, region, &processes)?);
    }
    rows.push(wan_row(place, &processes)?);
    print!("{}", table(&rows));
    Ok(rows.iter().all(|row| row.state == "ready"))
}

fn used(processes: &Processes, process: Option<Process>) -> Option<Usage> {
    process.map(|process| processes.usage(process.pid()))
}

fn node_row(place: &Place, node: Node, processes: &Processes) -> Result<Row, Failure> {
    let process = NodeHandle::of(place, node).process()?;
    let (state, detail) = if process.is_none() {
        ("down", String::new())
    } else {
        match Kubectl::of(place, node.region)?.get(&format!("node/{node}")) {
            Ok(object) => {
                let ready = condition_of(&object, "Ready");
                let is_ready = ready.is_some_and(|ready| ready["status"] == "True");
                let message = ready
                    .and_then(|ready| ready["message"].as_str())
                    .unwrap_or_default();
                let detail = if is_ready {
                    format!("{}, pods {}", node.address(), node.pods())
                } else {
                    message.to_owned()
                };
                (if is_ready { "ready" } else { "not ready" }, detail)
            }
            Err(error) => ("not ready", chain(&error)),
        }
    };
    Ok(Row {
        what: node.to_string(),
        state: state.to_owned(),
        usage: used(processes, process),
        detail,
    })
}

fn s3_row(place: &Place, region: Region, processes: &Processes) -> Result<Row, Failure> {
    let server = S3Server::of(place, region);
    let process = server.process()?;
    let (state, detail) = match process {
        None => ("down", String::new()),
        Some(_) if server.listens() => {
            let keys = server.keys()?;
            let detail = format!(
                "{}, bucket {}, access key {}",
                region.s3_endpoint(),
                server.bucket(),
                keys.access_key
            );
            ("ready", detail)
        }
        Some(_) => ("not ready", "accepts no connection".to_owned()),
    };
    Ok(Row {
        what: format!("{region} S3"),
        state: state.to_owned(),
        usage: used(processes, process),
        detail,
    })
}

fn wan_row(place: &Place, processes: &Processes) -> Result<Row, Failure> {
    let wan = Wan::of(place);
    let process = wan.process()?;
    let (state, detail) = match (process, wan.status()) {
        (None, _) => ("down", "the regions have no path to each other".to_owned()),
        (Some(_), Err(error)) => ("not ready", chain(&error)),
        (Some(_), Ok([east, west])) => (
            if east.is_open && west.is_open {
                "ready"
            } else {
                "cut"
            },
            format!(
                "round trip {} ms; from east {} packets, {} lost; from west {}, {}",
                east.round_trip.as_millis(),
                east.counts.packets,
                east.counts.lost,
                west.counts.packets,
                west.counts.lost
            ),
        ),
    };
    Ok(Row {
        what: "line".to_owned(),
        state: state.to_owned(),
        usage: used(processes, process),
        detail,
    })
}

fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<8}  {:<9}  {:>8}  {:>9}  {:>9}  {}\n",
        "what", "state", "memory", "processor", "processes", "detail"
    );
    for row in rows {
        let [memory, processor, processes] = row.usage.map_or([const { String::new() }; 3], |usage| {
            [
                format!("{} MiB", usage.memory_bytes >> 20),
                format!("{} s", usage.processor_ticks / 100),
                usage.processes.to_string(),
            ]
        });
        let line = format!(
            "{:<8}  {:<9}  {memory:>8}  {processor:>9}  {processes:>9}  {}",
            row.what, row.state, row.detail
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_down_uses_nothing() {
        let rows = [Row {
            what: "east-1".to_owned(),
            state: "down".to_owned(),
            usage: None,
            detail: String::new(),
        }];
        assert_eq!(table(&rows).lines().last(), Some("east-1    down"));
    }
}
