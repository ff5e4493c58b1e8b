//! A generator of single calls to many workers: paced, with latency from the intended moment of
//! each call (so a server that stalls cannot hide it), or back to back. Every answer is compared
//! with what that worker, and no other, must answer.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use crate::histogram::Histogram;
use crate::http::{Bodies, Parser};

const READ_BYTES: usize = 16 * 1024;
/// Connections opened before the first paced call; more are opened when these are taken.
const CONNECTIONS: usize = 16;
/// Paced calls under way at once; any beyond count as failed.
const UNDER_WAY_MAX: usize = 4_000;
/// The clock of timers is too coarse for pacing: from here on a call's moment is waited for awake.
const AWAKE: Duration = Duration::from_millis(2);
/// How long the neighbour's load waits after a failed request.
const NEIGHBOUR_PAUSE: Duration = Duration::from_millis(10);

/// What to call, and when.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Calls {
    pub(crate) target: SocketAddr,
    pub(crate) callees: Vec<Callee>,
    /// Indices of callees.
    pub(crate) order: Vec<usize>,
    /// So many of `order` come first and are not recorded.
    pub(crate) unrecorded: usize,
    pub(crate) pace: Pace,
    /// How often each of `order` is called, at once after the answer, on the same connection.
    pub(crate) times: usize,
    /// A call without an answer by then has failed.
    pub(crate) within_ms: u64,
    pub(crate) neighbour: Option<Neighbour>,
}

/// A worker and its right answer.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Callee {
    pub(crate) host: String,
    pub(crate) answer: String,
}

/// When the next call is made.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) enum Pace {
    PerSecond(f64),
    /// At once after the last, on this many connections.
    BackToBack(usize),
}

/// A worker that is called without a pause while the calls are made. Its answers do not matter.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Neighbour {
    pub(crate) target: SocketAddr,
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) connections: usize,
    /// How long before the first call it begins.
    pub(crate) lead_ms: u64,
}

/// What the calls showed.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// Latencies of the first call of each of `order`, of the second, and so on. A failed call
    /// counts with the time limit, so that failing fast looks no better than being slow.
    pub(crate) latencies: Vec<Histogram>,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
}

struct State {
    calls: Calls,
    idle: RefCell<VecDeque<TcpStream>>,
    seen: RefCell<Seen>,
    /// The place in `order` of the next call back to back.
    next: RefCell<usize>,
}

/// Makes the calls, on the calling thread.
pub(crate) fn run(calls: Calls) -> std::io::Result<Seen> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, make(calls))
}

async fn make(calls: Calls) -> std::io::Result<Seen> {
    let seen =
        Seen { latencies: vec![Histogram::new(); calls.times], errors: 0, first_error: None };
    if let Some(neighbour) = calls.neighbour.clone() {
        let lead = Duration::from_millis(neighbour.lead_ms);
        for _ in 0..neighbour.connections {
            tokio::task::spawn_local(disturb(neighbour.clone()));
        }
        tokio::time::sleep(lead).await;
    }
    let pace = calls.pace;
    let state = Rc::new(State {
        calls,
        idle: RefCell::default(),
        seen: RefCell::new(seen),
        next: RefCell::new(0),
    });
    match pace {
        Pace::PerSecond(rate) => paced(&state, rate).await,
        Pace::BackToBack(connections) => {
            let lanes: Vec<_> = (0..connections)
                .map(|_| tokio::task::spawn_local(back_to_back(Rc::clone(&state))))
                .collect();
            for lane in lanes {
                lane.await.map_err(std::io::Error::other)?;
            }
        }
    }
    Ok(state.seen.borrow().clone())
}

async fn paced(state: &Rc<State>, rate: f64) {
    for _ in 0..CONNECTIONS {
        // What cannot connect now fails, and is counted, at its call.
        if let Ok(stream) = connect(state.calls.target).await {
            state.idle.borrow_mut().push_back(stream);
        }
    }
    let begin = Instant::now() + AWAKE;
    let mut under_way = VecDeque::new();
    for place in 0..state.calls.order.len() {
        let moment = begin + Duration::from_secs_f64(place as f64 / rate);
        tokio::time::sleep_until((moment - AWAKE).into()).await;
        while Instant::now() < moment {
            tokio::task::yield_now().await;
        }
        under_way.retain(|call: &tokio::task::JoinHandle<()>| !call.is_finished());
        if under_way.len() < UNDER_WAY_MAX {
            let state = Rc::clone(state);
            under_way.push_back(tokio::task::spawn_local(async move {
                state.call(place, moment).await;
            }));
        } else {
            state.fail(place, 0, "too many calls are under way".to_owned());
        }
    }
    for call in under_way {
        // A call ends by its time limit, and a panic has been printed.
        let _ = call.await;
    }
}

async fn back_to_back(state: Rc<State>) {
    loop {
        let place = state.next.replace_with(|next| *next + 1);
        if place >= state.calls.order.len() {
            return;
        }
        // Only the calls themselves are of interest, not the connection's making.
        if state.idle.borrow().is_empty()
            && let Ok(stream) = connect(state.calls.target).await
        {
            state.idle.borrow_mut().push_back(stream);
        }
        state.call(place, Instant::now()).await;
    }
}

impl State {
    /// Calls one of `order` as often as planned; the first call's latency counts from `moment`.
    async fn call(&self, place: usize, mut moment: Instant) {
        let callee = &self.calls.callees[self.calls.order[place]];
        let within = Duration::from_millis(self.calls.within_ms);
        let mut stream = self.idle.borrow_mut().pop_front();
        for time in 0..self.calls.times {
            let exchange = exchange(self.calls.target, stream.take(), &callee.host, "/");
            let result = match tokio::time::timeout_at((moment + within).into(), exchange).await {
                Ok(result) => result.map_err(|error| error.to_string()),
                Err(_) => Err(format!("no answer within {within:?}")),
            };
            match result {
                Ok((kept, status, body)) if status == 200 && body == callee.answer.as_bytes() => {
                    self.record(place, time, moment.elapsed());
                    stream = Some(kept);
                }
                Ok((_, status, body)) => {
                    let body = String::from_utf8_lossy(&body);
                    self.fail(place, time, format!("status {status}: {body:.200}"));
                }
                Err(error) => self.fail(place, time, error),
            }
            moment = Instant::now();
        }
        self.idle.borrow_mut().extend(stream);
    }

    fn record(&self, place: usize, time: usize, latency: Duration) {
        if place >= self.calls.unrecorded {
            self.seen.borrow_mut().latencies[time].record(latency);
        }
    }

    fn fail(&self, place: usize, time: usize, error: String) {
        self.record(place, time, Duration::from_millis(self.calls.within_ms));
        let mut seen = self.seen.borrow_mut();
        seen.errors += 1;
        let host = &self.calls.callees[self.calls.order[place]].host;
        seen.first_error.get_or_insert_with(|| format!("{host}: {error}"));
    }
}

async fn disturb(neighbour: Neighbour) {
    let mut stream = None;
    loop {
        let Neighbour { target, host, path, .. } = &neighbour;
        match exchange(*target, stream.take(), host, path).await {
            Ok((kept, ..)) => stream = Some(kept),
            Err(_) => tokio::time::sleep(NEIGHBOUR_PAUSE).await,
        }
    }
}

async fn connect(target: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One request and its answer; answers the connection too, to be used again.
async fn exchange(
    target: SocketAddr,
    stream: Option<TcpStream>,
    host: &str,
    path: &str,
) -> std::io::Result<(TcpStream, u16, Vec<u8>)> {
    let mut stream = match stream {
        Some(stream) => stream,
        None => connect(target).await?,
    };
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut parser = Parser::new(Bodies::Keep);
    let mut buffer = [0; READ_BYTES];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let fed = parser.feed(&buffer[..read]);
        if let Some(response) = fed.map_err(|why| std::io::Error::other(why.0))? {
            return Ok((stream, response.status, response.body));
        }
    }
}
