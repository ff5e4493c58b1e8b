//! The server's side of a WebSocket handshake: what was asked, and the answer once a worker has given a socket, here or
//! on another node.

use atoll_isolate::{Socket, SocketSlot};
use atoll_router::{DrainSignal, Upgrade, UpgradeKind, UpgradedStream};
use http::header::{CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use http::header::{SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION};
use http::{HeaderMap, Request, Response, StatusCode};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::body::AnswerBody;
use super::forward::NodeSocket;
use super::pages::{Problem, page};
use crate::websocket::{HANDSHAKE_HEADERS, WEBSOCKET, carry, config, relay};

/// The only version of the protocol (RFC 6455, 4.1).
const VERSION: &str = "13";

/// Bytes of the header Sec-WebSocket-Key: sixteen in base64.
const KEY_BYTES: usize = 24;

/// What a client asked for that would have a WebSocket.
pub(super) struct Handshake {
    upgrade: Upgrade,
    /// The client speaks the protocol as it is written.
    valid: bool,
    /// What proves to it that this server does.
    accept: Option<HeaderValue>,
}

/// What the client is to be connected with.
enum OtherEnd {
    Worker(Socket),
    Node(NodeSocket),
}

impl OtherEnd {
    fn take(response: &mut Response<AnswerBody>) -> Option<Self> {
        let worker = SocketSlot::take(response).map(Self::Worker);
        worker.or_else(|| NodeSocket::take(response).map(Self::Node))
    }

    /// Serves the client to its end.
    async fn serve(self, client: UpgradedStream, leave: impl Future<Output = ()>) {
        match self {
            Self::Worker(socket) => {
                let config = Some(config());
                let wire = WebSocketStream::from_raw_socket(client, Role::Server, config).await;
                relay(wire, socket, leave).await;
            }
            Self::Node(NodeSocket { stream, chosen: _chosen }) => {
                carry(client, stream, leave).await;
            }
        }
    }
}

impl Handshake {
    /// Of a request that asks for a WebSocket.
    pub(super) fn of<B>(request: &Request<B>) -> Option<Box<Self>> {
        let upgrade = Upgrade::take(request)?;
        let headers = request.headers();
        let version = headers.get(SEC_WEBSOCKET_VERSION).is_some_and(|version| version == VERSION);
        let key = headers.get(SEC_WEBSOCKET_KEY).filter(|key| key.len() == KEY_BYTES);
        let accept = key
            .filter(|_| upgrade.kind() == UpgradeKind::Http1)
            .and_then(|key| HeaderValue::try_from(derive_accept_key(key.as_bytes())).ok());
        let valid = version && (accept.is_some() || upgrade.kind() == UpgradeKind::Http2);
        Some(Box::new(Self { upgrade, valid, accept }))
    }

    /// The answer to the client. With a socket from the worker the connection goes on as a WebSocket, until the
    /// drain at the latest.
    pub(super) fn finish(
        self,
        mut response: Response<AnswerBody>,
        drain: Option<&DrainSignal>,
        id: &str,
    ) -> Response<AnswerBody> {
        let Some(other_end) = OtherEnd::take(&mut response) else { return response };
        if !self.valid {
            return not_a_handshake(id);
        }
        let headers = response.headers_mut();
        HANDSHAKE_HEADERS.iter().for_each(|name| drop(headers.remove(name)));
        match self.upgrade.kind() {
            UpgradeKind::Http1 => {
                headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
                headers.insert(UPGRADE, WEBSOCKET);
                headers.extend(self.accept.map(|accept| (SEC_WEBSOCKET_ACCEPT, accept)));
            }
            UpgradeKind::Http2 => *response.status_mut() = StatusCode::OK,
        }
        let (accepted, drain) = (self.upgrade.accept(), drain.cloned());
        atoll_isolate::spawn(async move {
            // A client that is gone again: the worker learns of it as the socket is dropped.
            let Ok(stream) = accepted.await else { return };
            let leave = async {
                match drain {
                    Some(mut drain) => drop(drain.started().await),
                    None => std::future::pending().await,
                }
            };
            other_end.serve(stream, leave).await;
        });
        response
    }
}

/// A worker gave a socket to a client that cannot have one.
pub(super) fn not_a_handshake(id: &str) -> Response<AnswerBody> {
    let mut response = page(Problem::NoHandshake, &HeaderMap::new(), id);
    response.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static(VERSION));
    response
}
