//! The file: a magic, then frames of a header and a payload, each led by its length; the last frame has the
//! SHA-256 of all before it.

use std::io::{ErrorKind, Read, Write};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::ArchiveError;
use crate::registry::ArchivedRow;

const MAGIC: &[u8; 8] = b"atoll\0\0\x01";
/// Bytes of a frame's header.
const HEADER_BYTES_MAX: u32 = 256 << 20;
/// Bytes of a frame's payload: far above what a value or a module has.
const PAYLOAD_BYTES_MAX: u32 = 512 << 20;

/// What a frame's payload is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Frame {
    /// Comes first; no payload.
    Head { schema: i64, key_check: String },
    /// A row of the registry; no payload.
    Row(ArchivedRow),
    /// A module.
    Module,
    /// A KV value.
    Value { namespace: String, key: String, metadata: Option<String>, expiration: Option<u64> },
    /// Comes last; no payload.
    End { sha256: String },
}

/// Writes frames.
pub(super) struct Writer<W> {
    inner: W,
    hash: Sha256,
}

/// Reads frames, and checks them at the end.
pub(super) struct Reader<R> {
    inner: R,
    hash: Sha256,
    ended: bool,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(mut inner: W) -> std::io::Result<Self> {
        inner.write_all(MAGIC)?;
        Ok(Self { inner, hash: Sha256::new() })
    }

    pub(super) fn write(&mut self, frame: &Frame, payload: &[u8]) -> std::io::Result<()> {
        let header = rmp_serde::to_vec_named(frame).expect("a frame is plain data");
        let too_large = |_| std::io::Error::other("a value is too large for an export");
        let lengths = [
            u32::try_from(header.len()).map_err(too_large)?.to_be_bytes(),
            u32::try_from(payload.len()).map_err(too_large)?.to_be_bytes(),
        ];
        for part in [&lengths.concat()[..], &header, payload] {
            self.hash.update(part);
            self.inner.write_all(part)?;
        }
        Ok(())
    }

    pub(super) fn end(mut self) -> std::io::Result<W> {
        let sha256 = hex::encode(self.hash.clone().finalize());
        self.write(&Frame::End { sha256 }, &[])?;
        self.inner.flush()?;
        Ok(self.inner)
    }
}

impl<R: Read> Reader<R> {
    pub(super) fn new(mut inner: R) -> Result<Self, ArchiveError> {
        let mut magic = [0; MAGIC.len()];
        inner.read_exact(&mut magic).map_err(|_| ArchiveError::Damaged("too short"))?;
        match magic == *MAGIC {
            true => Ok(Self { inner, hash: Sha256::new(), ended: false }),
            false if magic[..7] == MAGIC[..7] => Err(ArchiveError::Newer),
            false => Err(ArchiveError::Damaged("another beginning")),
        }
    }

    /// The next frame; none after the last, which was found to be right.
    pub(super) fn next(&mut self) -> Result<Option<(Frame, Vec<u8>)>, ArchiveError> {
        if self.ended {
            return Ok(None);
        }
        let before = hex::encode(self.hash.clone().finalize());
        let mut lengths = [0; 8];
        self.read(&mut lengths)?;
        let length = |at: usize| {
            let bytes = lengths[at..at + 4].try_into().expect("four bytes are four bytes");
            u32::from_be_bytes(bytes)
        };
        let (header, payload) = (length(0), length(4));
        if header > HEADER_BYTES_MAX || payload > PAYLOAD_BYTES_MAX {
            return Err(ArchiveError::Damaged("a length beyond all limits"));
        }
        let (header, payload) = (self.bytes(header)?, self.bytes(payload)?);
        let frame = rmp_serde::from_slice(&header).map_err(|_| ArchiveError::Damaged("a frame"))?;
        if let Frame::End { sha256 } = &frame {
            if *sha256 != before {
                return Err(ArchiveError::Damaged("another checksum"));
            }
            self.ended = true;
            return Ok(None);
        }
        Ok(Some((frame, payload)))
    }

    fn bytes(&mut self, length: u32) -> Result<Vec<u8>, ArchiveError> {
        // A length that lies costs no more than what is there.
        let mut bytes = Vec::new();
        let read = self.inner.by_ref().take(length.into()).read_to_end(&mut bytes);
        match read {
            Ok(read) if read == length as usize => {
                self.hash.update(&bytes);
                Ok(bytes)
            }
            _ => Err(ArchiveError::Damaged("its end is missing")),
        }
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), ArchiveError> {
        self.inner.read_exact(bytes).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => ArchiveError::Damaged("its end is missing"),
            _ => ArchiveError::Damaged("it cannot be read"),
        })?;
        self.hash.update(bytes);
        Ok(())
    }
}
