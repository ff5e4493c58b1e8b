//! Frames: the lengths of header and payload, a header in MessagePack, and raw bytes that are not copied
//! into it. What the other side claims is never believed: lengths have limits, and memory is taken as
//! bytes arrive.

use std::io::ErrorKind;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Two lengths, four bytes each, little-endian.
const LENGTHS_BYTES: usize = 8;

/// The link does not work any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum LinkError {
    /// The other side has closed it.
    #[error("the other process has closed the link")]
    Closed,
    /// The socket failed.
    #[error("the link failed: {0}")]
    Io(#[from] std::io::Error),
    /// A frame is longer than this side takes.
    #[error("a {part} of {bytes} bytes is longer than the {bytes_max} bytes that a frame may have")]
    TooLong {
        /// Which part.
        part: &'static str,
        /// Its length.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// A message cannot be written down.
    #[error("a message cannot be written: {0}")]
    Encode(#[from] rmp_serde::encode::Error),
    /// A frame is not what this side understands.
    #[error("a message cannot be read: {0}")]
    Decode(#[from] rmp_serde::decode::Error),
    /// The other side said something that has no place here.
    #[error("the other process said {0} out of turn")]
    OutOfTurn(&'static str),
}

/// How long the parts of a frame may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameLimits {
    /// The header, in bytes.
    pub(crate) header_bytes_max: usize,
    /// The payload, in bytes.
    pub(crate) payload_bytes_max: usize,
}

/// A frame that is ready to be sent.
#[derive(Debug)]
pub(crate) struct Frame {
    head: Vec<u8>,
    payload: Vec<Bytes>,
}

impl Frame {
    /// Writes a message down. The payload's parts are sent one after another.
    pub(crate) fn new(message: &impl Serialize, payload: Vec<Bytes>) -> Result<Self, LinkError> {
        let mut head = vec![0; LENGTHS_BYTES];
        rmp_serde::encode::write_named(&mut head, message)?;
        let lengths = [head.len() - LENGTHS_BYTES, payload.iter().map(Bytes::len).sum()];
        for (part, (at, bytes)) in
            ["header", "payload"].into_iter().zip([0, 4].into_iter().zip(lengths))
        {
            let bytes_max = u32::MAX as usize;
            let length =
                u32::try_from(bytes).map_err(|_| LinkError::TooLong { part, bytes, bytes_max })?;
            head[at..at + 4].copy_from_slice(&length.to_le_bytes());
        }
        Ok(Self { head, payload })
    }

    /// Sends the whole frame.
    pub(crate) async fn write(&self, to: &mut (impl AsyncWrite + Unpin)) -> Result<(), LinkError> {
        to.write_all(&self.head).await?;
        for part in &self.payload {
            to.write_all(part).await?;
        }
        Ok(())
    }
}

/// Reads a message and its payload. An end between two frames is [`LinkError::Closed`].
pub(crate) async fn read<M: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
    limits: FrameLimits,
) -> Result<(M, Bytes), LinkError> {
    let mut lengths = [0; LENGTHS_BYTES];
    match from.read_exact(&mut lengths).await {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Err(LinkError::Closed),
        Err(error) => return Err(error.into()),
    }
    let [a, b, c, d, e, f, g, h] = lengths;
    let header = part(from, "header", [a, b, c, d], limits.header_bytes_max).await?;
    let payload = part(from, "payload", [e, f, g, h], limits.payload_bytes_max).await?;
    Ok((rmp_serde::from_slice(&header)?, payload.into()))
}

async fn part(
    from: &mut (impl AsyncRead + Unpin),
    part: &'static str,
    length: [u8; 4],
    bytes_max: usize,
) -> Result<Vec<u8>, LinkError> {
    let bytes = u32::from_le_bytes(length) as usize;
    if bytes > bytes_max {
        return Err(LinkError::TooLong { part, bytes, bytes_max });
    }
    let mut read = Vec::new();
    from.take(bytes as u64).read_to_end(&mut read).await?;
    if read.len() < bytes { Err(LinkError::Closed) } else { Ok(read) }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    const LIMITS: FrameLimits = FrameLimits { header_bytes_max: 64, payload_bytes_max: 8 };

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Word {
        Hello { name: String },
        Bye,
    }

    async fn bytes_of(message: &Word, payload: Vec<Bytes>) -> Vec<u8> {
        let mut bytes = Vec::new();
        Frame::new(message, payload).unwrap().write(&mut bytes).await.unwrap();
        bytes
    }

    #[tokio::test]
    async fn what_is_written_is_read() {
        let hello = Word::Hello { name: "a".into() };
        let payload = vec![Bytes::from_static(b"one"), Bytes::new(), Bytes::from_static(b"two")];
        let mut bytes = bytes_of(&hello, payload).await;
        bytes.extend(bytes_of(&Word::Bye, Vec::new()).await);
        let mut from = bytes.as_slice();
        let (message, payload) = read::<Word>(&mut from, LIMITS).await.unwrap();
        assert_eq!((message, payload), (hello, Bytes::from_static(b"onetwo")));
        assert_eq!(read::<Word>(&mut from, LIMITS).await.unwrap().0, Word::Bye);
        assert!(matches!(read::<Word>(&mut from, LIMITS).await, Err(LinkError::Closed)));
    }

    #[tokio::test]
    async fn malformed_frames_are_errors() {
        let good = bytes_of(&Word::Bye, vec![Bytes::from_static(b"12345678")]).await;
        let long = bytes_of(&Word::Hello { name: "x".repeat(65) }, Vec::new()).await;
        let heavy = bytes_of(&Word::Bye, vec![Bytes::from_static(b"123456789")]).await;
        let mut garbled = good.clone();
        garbled[LENGTHS_BYTES] = 0xc1;
        let huge = [0xff; 40].to_vec();
        let check = |bytes: Vec<u8>, expected: &'static str| async move {
            let error = read::<Word>(&mut bytes.as_slice(), LIMITS).await.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(long, "a header of").await;
        check(heavy, "a payload of 9 bytes").await;
        check(garbled, "cannot be read").await;
        check(huge, "a header of 4294967295 bytes").await;
        for cut in 0..good.len() {
            check(good[..cut].to_vec(), "closed").await;
        }
    }
}
