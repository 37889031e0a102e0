//! The command line.

use std::path::PathBuf;

use clap::Parser;

/// Two regions on this machine and a tour through what they do, on real files.
///
/// It brings up an S3 server for each region, a line with a delay between them, the metadata service, workers and mounts. Needs
/// root, /dev/fuse, git and sqlite3.
#[derive(Debug, Parser)]
#[command(name = "twinshore-demo", max_term_width = 110)]
pub struct Options {
    /// Leave everything running after the tour, until Ctrl-C.
    #[arg(long)]
    pub keep: bool,
    /// Only bring up the two regions. With --keep: to work in them by hand.
    #[arg(long)]
    pub no_tour: bool,
    /// Where everything lies; mounted are DIR/east and DIR/west. A new temporary directory by default. What an earlier demo left
    /// in it is replaced.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Milliseconds from one region to the other and back.
    #[arg(long, value_name = "MS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(0..=10_000))]
    pub rtt: u64,
    /// The tree to work on, all of it. By default a part (1,500 files or more) of the sources of Rust's or Go's standard library,
    /// or of the packages that this was built from.
    #[arg(long, value_name = "DIR")]
    pub input: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Options::command().debug_assert();
    }
}
