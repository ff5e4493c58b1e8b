//! Frames on the stream between two processes: lengths, a header in msgpack, and the bytes of
//! values, which are never copied into the header.

use std::io;

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::limits::{BULK_BYTES_MAX, BULK_PAIRS_MAX};

/// The length of what follows, and how much of it is the header.
const PREFIX_BYTES: usize = 8;
/// What a header needs for one pair beside its key and metadata, at most.
const PAIR_BYTES_MAX: usize = 64;
/// Bytes of a frame behind its prefix, at most: the largest bulk write.
pub(super) const FRAME_BYTES_MAX: usize = BULK_BYTES_MAX + BULK_PAIRS_MAX * PAIR_BYTES_MAX;
/// What is gathered before it goes to the stream, or taken from it at once.
pub(super) const BUFFER_BYTES: usize = 64 * 1024;

/// Why a link ended before its time.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    /// The stream failed.
    #[error("the stream failed: {0}")]
    Stream(#[from] io::Error),
    /// The peer announced a frame that no operation needs.
    #[error("a frame of {0} bytes exceeds limit of {FRAME_BYTES_MAX}")]
    FrameTooLarge(usize),
    /// The header passes the end of its frame.
    #[error("a header of {header} bytes passes the end of a frame of {frame}")]
    HeaderTooLong { header: usize, frame: usize },
    /// The header is not what it should be.
    #[error("a header cannot be read: {0}")]
    Header(#[from] rmp_serde::decode::Error),
    /// The values that the header names are not those that the frame holds.
    #[error("the values of a frame are not those of its header")]
    Values,
    /// An answer to a question that nobody asked.
    #[error("an answer names the unknown request {0}")]
    Unasked(u64),
}

/// A frame to be written.
pub(super) struct Frame {
    /// Prefix and header.
    head: Vec<u8>,
    values: Vec<Bytes>,
}

impl Frame {
    pub(super) fn new(header: &impl Serialize, values: Vec<Bytes>) -> Self {
        let mut head = vec![0; PREFIX_BYTES];
        rmp_serde::encode::write(&mut head, header)
            .expect("headers are plain data and memory takes any bytes");
        let header_bytes = head.len() - PREFIX_BYTES;
        let frame_bytes = header_bytes + values.iter().map(Bytes::len).sum::<usize>();
        head[..4].copy_from_slice(&length(frame_bytes));
        head[4..PREFIX_BYTES].copy_from_slice(&length(header_bytes));
        Self { head, values }
    }

    /// What the frame occupies on the stream.
    pub(super) fn bytes(&self) -> usize {
        self.head.len() + self.values.iter().map(Bytes::len).sum::<usize>()
    }
}

/// A length past 32 bits becomes one that the peer refuses; the limits of operations are far below.
fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes()
}

/// Writes frames until no sender is left. What comes with a frame is dropped once it is written.
pub(super) async fn write_frames<Held>(
    stream: impl AsyncWrite + Unpin,
    mut frames: UnboundedReceiver<(Frame, Held)>,
) -> io::Result<()> {
    let mut stream = BufWriter::with_capacity(BUFFER_BYTES, stream);
    loop {
        let (frame, _held) = match frames.try_recv() {
            Ok(next) => next,
            Err(_) => {
                stream.flush().await?;
                match frames.recv().await {
                    Some(next) => next,
                    None => return stream.shutdown().await,
                }
            }
        };
        stream.write_all(&frame.head).await?;
        for value in &frame.values {
            stream.write_all(value).await?;
        }
    }
}

/// The prefix of a frame whose body is still on the stream.
pub(super) struct Prefix {
    frame_bytes: usize,
    header_bytes: usize,
}

impl Prefix {
    /// Waits for a frame; none if the peer has ended the stream between two.
    pub(super) async fn read(
        stream: &mut (impl AsyncRead + Unpin),
    ) -> Result<Option<Self>, LinkError> {
        let mut bytes = [0; PREFIX_BYTES];
        if stream.read(&mut bytes[..1]).await? == 0 {
            return Ok(None);
        }
        stream.read_exact(&mut bytes[1..]).await?;
        let [a, b, c, d, e, f, g, h] = bytes;
        let frame_bytes = u32::from_le_bytes([a, b, c, d]) as usize;
        let header_bytes = u32::from_le_bytes([e, f, g, h]) as usize;
        if frame_bytes > FRAME_BYTES_MAX {
            return Err(LinkError::FrameTooLarge(frame_bytes));
        }
        if header_bytes > frame_bytes {
            return Err(LinkError::HeaderTooLong { header: header_bytes, frame: frame_bytes });
        }
        Ok(Some(Self { frame_bytes, header_bytes }))
    }

    /// What the frame occupies on the stream.
    pub(super) fn bytes(&self) -> usize {
        PREFIX_BYTES + self.frame_bytes
    }

    /// Reads the rest of the frame.
    pub(super) async fn body<Header: DeserializeOwned>(
        self,
        stream: &mut (impl AsyncRead + Unpin),
    ) -> Result<(Header, Values), LinkError> {
        let mut body = BytesMut::with_capacity(self.frame_bytes);
        let mut rest = stream.take(self.frame_bytes as u64);
        while body.len() < self.frame_bytes {
            if rest.read_buf(&mut body).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
        let mut body = body.freeze();
        let header = body.split_to(self.header_bytes);
        Ok((rmp_serde::from_slice(&header)?, Values(body)))
    }
}

/// The bytes behind a header: values without a gap, as long as the header says.
pub(super) struct Values(Bytes);

impl Values {
    /// Takes the next value.
    pub(super) fn take(&mut self, bytes: usize) -> Result<Bytes, LinkError> {
        if bytes > self.0.len() { Err(LinkError::Values) } else { Ok(self.0.split_to(bytes)) }
    }

    /// Takes all that is left as one value.
    pub(super) fn rest(self) -> Bytes {
        self.0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks that nothing is left.
    pub(super) fn end(self) -> Result<(), LinkError> {
        if self.is_empty() { Ok(()) } else { Err(LinkError::Values) }
    }
}
