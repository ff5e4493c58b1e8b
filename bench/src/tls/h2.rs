//! Requests by HTTP/2: just enough of RFC 9113 for the same request again and again to servers that we start
//! ourselves. A whole client would take longer than the servers do, and the generator would set the pace.

use std::time::Instant;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::client::text;
use super::plan::Plan;
use crate::load::check;
use crate::window::Window;

/// Room for several frames: none is larger than 16 KiB, as we allow no more.
const READ_BYTES: usize = 64 * 1024;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD_BYTES: usize = 9;
const FRAME_BYTES_MAX: usize = 16 * 1024;
/// Servers may send so much before they hear that it was read, and half of it before they do.
const WINDOW_BYTES: u32 = 1024 * 1024;
/// A connection makes way for a new one before its stream ids end.
const STREAM_ID_MAX: u32 = 1 << 30;

// Types and flags of frames.
const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const SETTINGS: u8 = 0x4;
const PUSH_PROMISE: u8 = 0x5;
const PING: u8 = 0x6;
const GOAWAY: u8 = 0x7;
const WINDOW_UPDATE: u8 = 0x8;
const CONTINUATION: u8 = 0x9;
const ACK: u8 = 0x1;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;

/// Keeps the streams of one connection busy.
pub(super) async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    plan: &Plan,
    window: &Window,
) -> Result<(), String> {
    let mut calls = Calls::new(&plan.host, plan.body_bytes);
    for _ in 0..plan.work.shape().1 {
        calls.begin();
    }
    let mut buffer = vec![0; READ_BYTES];
    let mut filled = 0;
    while !calls.under_way.is_empty() {
        stream.write_all(&calls.out).await.map_err(text)?;
        stream.flush().await.map_err(text)?;
        calls.out.clear();
        match stream.read(&mut buffer[filled..]).await.map_err(text)? {
            0 => return Err("the connection was closed".to_owned()),
            read => filled += read,
        }
        let mut at = 0;
        while let Some(frame) = Frame::parse(&buffer[at..filled])? {
            at += HEAD_BYTES + frame.payload.len();
            if let Some(begun) = calls.take(&frame)? {
                window.record(begun);
                if !window.is_over() && calls.next_id < STREAM_ID_MAX {
                    calls.begin();
                }
            }
        }
        buffer.copy_within(at..filled, 0);
        filled -= at;
    }
    Ok(())
}

struct Frame<'a> {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The frame that the bytes begin with, once it is whole.
    fn parse(bytes: &'a [u8]) -> Result<Option<Self>, String> {
        let Some((head, rest)) = bytes.split_first_chunk::<HEAD_BYTES>() else {
            return Ok(None);
        };
        let [a, b, c, kind, flags, id @ ..] = *head;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(format!("a frame of {length} bytes"));
        }
        let stream = u32::from_be_bytes(id) & (u32::MAX >> 1);
        Ok(rest.get(..length).map(|payload| Self { kind, flags, stream, payload }))
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.payload.len() as u32).to_be_bytes()[1..]);
        out.extend_from_slice(&[self.kind, self.flags]);
        out.extend_from_slice(&self.stream.to_be_bytes());
        out.extend_from_slice(self.payload);
    }
}

/// The requests of a connection.
struct Calls {
    /// The request's header block.
    request: Vec<u8>,
    body_bytes: u64,
    next_id: u32,
    under_way: Vec<Call>,
    /// What the server is to be told.
    out: Vec<u8>,
    /// Bytes that were read since the server last heard of it.
    unsaid_bytes: u32,
}

/// A request that was sent.
struct Call {
    stream: u32,
    begun: Instant,
    status: u16,
    bytes: u64,
}

impl Calls {
    fn new(host: &str, body_bytes: u64) -> Self {
        // HPACK (RFC 7541): three fields of the static table, and `:authority` with its value as it is.
        let length = u8::try_from(host.len()).ok().filter(|length| *length < 127);
        let length = length.expect("the bench's own host name is short");
        let request = [&[0x82, 0x87, 0x84, 0x01, length], host.as_bytes()].concat();
        let mut calls = Self {
            request,
            body_bytes,
            next_id: 1,
            under_way: Vec::new(),
            out: PREFACE.to_vec(),
            unsaid_bytes: 0,
        };
        calls.say(SETTINGS, 0, &[]);
        calls.say(WINDOW_UPDATE, 0, &WINDOW_BYTES.to_be_bytes());
        calls
    }

    fn begin(&mut self) {
        let stream = self.next_id;
        self.next_id += 2;
        self.under_way.push(Call { stream, begun: Instant::now(), status: 0, bytes: 0 });
        let flags = END_HEADERS | END_STREAM;
        Frame { kind: HEADERS, flags, stream, payload: &self.request }.write(&mut self.out);
    }

    /// Of the connection as a whole.
    fn say(&mut self, kind: u8, flags: u8, payload: &[u8]) {
        Frame { kind, flags, stream: 0, payload }.write(&mut self.out);
    }

    /// Takes a frame; answers when the request was sent whose right response it completes.
    fn take(&mut self, frame: &Frame<'_>) -> Result<Option<Instant>, String> {
        match frame.kind {
            HEADERS | DATA if frame.has(PADDED) => Err("padding is not read".to_owned()),
            HEADERS if frame.has(END_HEADERS) => {
                self.call(frame.stream)?.status = status(frame.payload)?;
                self.after(frame)
            }
            DATA => {
                self.call(frame.stream)?.bytes += frame.payload.len() as u64;
                self.unsaid_bytes += frame.payload.len() as u32;
                if self.unsaid_bytes >= WINDOW_BYTES / 2 {
                    let bytes = std::mem::take(&mut self.unsaid_bytes);
                    self.say(WINDOW_UPDATE, 0, &bytes.to_be_bytes());
                }
                self.after(frame)
            }
            SETTINGS | PING if !frame.has(ACK) => {
                let payload = if frame.kind == PING { frame.payload } else { &[] };
                self.say(frame.kind, ACK, payload);
                Ok(None)
            }
            HEADERS | CONTINUATION | PUSH_PROMISE | RST_STREAM | GOAWAY => {
                Err(format!("a frame of type {} with {:02x?}", frame.kind, frame.payload))
            }
            _ => Ok(None),
        }
    }

    fn after(&mut self, frame: &Frame<'_>) -> Result<Option<Instant>, String> {
        if !frame.has(END_STREAM) {
            return Ok(None);
        }
        let at = self.under_way.iter().position(|call| call.stream == frame.stream);
        let call = self.under_way.swap_remove(at.ok_or("a response to nothing")?);
        check(call.status, call.bytes, self.body_bytes)?;
        Ok(Some(call.begun))
    }

    fn call(&mut self, stream: u32) -> Result<&mut Call, String> {
        let call = self.under_way.iter_mut().find(|call| call.stream == stream);
        call.ok_or_else(|| "a response to nothing".to_owned())
    }
}

/// Of a response's header block, which begins with it. All servers say 200 by the static table.
fn status(block: &[u8]) -> Result<u16, String> {
    // Changes of the dynamic table's size may come before.
    match block.iter().find(|byte| **byte & 0xe0 != 0x20) {
        Some(0x88) => Ok(200),
        _ => Err(format!("the response does not begin with status 200: {block:02x?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        Frame { kind, flags, stream, payload }.write(&mut bytes);
        bytes
    }

    /// Whether each frame completes a right response, or what is wrong with it.
    fn check(frames: &[Vec<u8>], expected: &[Result<bool, &str>]) {
        let mut calls = Calls::new("a.test", 5);
        calls.begin();
        calls.begin();
        for (bytes, expected) in frames.iter().zip(expected) {
            for cut in 0..bytes.len() {
                assert!(Frame::parse(&bytes[..cut]).unwrap().is_none(), "{cut} bytes are whole");
            }
            let frame = Frame::parse(bytes).unwrap().unwrap();
            let taken = calls.take(&frame).map(|begun| begun.is_some());
            match (&taken, expected) {
                (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
                _ => assert_eq!(taken, expected.map_err(str::to_owned), "{bytes:02x?}"),
            }
        }
    }

    #[test]
    fn responses_are_right_by_status_and_length() {
        let ok = |stream| frame(HEADERS, END_HEADERS, stream, &[0x20, 0x88]);
        check(
            &[ok(3), ok(1), frame(DATA, 0, 3, b"he"), frame(DATA, END_STREAM, 3, b"llo")],
            &[Ok(false), Ok(false), Ok(false), Ok(true)],
        );
        check(
            &[ok(1), frame(DATA, END_STREAM, 1, b"hell")],
            &[Ok(false), Err("status 200 with 4 bytes instead of 200 with 5")],
        );
        check(&[frame(HEADERS, END_HEADERS, 1, &[0x8d])], &[Err("status 200: [8d]")]);
        check(&[frame(HEADERS, END_HEADERS, 5, &[0x88])], &[Err("a response to nothing")]);
        check(&[frame(RST_STREAM, 0, 1, &[0, 0, 0, 7])], &[Err("a frame of type 3")]);
    }

    #[test]
    fn settings_and_pings_are_acknowledged() {
        let mut calls = Calls::new("a.test", 5);
        calls.out.clear();
        for bytes in [frame(SETTINGS, 0, 0, &[]), frame(SETTINGS, ACK, 0, &[])] {
            calls.take(&Frame::parse(&bytes).unwrap().unwrap()).unwrap();
        }
        assert_eq!(calls.out, frame(SETTINGS, ACK, 0, &[]));
        calls.out.clear();
        let ping = frame(PING, 0, 0, b"12345678");
        calls.take(&Frame::parse(&ping).unwrap().unwrap()).unwrap();
        assert_eq!(calls.out, frame(PING, ACK, 0, b"12345678"));
    }
}
