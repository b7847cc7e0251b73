//! Load on the real `keyholder serve`, the bare baseline beside it, and a report.
//!
//! `make bench` runs everything and writes `target/bench/report.json`; `make bench QUICK=1` measures for less than
//! two minutes. Nothing is asserted here: machines differ. What can be compared between machines are ratios to the
//! baseline, processor time, and numbers of statements. Needs Linux, whose `/proc` tells the processor time.
//!
//! The server is the release binary in a process of its own, on a private Postgres that really writes to a disk
//! (`fsync` and `synchronous_commit` are on). Where there are two processors, the server and Postgres share the
//! first, and the load, the provider and this process have the second. So a figure "per second" is one of *one core
//! for server and database together*.
//!
//! # What is measured
//!
//! **A resolve** against the baseline of `keyholder-bench echo`: a bare tonic server over mTLS that answers every
//! call with the bytes of one real answer of ours. The same client asks both, in rounds that take turns: as many
//! calls in flight as the shape says ([`plan::SHAPES`]), or at a fixed rate, where a latency counts from the moment
//! that the call should have been sent.
//!
//! **The refresher** against the provider of the testkit: how many refreshes a core does and what each costs; what it
//! costs to look for work as the table grows, while nothing or a few a second are due; and a herd of tokens that end in
//! the same minute at a provider that takes only so many calls a second.
//!
//! # The commonest change
//!
//! A new figure is one call of [`report::Report::add`]; its name says its unit or is told one there. All figures of one
//! name are runs of the same measurement, and the report shows their median.

mod cpu;
mod echo;
mod load;
mod pins;
mod plan;
mod plots;
mod refresh;
mod report;
mod resolve;
mod rig;
mod soak;
mod statements;
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum as _};

use pins::Pins;
use plan::Plan;
use refresh::Part;
use report::Report;
use rig::Rig;

/// Whatever stops a bench: it is for people to read.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What can be stopped by a [`Failure`].
type Outcome<T> = Result<T, Failure>;

/// Measure Keyholder.
#[derive(Debug, Parser)]
#[command(name = "keyholder-bench", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure everything.
    All(Options),
    /// Measure resolves against the baseline.
    Resolve(Options),
    /// Measure the refresher.
    Refresh {
        #[command(flatten)]
        options: Options,
        /// What of it.
        #[arg(long, value_delimiter = ',', default_value = "throughput,herd,scheduler")]
        parts: Vec<Part>,
    },
    /// Resolve at most of what the server can do for a while, under changes, and check that nothing is lost or grows.
    Soak {
        #[command(flatten)]
        options: Options,
        /// For how long.
        #[arg(long, default_value_t = 15)]
        minutes: u32,
    },
    /// Be the baseline: answer every call with the same bytes, until the standard input ends.
    Echo {
        /// The folder of `ca.pem`, `server.pem`, `server-key.pem` and `answer`.
        dir: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct Options {
    /// Fewer and shorter runs.
    #[arg(long)]
    quick: bool,
    /// Where the report goes, and the data meanwhile: a folder on a disk.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// The binary; else the one beside this one.
    #[arg(long, env = "KEYHOLDER_BIN")]
    keyholder: Option<PathBuf>,
    /// The binary that was built with the feature `plain`, to be compared with; left out, nothing is.
    #[arg(long)]
    plain: Option<PathBuf>,
    /// Where the figures and plots of a whole run are kept.
    #[arg(long)]
    publish: Option<PathBuf>,
    /// The rate of the open loop, in calls a second.
    #[arg(long)]
    rate: Option<f64>,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::say(&format!("keyholder-bench: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Outcome<()> {
    let (options, resolves, parts, soak) = match command {
        // As each thread of the server is, so that the two differ in nothing but what they do.
        Command::Echo { dir } => {
            return tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?
                .block_on(echo::serve(&dir));
        }
        Command::All(options) => (options, true, Part::value_variants().to_vec(), None),
        Command::Resolve(options) => (options, true, Vec::new(), None),
        Command::Refresh { options, parts } => (options, false, parts, None),
        Command::Soak { options, minutes } => (options, false, Vec::new(), Some(minutes)),
    };
    let plan = Plan::new(options.quick, options.rate);
    let pins = Pins::find();
    pins.hold_client()?;
    let mut report = Report::new(&plan, &pins);
    // One thread: the load must not take the server's core.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let measured = runtime.block_on(async {
        let rig = Rig::start(&options.out, options.keyholder.as_deref(), &pins)?;
        if resolves {
            let plain = options.plain.as_ref().map(std::fs::canonicalize).transpose()?;
            resolve::measure(&rig, &plan, plain.as_deref(), &mut report).await?;
        }
        if let Some(minutes) = soak {
            soak::measure(&rig, &plan, minutes, &mut report).await?;
        }
        refresh::measure(&rig, &plan, &parts, &mut report).await
    });
    // What there is, also after a failure.
    let file = report.write(&options.out)?;
    if let Some(folder) = options.publish.filter(|_| measured.is_ok()) {
        plots::write(&report, &folder)?;
    }
    report::say(&report.table());
    report::say(&file.display().to_string());
    measured
}
