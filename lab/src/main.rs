//! The `lab` command: a node, traffic, the demo and its faults.
//!
//! It parses, dispatches and returns an exit status; everything else is in the library.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use lab::demo::{self, DemoCommand, DemoOptions, Kind};
use lab::faults::Faults;
use lab::node::{self, NoRedis, NodeOptions};
use lab::traffic::{Traffic, TrafficOptions};

/// The exit status of a real node that starts without Redis.
const NO_REDIS: u8 = 3;

/// A laboratory for ratelimiter-exporter: reference nodes, traffic, faults and the demo.
#[derive(Debug, Parser)]
#[command(name = "lab")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one limiter node
    Node(NodeArgs),
    /// Send checks to nodes on this machine, and count the answers
    Traffic(TrafficArgs),
    /// Run a limiter with the exporter beside it, and walk through the faults it finds
    Demo(DemoArgs),
    /// Do something to a running demo
    Fault {
        /// The folder of the demo
        #[arg(long, default_value = "target/demo", global = true)]
        dir: PathBuf,
        #[command(subcommand)]
        command: DemoCommand,
    },
}

#[derive(Debug, clap::Args)]
struct NodeArgs {
    /// Its id in the registry
    #[arg(long)]
    id: String,
    /// Where its state lives, as redis://HOST:PORT
    #[arg(long, value_name = "URL")]
    redis: String,
    /// Where it listens [default: a free port of 127.0.0.1]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// The address it registers [default: where it listens]
    #[arg(long, value_name = "ADDR")]
    advertise: Option<String>,
    /// The limit of keys without one of their own
    #[arg(
        long,
        value_name = "N",
        default_value_t = 10,
        allow_negative_numbers = true
    )]
    default_limit: i64,
    /// The window of keys without one of their own, in milliseconds
    #[arg(
        long,
        value_name = "N",
        default_value_t = 60_000,
        allow_negative_numbers = true
    )]
    default_window_ms: i64,
    /// How often it renews its registration, which lives three times as long
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    heartbeat_seconds: u64,
    /// What it does wrong, as in PUT /lab/faults
    #[arg(long, value_name = "JSON", default_value = "{}", value_parser = parse_faults)]
    faults: Box<Faults>,
}

#[derive(Debug, clap::Args)]
struct TrafficArgs {
    /// A node's address, IP:PORT; repeat for more
    #[arg(long = "node", value_name = "ADDR", required = true)]
    nodes: Vec<String>,
    /// Checks a second, over all nodes
    #[arg(long, value_name = "N", default_value_t = 60.0)]
    rate: f64,
    /// Over how many keys
    #[arg(long, value_name = "N", default_value_t = 30)]
    keys: usize,
    /// For how long [default: until it is interrupted]
    #[arg(long = "for", value_name = "SECONDS")]
    seconds: Option<u64>,
}

#[derive(Debug, clap::Args)]
struct DemoArgs {
    /// End after the tour; successfully only if every invariant was seen to fail and recover and,
    /// where Prometheus and Alertmanager are installed, every page arrived
    #[arg(long)]
    exit: bool,
    /// Where the exporter listens
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:9972")]
    listen: SocketAddr,
    /// Where the demo keeps its files, and `lab fault` finds it
    #[arg(long, default_value = "target/demo")]
    dir: PathBuf,
    /// The exporter to run [default: the one built beside this program]
    #[arg(long, value_name = "FILE")]
    exporter: Option<PathBuf>,
    /// The folder with the rules for Prometheus and the configuration for Alertmanager
    #[arg(long, value_name = "DIR", default_value = "alerts")]
    alerts: PathBuf,
    /// A real application with a limiter of this kind, in place of the reference limiter
    #[arg(long)]
    kind: Option<Kind>,
    /// The folder with the applications
    #[arg(long, value_name = "DIR", default_value = "tests/limiters/apps")]
    apps: PathBuf,
}

/// One thread: a child ends with the thread that started it.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match Args::parse().command {
        Command::Node(args) => run_node(args).await,
        Command::Traffic(args) => status_of(run_traffic(args).await),
        Command::Demo(args) => {
            let outcome = demo::run(DemoOptions {
                exit: args.exit,
                listen: args.listen,
                dir: args.dir,
                exporter: args.exporter,
                alerts: args.alerts,
                kind: args.kind,
                apps: args.apps,
            });
            match outcome.await {
                Ok(true) => ExitCode::SUCCESS,
                Ok(false) => ExitCode::FAILURE,
                Err(error) => status_of(Err(error)),
            }
        }
        Command::Fault { dir, command } => {
            let done = demo::send_command(&dir, &command).await;
            status_of(done.map(|done| println!("{done}")))
        }
    }
}

async fn run_node(args: NodeArgs) -> ExitCode {
    let options = NodeOptions {
        id: args.id,
        redis_url: args.redis,
        listen: args.listen,
        advertise: args.advertise,
        default_limit: args.default_limit,
        default_window_ms: args.default_window_ms,
        heartbeat_seconds: args.heartbeat_seconds,
        faults: *args.faults,
    };
    match node::run(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab node: {error:#}");
            ExitCode::from(if error.is::<NoRedis>() { NO_REDIS } else { 1 })
        }
    }
}

async fn run_traffic(args: TrafficArgs) -> anyhow::Result<()> {
    let traffic = Traffic::start(TrafficOptions {
        nodes: args.nodes,
        keys: args.keys,
        rate_per_second: args.rate,
        key_prefix: "user:".to_owned(),
    })?;
    let enough = async {
        match args.seconds {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = enough => {}
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    println!(
        "sent {}, allowed {}, refused {}, failed {}",
        traffic.sent(),
        traffic.allowed(),
        traffic.refused(),
        traffic.failed()
    );
    traffic.stop().await;
    Ok(())
}

fn parse_faults(text: &str) -> Result<Box<Faults>, serde_json::Error> {
    serde_json::from_str(text)
}

fn status_of(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}
