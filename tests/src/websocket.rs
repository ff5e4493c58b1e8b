//! A WebSocket client for tests, over every way that a node offers.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::{HeaderValue, Request, Response};
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::Failure;
use crate::client::{Protocol, connect_tls};
use crate::node::{Addresses, Node};

/// How long a message may take.
const MESSAGE_MAX: Duration = Duration::from_secs(60);

/// Any connection.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// An open WebSocket.
pub struct WebSocket {
    /// The connection, for what only tungstenite can do.
    pub stream: WebSocketStream<Box<dyn Wire>>,
    /// The answer to the handshake.
    pub response: Response<()>,
}

impl WebSocket {
    /// Connects to a worker of the first account, and asks for sub-protocols, if any.
    ///
    /// # Errors
    /// Fails with [`Error::Http`] when the worker answers with something else.
    pub async fn connect(
        node: &Node,
        worker: &str,
        path: &str,
        protocol: Protocol,
        protocols: &str,
    ) -> Result<Self, Error> {
        let host = format!("{worker}.demo.localhost");
        Self::connect_to(node.addresses(), &host, path, protocol, protocols).await
    }

    /// The same to any host of a node.
    ///
    /// # Errors
    /// Fails with [`Error::Http`] when the worker answers with something else.
    pub async fn connect_to(
        addresses: Addresses,
        host: &str,
        path: &str,
        protocol: Protocol,
        protocols: &str,
    ) -> Result<Self, Error> {
        let headers = [("sec-websocket-protocol", protocols)];
        let headers = if protocols.is_empty() { &[][..] } else { &headers[..] };
        Self::connect_with(addresses, host, path, protocol, headers).await
    }

    /// The same with any headers besides those of the handshake.
    ///
    /// # Errors
    /// Fails with [`Error::Http`] when the worker answers with something else.
    ///
    /// # Panics
    /// Panics when a header is none.
    pub async fn connect_with(
        addresses: Addresses,
        host: &str,
        path: &str,
        protocol: Protocol,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, Error> {
        let at = match protocol {
            Protocol::Https1 | Protocol::Https2 => addresses.https,
            _ => addresses.http,
        };
        let tcp = addresses.socket()?.connect(at).await?;
        let failed = |failure: Failure| Error::Io(std::io::Error::other(failure.to_string()));
        let wire: Box<dyn Wire> = match protocol {
            Protocol::Https1 => {
                Box::new(connect_tls(tcp, host, b"http/1.1").await.map_err(failed)?)
            }
            Protocol::Https2 => Box::new(connect_tls(tcp, host, b"h2").await.map_err(failed)?),
            _ => Box::new(tcp),
        };
        if matches!(protocol, Protocol::Http2 | Protocol::Https2) {
            let uri = format!("https://{host}{path}");
            return over_http2(wire, &uri, headers).await.map_err(failed);
        }
        let mut request = format!("ws://{host}{path}").into_client_request()?;
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).expect("it is a header");
            request.headers_mut().insert(*name, value);
        }
        let (stream, response) = tokio_tungstenite::client_async(request, wire).await?;
        Ok(Self { stream, response: response.map(drop) })
    }

    /// Sends a message.
    ///
    /// # Panics
    /// Panics when the connection is gone.
    pub async fn send(&mut self, message: impl Into<Message>) {
        let sending = timeout(MESSAGE_MAX, self.stream.send(message.into()));
        sending.await.expect("it is taken in time").expect("the socket is open");
    }

    /// The next message; `None` once the connection has ended, however it did.
    ///
    /// # Panics
    /// Panics when nothing comes.
    pub async fn next(&mut self) -> Option<Message> {
        loop {
            let next = timeout(MESSAGE_MAX, self.stream.next()).await.expect("something comes");
            match next {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(message)) => return Some(message),
                Some(Err(_)) | None => return None,
            }
        }
    }

    /// The next message, which must be a text.
    ///
    /// # Panics
    /// Panics when it is anything else.
    pub async fn text(&mut self) -> String {
        match self.next().await {
            Some(Message::Text(text)) => text.to_string(),
            other => panic!("no text but {other:?}"),
        }
    }

    /// Reads until the close, and gives its code and reason.
    ///
    /// # Panics
    /// Panics when the connection breaks off instead.
    pub async fn closed(&mut self) -> (u16, String) {
        loop {
            match self.next().await {
                Some(Message::Close(frame)) => {
                    // The answer goes out with this; the other side may have left.
                    let _ = self.stream.flush().await;
                    return frame.map_or((1005, String::new()), |frame| {
                        (frame.code.into(), frame.reason.to_string())
                    });
                }
                Some(_) => {}
                None => panic!("the connection broke off without a close"),
            }
        }
    }

    /// Closes, and gives the other side's answer.
    pub async fn close(&mut self, code: u16, reason: &str) -> (u16, String) {
        self.send(Message::Close(Some(CloseFrame { code: code.into(), reason: reason.into() })))
            .await;
        self.closed().await
    }
}

/// Extended CONNECT (RFC 8441).
async fn over_http2(
    wire: Box<dyn Wire>,
    uri: &str,
    headers: &[(&'static str, &str)],
) -> Result<WebSocket, Failure> {
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(wire));
    let (mut sender, connection) = handshake.await?;
    tokio::spawn(connection);
    // The server's settings say whether it offers this: they come with its first frames.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut request = Request::connect(uri)
        .extension(hyper::ext::Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Empty::<bytes::Bytes>::new())?;
    let mut response = sender.send_request(request).await?;
    if response.status() != 200 {
        return Err(format!("the answer is {}", response.status()).into());
    }
    let upgraded = hyper::upgrade::on(&mut response).await?;
    let wire: Box<dyn Wire> = Box::new(TokioIo::new(upgraded));
    let stream = WebSocketStream::from_raw_socket(wire, Role::Client, None).await;
    Ok(WebSocket { stream, response: response.map(drop) })
}

/// A server that sends back what it gets and speaks the sub-protocol `second`. Dropping it ends it.
pub struct EchoServer {
    url: String,
    task: tokio::task::JoinHandle<()>,
}

impl EchoServer {
    /// Starts on a free port of this machine.
    ///
    /// # Panics
    /// Panics when there is no port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let url = format!("ws://{}/", listener.local_addr().expect("it is bound"));
        let task = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::spawn(echo(tcp));
            }
        });
        Self { url, task }
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[allow(clippy::result_large_err, reason = "tungstenite's own type")]
async fn echo(tcp: TcpStream) {
    use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
    let choose = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        if request.headers().contains_key("sec-websocket-protocol") {
            let headers = response.headers_mut();
            headers.insert("sec-websocket-protocol", HeaderValue::from_static("second"));
        }
        Ok(response)
    };
    let Ok(mut socket) = tokio_tungstenite::accept_hdr_async(tcp, choose).await else { return };
    while let Some(Ok(message)) = socket.next().await {
        if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            return;
        }
    }
}
