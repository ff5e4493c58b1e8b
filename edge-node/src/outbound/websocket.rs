//! The client's side of a WebSocket handshake, on a connection of its own over HTTP/1.1.

use http::header::{
    CONNECTION, HOST, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Empty};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::client::strip_hop_by_hop;
use super::{BoxError, Outbound, OutboundError, ResBody};
use crate::websocket::{HANDSHAKE_HEADERS, WEBSOCKET, config};

/// An open connection to a server.
pub type ServerSocket = WebSocketStream<TokioIo<Upgraded>>;

impl Outbound {
    /// Asks a server for a WebSocket. A server that does not want to gives an ordinary response. The address is
    /// checked as for any other request.
    pub async fn websocket(
        &self,
        request: Request<()>,
    ) -> Result<(Response<ResBody>, Option<ServerSocket>), OutboundError> {
        let host = match (request.uri().scheme_str(), request.uri().host()) {
            (Some("http" | "https"), Some(host)) => host.to_owned(),
            _ => return Err(OutboundError::Url(request.uri().to_string())),
        };
        let failed = |reason: String| OutboundError::Request { host: host.clone(), reason };
        let key = generate_key();
        let request = handshake(request, &key);
        let limit = self.response_timeout;
        let answer = tokio::time::timeout(limit, self.sockets.request(request)).await;
        let answer =
            answer.map_err(|_| OutboundError::ResponseTimeout { host: host.clone(), limit })?;
        let mut response = answer.map_err(|error| OutboundError::from_client(&host, &error))?;
        let socket = match response.status() {
            StatusCode::SWITCHING_PROTOCOLS => {
                if !is_accepted(&response, &key) {
                    return Err(failed("its answer is no WebSocket handshake".to_owned()));
                }
                let upgraded = hyper::upgrade::on(&mut response).await;
                let io = TokioIo::new(upgraded.map_err(|error| failed(error.to_string()))?);
                Some(WebSocketStream::from_raw_socket(io, Role::Client, Some(config())).await)
            }
            _ => None,
        };
        strip_hop_by_hop(response.headers_mut());
        Ok((response.map(|body| body.map_err(BoxError::from).boxed_unsync()), socket))
    }
}

fn handshake(request: Request<()>, key: &str) -> Request<Empty<bytes::Bytes>> {
    let (mut parts, ()) = request.into_parts();
    parts.version = Version::HTTP_11;
    strip_hop_by_hop(&mut parts.headers);
    parts.headers.remove(HOST);
    HANDSHAKE_HEADERS.iter().for_each(|name| drop(parts.headers.remove(name)));
    let key = HeaderValue::from_str(key).expect("a key is base64");
    parts.headers.insert(UPGRADE, WEBSOCKET);
    parts.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    parts.headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    parts.headers.insert(SEC_WEBSOCKET_KEY, key);
    Request::from_parts(parts, Empty::new())
}

/// Whether the server has shown that it speaks the protocol (RFC 6455, 4.1).
fn is_accepted<B>(response: &Response<B>, key: &str) -> bool {
    let headers = response.headers();
    let upgraded = headers
        .get(UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes()));
    let accept = headers.get(SEC_WEBSOCKET_ACCEPT);
    upgraded && accept.is_some_and(|accept| accept == &derive_accept_key(key.as_bytes()))
}
