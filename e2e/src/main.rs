//! `twinshore-lab`: two real regional clusters on this machine. `docs/lab.md` tells how to work with it.

use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::{Parser, Subcommand};
use twinshore_e2e::address::{Node, Region};
use twinshore_e2e::failure::{Failure, chain};
use twinshore_e2e::lab;
use twinshore_e2e::node::{self, NodeHandle};
use twinshore_e2e::place::Place;
use twinshore_e2e::s3::S3Server;
use twinshore_e2e::scenarios::{self, Chosen};
use twinshore_e2e::wan::{self, Wan};

/// Two real Kubernetes clusters on this machine, `east` (two nodes) and `west` (one node).
#[derive(Debug, Parser)]
#[command(name = "twinshore-lab", max_term_width = 110)]
struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Bring it up, or what is missing of it.
    Up {
        /// The round trip between the regions, in milliseconds; 30 for a new line.
        #[arg(long, value_name = "MS")]
        rtt: Option<u64>,
        /// Where our own programs are, for their image; by default where this program is.
        #[arg(long, value_name = "DIR")]
        product: Option<PathBuf>,
    },
    /// Take it down, with everything it made.
    Down,
    /// A table of what runs. Fails if something is not as it should be.
    Status,
    /// The log of a part: `east-1 kubelet`, `east s3`, `line`. Without arguments: which there are.
    Logs {
        /// A node, a region, or `line`.
        of: Option<String>,
        /// A component of the node, or `s3`.
        component: Option<String>,
        /// Go on as it grows.
        #[arg(long, short)]
        follow: bool,
        /// How many of the last lines.
        #[arg(long, short = 'n', default_value_t = 200)]
        lines: u32,
    },
    /// A shell, or a command, that finds kubectl, helm and the clusters.
    Shell {
        /// The command instead of a shell.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// The line between the regions.
    Wan {
        #[command(subcommand)]
        change: WanChange,
    },
    /// A region's S3 server: kill it, start it, or show its keys as environment variables.
    S3 {
        /// The region.
        #[arg(value_parser = parse_region)]
        region: Region,
        /// What to do.
        #[arg(value_parser = ["stop", "start", "keys"])]
        action: String,
    },
    /// Make an image of a directory and bring it into every node.
    Load {
        /// The directory, which becomes the root of the image.
        directory: PathBuf,
        /// The image's name, with a tag.
        name: String,
        /// The program to run in it, with arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        entrypoint: Vec<String>,
    },
    /// Run suites: those that every change has to pass, or those named.
    Test {
        /// The suites.
        names: Vec<String>,
        /// Show them.
        #[arg(long)]
        list: bool,
    },
    /// Run suites: those that take longer, or those named.
    Suites {
        /// The suites.
        names: Vec<String>,
        /// Show them.
        #[arg(long)]
        list: bool,
    },
    /// Deploy an application in both regions, show that it works, and remove it.
    Demo {
        /// Leave it running.
        #[arg(long)]
        keep: bool,
    },
    /// Process 1 of a node.
    #[command(hide = true)]
    RunNode {
        #[arg(value_parser = parse_node)]
        node: Node,
    },
    /// The process of the line.
    #[command(hide = true)]
    RunWan,
}

#[derive(Debug, Subcommand)]
enum WanChange {
    /// Nothing arrives any more.
    Cut,
    /// Everything arrives again.
    Heal,
    /// Change it.
    Set {
        /// The round trip, in milliseconds.
        #[arg(long, value_name = "MS")]
        rtt: u64,
    },
}

fn parse_region(name: &str) -> Result<Region, String> {
    Region::named(name).ok_or_else(|| "the regions are east and west".to_owned())
}

fn parse_node(name: &str) -> Result<Node, String> {
    let names: Vec<String> = Node::all().map(|node| node.to_string()).collect();
    Node::named(name).ok_or_else(|| format!("the nodes are {}", names.join(", ")))
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(options.verb, &Place::find()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Nothing can be done if nobody reads it.
            let _ = writeln!(io::stderr(), "lab: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// Whether all is well.
fn run(verb: Verb, place: &Place) -> Result<bool, Failure> {
    match verb {
        Verb::Up { rtt, product } => {
            let product = match product {
                Some(product) => product,
                None => programs_beside_this()?,
            };
            let round_trip = rtt.map(Duration::from_millis);
            lab::up(place, &lab::Options { round_trip, product })?;
        }
        Verb::Down => lab::down(place)?,
        Verb::Status => return lab::status(place),
        Verb::Logs { of: None, .. } => print_logs(),
        Verb::Logs {
            of: Some(of),
            component,
            follow,
            lines,
        } => {
            let path = log_of(place, &of, component.as_deref())?;
            return Err(show(&path, follow, lines));
        }
        Verb::Shell { command } => return Err(shell(place, command)?),
        Verb::Wan { change } => {
            let wan = Wan::of(place);
            match change {
                WanChange::Cut => wan.cut()?,
                WanChange::Heal => wan.heal()?,
                WanChange::Set { rtt } => wan.set_round_trip(Duration::from_millis(rtt))?,
            }
        }
        Verb::S3 { region, action } => {
            let server = S3Server::of(place, region);
            match action.as_str() {
                "stop" => server.stop()?,
                "start" => server.start(place)?,
                _ => {
                    let keys = server.keys()?;
                    println!(
                        "AWS_ENDPOINT_URL={}\nAWS_ACCESS_KEY_ID={}\nAWS_SECRET_ACCESS_KEY={}",
                        region.s3_endpoint(),
                        keys.access_key,
                        keys.secret_key
                    );
                }
            }
        }
        Verb::Load {
            directory,
            name,
            entrypoint,
        } => lab::load(place, &directory, &name, entrypoint)?,
        Verb::Test { list: true, .. } | Verb::Suites { list: true, .. } => {
            for suite in scenarios::ALL {
                let gates = if suite.gates { "test  " } else { "suites" };
                println!("{gates}  {:<18} {}", suite.name, suite.about);
            }
        }
        Verb::Test { names, .. } => return scenarios::run(place, &names, Chosen::Gate),
        Verb::Suites { names, .. } => return scenarios::run(place, &names, Chosen::Others),
        Verb::Demo { keep } => return scenarios::demo::run(place, keep),
        Verb::RunNode { node } => node::run(place, node)?,
        Verb::RunWan => wan::run(place, wan::ROUND_TRIP)?,
    }
    Ok(true)
}

fn programs_beside_this() -> Result<PathBuf, Failure> {
    let this = std::env::current_exe().map_err(Failure::io("find this program"))?;
    Ok(this.parent().unwrap_or(Path::new("/")).to_owned())
}

fn print_logs() {
    for node in Node::all() {
        println!("{node} node|{}", node::component_names(node).join("|"));
    }
    for region in Region::BOTH {
        println!("{region} s3");
    }
    println!("line");
}

fn log_of(place: &Place, of: &str, component: Option<&str>) -> Result<PathBuf, Failure> {
    if let (Some(node), Some(component)) = (Node::named(of), component)
        && (component == "node" || node::component_names(node).contains(&component))
    {
        return Ok(NodeHandle::of(place, node).log(component));
    }
    match (Region::named(of), component) {
        (Some(region), Some("s3")) => Ok(S3Server::of(place, region).log()),
        (None, None) if of == "line" => Ok(Wan::of(place).log()),
        _ => Err(Failure::Missing {
            what: format!("there is no log of {of} {}", component.unwrap_or_default()),
            remedy: "`lab logs` without arguments shows which there are".to_owned(),
        }),
    }
}

/// Becomes `tail`. Returns only if that fails.
fn show(path: &Path, follow: bool, lines: u32) -> Failure {
    let mut command = Command::new("tail");
    command.arg(format!("--lines={lines}"));
    if follow {
        command.arg("--follow=name");
    }
    Failure::io("run tail")(command.arg(path).exec())
}

/// Becomes a shell, or the command. Returns only if that fails.
fn shell(place: &Place, command: Vec<String>) -> Result<Failure, Failure> {
    let programs = place.programs()?;
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = command.into_iter();
    let program = command
        .next()
        .or_else(|| std::env::var("SHELL").ok())
        .unwrap_or_else(|| "/bin/sh".to_owned());
    let mut child = Command::new(&program);
    child
        .args(command)
        .env("KUBECONFIG", place.kubeconfig())
        .env("PATH", format!("{}:{path}", programs.display()));
    Ok(Failure::io(format!("run {program}"))(child.exec()))
}
