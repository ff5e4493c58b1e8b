//! The load generator: keep-alive HTTP/1.1 connections on one thread, each sending its next
//! request when the last response is complete. It runs as a process of its own, so that it can be
//! pinned to a core apart from the server's.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::generator;
use crate::http::{Bodies, Parser};
use crate::window::{Measurement, Span, Window};

/// How much is read from a connection at once.
const READ_BYTES: usize = 256 * 1024;
/// A connection that fails this often in a row gives up: the server is gone.
const FAILURES_MAX: u32 = 100;

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
    /// Bytes that every body must have; any other length is an error.
    #[arg(long)]
    pub(crate) body_bytes: u64,
    #[command(flatten)]
    pub(crate) span: Span,
}

/// The requests to send, in turn over all connections.
pub(crate) struct Turns {
    requests: Vec<String>,
    next: AtomicUsize,
}

impl LoadArgs {
    /// Makes the load in a process of its own, on its own core.
    pub(crate) fn measure(&self) -> Result<Measurement, String> {
        let values = [
            ("--target", self.target.to_string()),
            ("--visitors", self.visitors.to_string()),
            ("--connections", self.connections.to_string()),
            ("--warmup-ms", self.span.warmup_ms.to_string()),
            ("--window-ms", self.span.window_ms.to_string()),
            ("--body-bytes", self.body_bytes.to_string()),
            ("--server-core", self.span.server_core.to_string()),
            ("--load-core", self.span.load_core.to_string()),
        ];
        let hosts = self.host.iter().map(|host| ("--host", host.clone()));
        let server = self.span.server.iter().map(|id| ("--server", id.to_string()));
        let values = values.into_iter().chain(server);
        let arguments = values.chain(hosts).flat_map(|(name, value)| [name.to_owned(), value]);
        generator::measure(Some(self.span.load_core), "load", arguments, b"")
    }
}

/// Makes the load, on the calling thread, and measures it.
pub(crate) fn run(args: &LoadArgs) -> std::io::Result<Measurement> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure(args))
}

async fn measure(args: &LoadArgs) -> std::io::Result<Measurement> {
    let window = Window::begin(args.span);
    let turns = Arc::new(Turns::new(&args.host, args.visitors));
    let client = |_| tokio::spawn(client(args.clone(), turns.clone(), window.clone()));
    window.watch((0..args.connections).map(client).collect()).await
}

/// Keeps a connection busy, and makes it anew when it fails.
async fn client(args: LoadArgs, turns: Arc<Turns>, window: Arc<Window>) {
    let mut failures = 0;
    while !window.is_over() && failures < FAILURES_MAX {
        let run = async {
            let stream = connect(args.target).await?;
            ask(stream, &turns, args.body_bytes, &window, &mut failures).await
        };
        if let Err(error) = run.await {
            failures += 1;
            window.error(error.to_string());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Connects, without delays for small segments.
pub(crate) async fn connect(target: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends requests on one connection until the window ends or the connection fails. A right response resets the count
/// of failures.
pub(crate) async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    turns: &Turns,
    body_bytes: u64,
    window: &Window,
    failures: &mut u32,
) -> std::io::Result<()> {
    let mut parser = Parser::new(Bodies::Count);
    let mut buffer = vec![0; READ_BYTES];
    let mut sent = Instant::now();
    while !window.is_over() {
        stream.write_all(turns.next().as_bytes()).await?;
        stream.flush().await?;
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
        check(response.status, response.body_bytes, body_bytes).map_err(std::io::Error::other)?;
        *failures = 0;
        sent = window.record(sent);
    }
    Ok(())
}

/// Whether a response is right.
pub(crate) fn check(status: u16, body_bytes: u64, expected_bytes: u64) -> Result<(), String> {
    if status == 200 && body_bytes == expected_bytes {
        return Ok(());
    }
    Err(format!("status {status} with {body_bytes} bytes instead of 200 with {expected_bytes}"))
}

impl Turns {
    pub(crate) fn new(hosts: &[String], visitors: usize) -> Self {
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
