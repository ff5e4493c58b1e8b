//! HTTP/2 by hand: frames as no client library would send them.

use std::time::Duration;

use atoll_tests::Node;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use crate::wire::{HOST, PATIENCE};

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) const REFUSED_STREAM: u32 = 7;

/// One frame as bytes.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [head.as_slice(), payload].concat()
}

/// Header fields as HPACK literals that go into no table.
pub(crate) fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        literal(&mut block, name.as_bytes());
        literal(&mut block, value.as_bytes());
    }
    block
}

/// A string without Huffman's code, its length by RFC 7541 section 5.1.
pub(crate) fn literal(block: &mut Vec<u8>, text: &[u8]) {
    if text.len() < 127 {
        block.push(text.len() as u8);
    } else {
        block.push(127);
        let mut rest = text.len() - 127;
        while rest >= 128 {
            block.push((rest % 128) as u8 | 128);
            rest /= 128;
        }
        block.push(rest as u8);
    }
    block.extend_from_slice(text);
}

/// The pseudo headers of an ordinary request.
pub(crate) const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":authority", HOST), (":path", "/")];

/// A request without a body.
pub(crate) fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &fields(&GET))
}

/// The head of a request whose body may follow.
pub(crate) fn post(stream: u32) -> Vec<u8> {
    let mut head = GET;
    head[0].1 = "POST";
    frame(HEADERS, END_HEADERS, stream, &fields(&head))
}

/// What the node sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// How a stream or its connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The stream's response came whole, with this body.
    Answered(String),
    /// The stream was reset.
    Reset(u32),
    /// The connection was ended with words.
    GoAway(u32),
    /// The connection was ended without.
    Closed,
}

/// A client's side of a connection.
pub(crate) struct Http2 {
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
}

impl Http2 {
    /// Opens a connection with prior knowledge, and says hello.
    pub(crate) async fn open(node: &Node) -> Self {
        Self::open_with(node, &[]).await
    }

    /// The same with settings: identifiers and values.
    pub(crate) async fn open_with(node: &Node, settings: &[(u16, u32)]) -> Self {
        let tcp = TcpStream::connect(node.addresses().http).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let (read, write) = tcp.into_split();
        let mut http2 = Self { read, write };
        let settings: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        http2.send(&[PREFACE, &frame(SETTINGS, 0, 0, &settings)].concat()).await;
        http2
    }

    /// Sends bytes; false when the node takes no more.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        timeout(PATIENCE, self.write.write_all(bytes)).await.is_ok_and(|sent| sent.is_ok())
    }

    /// Sends the same over and over while the node takes it, up to so many times, and forgets what it answers.
    /// How often it was sent.
    pub(crate) async fn flood(&mut self, bytes: &[u8], times_max: usize) -> usize {
        let per_write = (16_384 / bytes.len()).max(1);
        let batch = bytes.repeat(per_write);
        let mut forgotten = vec![0; 65_536];
        let mut sent = 0;
        while sent < times_max {
            let write = timeout(PATIENCE, self.write.write_all(&batch));
            tokio::pin!(write);
            let written = loop {
                tokio::select! {
                    written = &mut write => break written.is_ok_and(|written| written.is_ok()),
                    read = self.read.read(&mut forgotten) => {
                        if !matches!(read, Ok(1..)) {
                            return sent;
                        }
                    }
                }
            };
            if !written {
                return sent;
            }
            sent += per_write;
        }
        sent
    }

    /// The next frame, or none at the end of the connection.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.read.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; length as usize];
        self.read.read_exact(&mut payload).await.ok()?;
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// Reads on until something is decided for a stream.
    pub(crate) async fn outcome(&mut self, stream: u32) -> Outcome {
        timeout(PATIENCE, self.decided(stream)).await.expect("something comes of it in time")
    }

    async fn decided(&mut self, stream: u32) -> Outcome {
        let mut body = Vec::new();
        while let Some(frame) = self.next().await {
            match frame.kind {
                GOAWAY if code(&frame.payload[4..]) != 0 => {
                    return Outcome::GoAway(code(&frame.payload[4..]));
                }
                RST_STREAM if frame.stream == stream => {
                    return Outcome::Reset(code(&frame.payload));
                }
                DATA if frame.stream == stream => body.extend_from_slice(&frame.payload),
                SETTINGS if frame.flags & ACK == 0 => {
                    self.send(&self::frame(SETTINGS, ACK, 0, &[])).await;
                }
                _ => {}
            }
            let ended = frame.flags & END_STREAM != 0 && matches!(frame.kind, DATA | HEADERS);
            if ended && frame.stream == stream {
                return Outcome::Answered(String::from_utf8_lossy(&body).into_owned());
            }
        }
        Outcome::Closed
    }

    /// Whether the node ends the connection by itself within a generous time.
    pub(crate) async fn ends(&mut self) -> bool {
        let ended = async { while self.next().await.is_some() {} };
        timeout(PATIENCE, ended).await.is_ok()
    }

    /// Lets the node work for a while.
    pub(crate) async fn rest(&self) {
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

fn code(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |four| u32::from_be_bytes(*four))
}
