//! WebSockets (RFC 6455): what passes between a connection and the end of a socket that a worker has the other of, or
//! the node that has such a worker. The frames themselves are tungstenite's.

mod carry;
mod frames;
mod relay;

pub(crate) use carry::carry;
pub(crate) use relay::relay;

use std::time::Duration;

use atoll_isolate::SOCKET_MESSAGE_BYTES_MAX;
use http::header::{HeaderValue, UPGRADE};
use http::{HeaderMap, HeaderName};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// What is read at once, in bytes. Every open socket has a buffer of it.
const READ_BUFFER_BYTES: usize = 8 << 10;

/// How long the other side has to answer a close.
const CLOSE_WAIT: Duration = Duration::from_secs(10);

/// How long what the other side still sends is read after its connection has had a last word, so that it learns that.
const LINGER: Duration = Duration::from_secs(2);

/// Reads and forgets what still comes: to close a connection with unread bytes resets it.
async fn read_on<F: AsyncRead + Unpin>(from: &mut F) {
    let mut forgotten = vec![0; READ_BUFFER_BYTES];
    while from.read(&mut forgotten).await.is_ok_and(|bytes| bytes > 0) {}
}

/// Why a node that stops closes.
const STOPPING: &str = "The node is stopping.";

/// The headers that only the ends of a connection may write.
pub(crate) const HANDSHAKE_HEADERS: [HeaderName; 4] = [
    HeaderName::from_static("sec-websocket-accept"),
    HeaderName::from_static("sec-websocket-extensions"),
    HeaderName::from_static("sec-websocket-key"),
    HeaderName::from_static("sec-websocket-version"),
];

/// The header Upgrade of a handshake.
pub(crate) const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// The limits of one connection.
pub(crate) fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_message_size(Some(SOCKET_MESSAGE_BYTES_MAX))
        .max_frame_size(Some(SOCKET_MESSAGE_BYTES_MAX))
}

/// Whether a request asks for a WebSocket.
pub(crate) fn is_asked(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_asks_in_any_case_of_letters() {
        let mut headers = HeaderMap::new();
        assert!(!is_asked(&headers));
        for (value, asked) in [("h2c", false), ("WebSocket", true)] {
            headers.insert(UPGRADE, HeaderValue::from_static(value));
            assert_eq!(is_asked(&headers), asked, "{value}");
        }
    }
}
