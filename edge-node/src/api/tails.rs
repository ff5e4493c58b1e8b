//! Live tails: made by the API, read over a WebSocket whose URL carries the secret. A tail ends
//! with its socket, on request, with its worker, or when its time is over.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{ConnectInfo, Path, State};
use axum::http::{Extensions, HeaderMap, StatusCode, header};
use axum::response::Response;
use axum::routing::{any, delete, get};
use serde::Deserialize;
use serde_json::{Value, json};
use subtle::ConstantTimeEq;
use tokio::sync::watch;
use tokio::time::Instant;

use super::ApiState;
use super::auth::{Target, forbidden};
use super::body::JsonBody;
use super::envelope::{Answer, ApiError, Envelope, code};
use super::tail_message::{self, Filter};
use super::time::iso8601;
use crate::observe::{Heard, Listener};
use crate::registry::{WorkerRef, now_ms};

const PROTOCOL: &str = "trace-v1";
/// How long a tail lives.
const TAIL_S_MAX: u64 = 6 * 3_600;
/// How long a tail waits for its socket.
const CONNECT_S_MAX: u64 = 300;
/// Tails of one worker at once.
const TAILS_PER_WORKER_MAX: usize = 10;
/// Tails of the node at once.
const TAILS_MAX: usize = 1_000;
const FILTERS_MAX: usize = 32;
/// What a client may send in one message, in bytes: it only says hello and pings.
const CLIENT_MESSAGE_BYTES_MAX: usize = 4 << 10;
/// How long one message may take to be sent before the socket is given up.
const SEND_MS_MAX: u64 = 30_000;
/// A client that is silent for so long is gone: it pings every ten seconds.
const SILENCE_MS_MAX: u64 = 60_000;

pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/accounts/{account}/workers/scripts/{worker}/tails", get(list).post(create))
        .route("/accounts/{account}/workers/scripts/{worker}/tails/{id}", delete(remove))
}

pub(super) fn socket_route() -> Router<ApiState> {
    Router::new().route("/tails/{id}/{secret}", any(connect))
}

/// The tails of this node.
#[derive(Clone, Default)]
pub(super) struct Tails {
    open: Arc<Mutex<HashMap<String, Tail>>>,
}

struct Tail {
    worker: WorkerRef,
    secret: String,
    filters: Vec<Filter>,
    /// The address of whoever made the tail.
    own: Option<IpAddr>,
    expires: Instant,
    expires_ms: u64,
    socket: Socket,
}

enum Socket {
    /// None has been opened yet, and none may be after this time.
    Awaited(Instant),
    /// Dropping the sender, with its tail, ends it.
    Open { _close: watch::Sender<()> },
}

/// What a socket needs of its tail.
struct Session {
    id: String,
    worker: WorkerRef,
    filters: Vec<Filter>,
    own: Option<IpAddr>,
    expires: Instant,
    closed: watch::Receiver<()>,
}

impl Tails {
    fn open(&self) -> MutexGuard<'_, HashMap<String, Tail>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, id: String, tail: Tail) -> Result<(), ApiError> {
        let now = Instant::now();
        let mut open = self.open();
        open.retain(|_, tail| match tail.socket {
            Socket::Awaited(until) => now < until,
            Socket::Open { .. } => now < tail.expires,
        });
        let of_worker = open.values().filter(|other| other.worker == tail.worker).count();
        if of_worker >= TAILS_PER_WORKER_MAX || open.len() >= TAILS_MAX {
            return Err(ApiError::new(
                StatusCode::TOO_MANY_REQUESTS,
                code::TOO_MANY,
                format!(
                    "the limit of {TAILS_PER_WORKER_MAX} tails of a worker is reached: close one first"
                ),
            ));
        }
        open.insert(id, tail);
        Ok(())
    }

    /// Takes a tail into use by the one socket that it may have.
    fn claim(&self, id: &str, secret: &str) -> Option<Session> {
        let mut open = self.open();
        let tail = open.get_mut(id)?;
        if !bool::from(tail.secret.as_bytes().ct_eq(secret.as_bytes())) {
            return None;
        }
        match tail.socket {
            Socket::Awaited(until) if Instant::now() < until => {}
            _ => return None,
        }
        let (close, closed) = watch::channel(());
        tail.socket = Socket::Open { _close: close };
        Some(Session {
            id: id.to_owned(),
            worker: tail.worker.clone(),
            filters: tail.filters.clone(),
            own: tail.own,
            expires: tail.expires,
            closed,
        })
    }

    fn remove(&self, worker: &WorkerRef, id: &str) {
        let mut open = self.open();
        if open.get(id).is_some_and(|tail| tail.worker == *worker) {
            open.remove(id);
        }
    }

    /// Ends every tail of a worker.
    pub(super) fn close_worker(&self, worker: &WorkerRef) {
        self.open().retain(|_, tail| tail.worker != *worker);
    }

    fn of_worker(&self, worker: &WorkerRef) -> Vec<Value> {
        let open = self.open();
        let own = open.iter().filter(|(_, tail)| tail.worker == *worker);
        own.map(|(id, tail)| json!({ "id": id, "expires_at": iso8601(tail.expires_ms) })).collect()
    }
}

#[derive(Default, Deserialize)]
struct NewTail {
    #[serde(default)]
    filters: Vec<Filter>,
}

async fn create(
    State(state): State<ApiState>,
    Target(target): Target,
    headers: HeaderMap,
    extensions: Extensions,
    JsonBody(new): JsonBody<Option<NewTail>>,
) -> Answer {
    let filters = new.unwrap_or_default().filters;
    if filters.len() > FILTERS_MAX {
        return Err(ApiError::invalid(format!("a tail has at most {FILTERS_MAX} filters")));
    }
    let worker = target.clone();
    state.registry(move |registry| registry.worker(&worker)).await?;
    let id = hex::encode(rand::random::<[u8; 16]>());
    let secret = hex::encode(rand::random::<[u8; 32]>());
    let now = Instant::now();
    let expires_ms = now_ms() + TAIL_S_MAX * 1_000;
    let url = format!("{}{}/tails/{id}/{secret}", origin(&headers)?, super::PREFIX);
    let tail = Tail {
        worker: target,
        secret,
        filters,
        own: extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip()),
        expires: now + Duration::from_secs(TAIL_S_MAX),
        expires_ms,
        socket: Socket::Awaited(now + Duration::from_secs(CONNECT_S_MAX)),
    };
    state.tails.add(id.clone(), tail)?;
    Envelope::new(json!({ "id": id, "url": url, "expires_at": iso8601(expires_ms) }))
}

/// Where the client reached this listener, as a WebSocket origin.
fn origin(headers: &HeaderMap) -> Result<String, ApiError> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text(header::HOST.as_str())
        .ok_or_else(|| ApiError::malformed("the request has no Host header"))?;
    let scheme = if text("x-forwarded-proto") == Some("https") { "wss" } else { "ws" };
    Ok(format!("{scheme}://{host}"))
}

async fn list(State(state): State<ApiState>, Target(target): Target) -> Answer {
    Envelope::list(state.tails.of_worker(&target))
}

#[derive(Deserialize)]
struct TailPath {
    id: String,
}

/// Idempotent: clients also delete tails that are gone already.
async fn remove(
    State(state): State<ApiState>,
    Target(target): Target,
    Path(path): Path<TailPath>,
) -> Answer {
    state.tails.remove(&target, &path.id);
    Envelope::new(json!({ "id": path.id }))
}

async fn connect(
    State(state): State<ApiState>,
    Path((id, secret)): Path<(String, String)>,
    upgrade: WebSocketUpgrade,
) -> Result<Response, ApiError> {
    let session = state.tails.claim(&id, &secret).ok_or_else(forbidden)?;
    let listener = state.config.hub.listen(&session.worker);
    let (tails, worker) = (state.tails.clone(), session.worker.clone());
    Ok(upgrade
        // Wrangler's first frame is not masked, against RFC 6455, section 5.1.
        .accept_unmasked_frames(true)
        .max_message_size(CLIENT_MESSAGE_BYTES_MAX)
        .protocols([PROTOCOL])
        .on_upgrade(async move |socket| {
            follow(socket, &session, listener).await;
            tails.remove(&worker, &session.id);
        }))
}

/// Sends reports until the client, the tail or its worker goes away.
async fn follow(mut socket: WebSocket, session: &Session, mut listener: Listener) {
    let mut closed = session.closed.clone();
    let silence = Duration::from_millis(SILENCE_MS_MAX);
    let mut heard_from_client = Instant::now();
    loop {
        let gone = (heard_from_client + silence).min(session.expires);
        let message = tokio::select! {
            heard = listener.next() => match heard {
                Some(Heard::Report(report)) => {
                    let passes = session
                        .filters
                        .iter()
                        .all(|filter| filter.passes(&report, session.own, rand::random()));
                    passes.then(|| tail_message::message(&report))
                }
                Some(Heard::Missed(count)) => Some(tail_message::missed(count)),
                None => break,
            },
            received = socket.recv() => match received {
                // Pings are answered below; the client's words change nothing.
                Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                Some(Ok(_)) => {
                    heard_from_client = Instant::now();
                    None
                }
            },
            _ = closed.changed() => break,
            () = tokio::time::sleep_until(gone) => break,
        };
        let Some(message) = message else { continue };
        let sent = socket.send(Message::text(message.to_string()));
        if !matches!(
            tokio::time::timeout(Duration::from_millis(SEND_MS_MAX), sent).await,
            Ok(Ok(()))
        ) {
            return;
        }
    }
    let _ =
        tokio::time::timeout(Duration::from_millis(SEND_MS_MAX), socket.send(Message::Close(None)))
            .await;
}
