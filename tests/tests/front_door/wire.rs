//! A connection as an attacker has it: bytes in, bytes out.

use std::io;
use std::time::Duration;

use atoll_tests::{Node, Script, connect_tls};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A worker that says what it was asked, and what came as the body of it.
pub(crate) const DOOR: &str = "export default { async fetch(request) {\n\
       const { method, url, headers } = request;\n\
       const body = await request.text().catch(() => 'broken');\n\
       return Response.json({ method, url, body, headers: Object.fromEntries(headers) });\n\
     } };";

/// The host of [`DOOR`].
pub(crate) const HOST: &str = "door.demo.localhost";

/// Deploys [`DOOR`].
pub(crate) async fn deploy_door(node: &Node) {
    node.deploy("door", &Script::module(DOOR)).await;
}

/// Any two-way stream.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Where raw bytes are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listener {
    Plain,
    Tls,
}

/// Opens a connection for HTTP/1.1.
pub(crate) async fn connect(node: &Node, listener: Listener) -> Box<dyn Stream> {
    let addresses = node.addresses();
    match listener {
        Listener::Plain => Box::new(TcpStream::connect(addresses.http).await.unwrap()),
        Listener::Tls => {
            let tcp = TcpStream::connect(addresses.https).await.unwrap();
            Box::new(connect_tls(tcp, HOST, b"http/1.1").await.unwrap())
        }
    }
}

/// One answer, as it stood on the connection.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Answer {
    /// `GET http://host/path body`, when the worker gave it; else its status.
    pub(crate) fn said(&self) -> String {
        match serde_json::from_str::<Value>(&self.body) {
            Ok(seen) if self.status == 200 => {
                let text = |name: &str| seen[name].as_str().unwrap_or_default().to_owned();
                let url = text("url");
                let path = url.split_once(HOST).map_or(&*url, |(_, path)| path);
                format!("{} {path} {}", text("method"), text("body")).trim_end().to_owned()
            }
            _ => self.status.to_string(),
        }
    }
}

/// How a connection went on after its last answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The node closed it.
    Closed,
    /// The node waits for more.
    Waits,
}

/// Sends bytes at once, and reads every answer until the connection ends, or the node has fallen silent.
pub(crate) async fn exchange(mut stream: Box<dyn Stream>, bytes: &[u8]) -> (Vec<Answer>, End) {
    // The node may have closed before it has read everything.
    let _ = stream.write_all(bytes).await;
    let _ = stream.flush().await;
    let mut read = Vec::new();
    let end = loop {
        match timeout(Duration::from_millis(1_500), stream.read_buf(&mut read)).await {
            Ok(Ok(0) | Err(_)) => break End::Closed,
            Ok(Ok(_)) => {}
            Err(_) => break End::Waits,
        }
    };
    (answers(&read), end)
}

/// Splits what was read into answers.
fn answers(mut read: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while let Some(at) = read.windows(4).position(|four| four == b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&read[..at]).into_owned();
        read = &read[at + 4..];
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no answer: {head}"));
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        });
        let length = length.unwrap_or(0).min(read.len());
        let body = String::from_utf8_lossy(&read[..length]).into_owned();
        read = &read[length..];
        answers.push(Answer { status, body });
    }
    assert!(read.is_empty(), "not an answer: {}", String::from_utf8_lossy(read));
    answers
}

/// Reads until the other end closes.
pub(crate) async fn read_to_close(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut read = Vec::new();
    match timeout(PATIENCE, stream.read_to_end(&mut read)).await {
        Ok(Ok(_)) => Ok(read),
        // A reset is a close; what came before it counts.
        Ok(Err(_)) => Ok(read),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
