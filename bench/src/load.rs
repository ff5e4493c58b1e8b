//! The load generator: keep-alive HTTP/1.1 connections on one thread, each sending its next
//! request when the last response is complete. It runs as a process of its own, so that it can be
//! pinned to a core apart from the server's.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::footprint;
use crate::generator;
use crate::histogram::Histogram;
use crate::http::{Bodies, Parser};
use crate::machine::CoreTimes;

/// How much is read from a connection at once.
const READ_BYTES: usize = 256 * 1024;
/// A connection that fails this often in a row gives up: the server is gone.
const FAILURES_MAX: u32 = 100;
/// How long after the window a connection may take to finish its last response.
const GRACE: Duration = Duration::from_secs(10);

/// What to ask of which server, and for how long.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LoadArgs {
    /// The server's address.
    #[arg(long)]
    pub(crate) target: SocketAddr,
    /// The Host header. Of several, each request takes the next.
    #[arg(long, required = true)]
    pub(crate) host: Vec<String>,
    /// Visitors, each with an `atoll_id` of its own, that requests come from in turn; 0 for no cookie.
    #[arg(long, default_value_t = 0)]
    pub(crate) visitors: usize,
    /// Concurrent connections.
    #[arg(long)]
    pub(crate) connections: usize,
    /// Milliseconds of load before the measurement.
    #[arg(long)]
    pub(crate) warmup_ms: u64,
    /// Milliseconds measured.
    #[arg(long)]
    pub(crate) window_ms: u64,
    /// Bytes that every body must have; any other length is an error.
    #[arg(long)]
    pub(crate) body_bytes: u64,
    /// The server's core: its busy share is measured.
    #[arg(long)]
    pub(crate) server_core: usize,
    /// The generator's core: its busy share is measured.
    #[arg(long)]
    pub(crate) load_core: usize,
    /// The server's process: the CPU time of it and its descendants is measured.
    #[arg(long)]
    pub(crate) server: Option<u32>,
}

/// What one window showed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measurement {
    /// Right responses completed inside the window.
    pub(crate) requests: u64,
    /// Wrong or failed responses, in the warm-up too.
    pub(crate) errors: u64,
    /// What the first error said.
    pub(crate) first_error: Option<String>,
    pub(crate) requests_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Share of the window in which the server's core was busy, with whatever ran there.
    pub(crate) server_core_busy: f64,
    /// Share of the window in which the generator's core was busy.
    pub(crate) load_core_busy: f64,
    /// Microseconds of the server's CPU time a request, the kernel's part for it included; absent where the server's
    /// process is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) server_cpu_us: Option<f64>,
}

/// The requests to send, in turn over all connections.
struct Turns {
    requests: Vec<String>,
    next: AtomicUsize,
}

struct Tally {
    histogram: Histogram,
    errors: u64,
    first_error: Option<String>,
}

impl LoadArgs {
    /// Makes the load in a process of its own, on its own core.
    pub(crate) fn measure(&self) -> Result<Measurement, String> {
        let values = [
            ("--target", self.target.to_string()),
            ("--visitors", self.visitors.to_string()),
            ("--connections", self.connections.to_string()),
            ("--warmup-ms", self.warmup_ms.to_string()),
            ("--window-ms", self.window_ms.to_string()),
            ("--body-bytes", self.body_bytes.to_string()),
            ("--server-core", self.server_core.to_string()),
            ("--load-core", self.load_core.to_string()),
        ];
        let server = self.server.iter().map(|id| ("--server", id.to_string()));
        let hosts = self.host.iter().map(|host| ("--host", host.clone()));
        let arguments = values
            .into_iter()
            .chain(server)
            .chain(hosts)
            .flat_map(|(name, value)| [name.to_owned(), value]);
        generator::measure(Some(self.load_core), "load", arguments, b"")
    }
}

/// Makes the load, on the calling thread, and measures it.
pub(crate) fn run(args: &LoadArgs) -> std::io::Result<Measurement> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure(args))
}

async fn measure(args: &LoadArgs) -> std::io::Result<Measurement> {
    let tally =
        Arc::new(Mutex::new(Tally { histogram: Histogram::new(), errors: 0, first_error: None }));
    let start = Instant::now() + Duration::from_millis(args.warmup_ms);
    let end = start + Duration::from_millis(args.window_ms);
    let turns = Arc::new(Turns::new(&args.host, args.visitors));
    let connections: Vec<_> = (0..args.connections)
        .map(|_| {
            let (turns, tally) = (Arc::clone(&turns), Arc::clone(&tally));
            tokio::spawn(connection(args.clone(), turns, start, end, tally))
        })
        .collect();

    tokio::time::sleep_until(start.into()).await;
    let before = CoreTimes::read()?;
    let server_before = args.server.map(footprint::cpu_time_of_tree).transpose()?;
    tokio::time::sleep_until(end.into()).await;
    let after = CoreTimes::read()?;
    let server_after = args.server.map(footprint::cpu_time_of_tree).transpose()?;
    for task in connections {
        if tokio::time::timeout_at((end + GRACE).into(), task).await.is_err() {
            lock(&tally).error("a response did not end".to_owned());
        }
    }

    let tally = lock(&tally);
    let server_cpu =
        server_after.zip(server_before).map(|(after, before)| after.saturating_sub(before));
    let micros = |fraction| tally.histogram.quantile(fraction).as_nanos() as f64 / 1_000.0;
    Ok(Measurement {
        requests: tally.histogram.total(),
        errors: tally.errors,
        first_error: tally.first_error.clone(),
        requests_per_second: tally.histogram.total() as f64 * 1_000.0 / args.window_ms as f64,
        p50_us: micros(0.5),
        p99_us: micros(0.99),
        server_core_busy: after.busy_since(&before, args.server_core),
        load_core_busy: after.busy_since(&before, args.load_core),
        server_cpu_us: server_cpu
            .map(|time| time.as_secs_f64() * 1e6 / tally.histogram.total().max(1) as f64),
    })
}

async fn connection(
    args: LoadArgs,
    turns: Arc<Turns>,
    start: Instant,
    end: Instant,
    tally: Arc<Mutex<Tally>>,
) {
    let mut failures = 0;
    while Instant::now() < end && failures < FAILURES_MAX {
        let run = requests(&args, &turns, start, end, &tally, &mut failures);
        if let Err(error) = run.await {
            failures += 1;
            lock(&tally).error(error.to_string());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Sends requests on one connection until the window ends or the connection fails.
async fn requests(
    args: &LoadArgs,
    turns: &Turns,
    start: Instant,
    end: Instant,
    tally: &Mutex<Tally>,
    failures: &mut u32,
) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(args.target).await?;
    stream.set_nodelay(true)?;
    let mut parser = Parser::new(Bodies::Count);
    let mut buffer = vec![0; READ_BYTES];
    let mut sent = Instant::now();
    while sent < end {
        stream.write_all(turns.next().as_bytes()).await?;
        let response = loop {
            let read = stream.read(&mut buffer).await?;
            if read == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let fed = parser.feed(&buffer[..read]);
            if let Some(response) = fed.map_err(|why| std::io::Error::other(why.0))? {
                break response;
            }
        };
        let done = Instant::now();
        if response.status != 200 || response.body_bytes != args.body_bytes {
            return Err(std::io::Error::other(format!(
                "status {} with {} bytes instead of 200 with {}",
                response.status, response.body_bytes, args.body_bytes
            )));
        }
        *failures = 0;
        if done >= start && done < end {
            lock(tally).histogram.record(done - sent);
        }
        sent = done;
    }
    Ok(())
}

/// One thread runs every connection, so the lock is never waited for.
fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Turns {
    fn new(hosts: &[String], visitors: usize) -> Self {
        let cookies: Vec<String> = match visitors {
            0 => vec![String::new()],
            count => (0..count).map(|one| format!("Cookie: atoll_id={one:032x}\r\n")).collect(),
        };
        let of_host = |host: &String| {
            let request =
                |cookie: &String| format!("GET / HTTP/1.1\r\nHost: {host}\r\n{cookie}\r\n");
            cookies.iter().map(request).collect::<Vec<_>>()
        };
        Self { requests: hosts.iter().flat_map(of_host).collect(), next: AtomicUsize::new(0) }
    }

    fn next(&self) -> &str {
        &self.requests[self.next.fetch_add(1, Ordering::Relaxed) % self.requests.len()]
    }
}

impl Tally {
    fn error(&mut self, message: String) {
        self.errors += 1;
        self.first_error.get_or_insert(message);
    }
}
