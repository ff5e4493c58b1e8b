//! Content-addressed blobs in a log: a value of any size under the hash of its bytes, in chunks.
//! It refuses to know who refers to a blob, and so never removes one by itself.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use sha2::{Digest, Sha256};

use super::change::{Append, ChangeLog, Freshness, Record};
use super::error::LogError;

/// Bytes of a blob, at most.
const BLOB_BYTES_MAX: usize = 512 * 1024 * 1024;
/// Bytes of a chunk, at most; less where the log takes less.
const CHUNK_BYTES_MAX: usize = 512 * 1024;
/// Chunks of one blob that are on their way at once.
const CHUNKS_IN_FLIGHT: usize = 4;
/// How old a blob may be for another put of the same bytes to rely on it: an older one is stored
/// anew, so that whoever removes what nobody names never removes what is being named.
const RELIED_ON_MAX: Duration = Duration::from_secs(12 * 3600);
/// How long after it was last stored a blob is safe from `remove_stale`.
const GRACE: Duration = Duration::from_secs(24 * 3600);
/// Says on the first chunk how many there are.
const CHUNKS: &str = "Chunks";
/// Says on the first chunk how many bytes they have.
const SIZE: &str = "Size";

/// The SHA-256 of a blob's bytes, which is its name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlobHash([u8; 32]);

/// Blobs by the hash of their bytes.
pub trait BlobStore: Send + Sync + 'static {
    /// Stores bytes, once however often they are put, and returns their hash. When it returns they
    /// can be read everywhere.
    fn put(&self, bytes: Bytes) -> BoxFuture<'static, Result<BlobHash, BlobError>>;

    /// Reads a blob and checks its bytes against the hash.
    fn get(&self, hash: BlobHash) -> BoxFuture<'static, Result<Bytes, BlobError>>;

    /// Removes a blob; removing an absent one succeeds. The caller knows that nobody refers to it,
    /// nor will by a put that is under way.
    fn remove(&self, hash: BlobHash) -> BoxFuture<'static, Result<(), BlobError>>;

    /// Removes a blob that nobody refers to, unless it was put within the last 24 hours: who puts
    /// bytes and then names them is safe. True if it was removed.
    fn remove_stale(&self, hash: BlobHash) -> BoxFuture<'static, Result<bool, BlobError>>;

    /// All blobs, in no particular order.
    fn list(&self) -> BoxFuture<'static, Result<Vec<BlobHash>, BlobError>>;
}

/// Every failure of a `BlobStore`.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// No blob has the hash, or not all of its chunks are there.
    #[error("blob {0} is not stored")]
    Missing(BlobHash),
    /// The stored bytes have another hash.
    #[error("blob {0} is damaged, put it again")]
    Damaged(BlobHash),
    /// The blob is larger than the store takes.
    #[error("blob of {0} bytes exceeds limit of {BLOB_BYTES_MAX}")]
    TooLarge(usize),
    /// The log below failed.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Blobs as records of a log that keeps the last record of each subject: chunk `n` of a blob lies
/// on `<hash>.<n>`. Chunk 0 comes last and says how many there are, so that a blob is either whole
/// or absent. Clones share the log.
#[derive(Clone)]
pub struct LogBlobs(Arc<dyn ChangeLog>);

impl BlobHash {
    /// The hash of bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The hash's own bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A hash from its bytes; none if they are not 32.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// A hash from 64 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for BlobHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BlobHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl LogBlobs {
    /// Takes a log that keeps the last record of each subject and holds nothing but blobs.
    pub fn new(log: Arc<dyn ChangeLog>) -> Self {
        Self(log)
    }

    async fn store(&self, bytes: Bytes) -> Result<BlobHash, BlobError> {
        if bytes.len() > BLOB_BYTES_MAX {
            return Err(BlobError::TooLarge(bytes.len()));
        }
        let (hash, bytes) = hashed(bytes).await;
        let found = self.head(hash, Freshness::Any).await?;
        if found.is_some_and(|head| age(&head) <= RELIED_ON_MAX) {
            return Ok(hash);
        }
        let chunk_bytes = self.0.payload_bytes_max().clamp(1, CHUNK_BYTES_MAX);
        let count = bytes.len().div_ceil(chunk_bytes).max(1);
        let chunk = |index: usize| {
            let end = ((index + 1) * chunk_bytes).min(bytes.len());
            Append::new(subject(hash, index), bytes.slice(index * chunk_bytes..end))
        };
        stream::iter((1..count).map(chunk).map(Ok))
            .try_for_each_concurrent(CHUNKS_IN_FLIGHT, |append| async move {
                self.0.append(append).await.map(|_| ())
            })
            .await?;
        let head = chunk(0).header(CHUNKS, count.to_string()).header(SIZE, bytes.len().to_string());
        self.0.append(head).await?;
        Ok(hash)
    }

    async fn drop_stale(&self, hash: BlobHash) -> Result<bool, BlobError> {
        let head = self.head(hash, Freshness::Latest).await?;
        let Some(head) = head.filter(|head| age(head) > GRACE) else { return Ok(false) };
        // What was stored anew since lies above.
        self.0.purge(subject(hash, 0), head.sequence + 1).await?;
        self.0.purge(format!("{hash}.*"), head.sequence + 1).await?;
        Ok(true)
    }

    async fn load(&self, hash: BlobHash) -> Result<Bytes, BlobError> {
        let head = match self.head(hash, Freshness::Any).await? {
            Some(head) => head,
            None => {
                let latest = self.head(hash, Freshness::Latest).await?;
                latest.ok_or(BlobError::Missing(hash))?
            }
        };
        let number = |name| head.header(name).and_then(|text| text.parse::<usize>().ok());
        let (Some(count), Some(size)) = (number(CHUNKS), number(SIZE)) else {
            return Err(BlobError::Damaged(hash));
        };
        if size > BLOB_BYTES_MAX || count > size.max(1) {
            return Err(BlobError::Damaged(hash));
        }
        if count == 1 {
            return checked(hash, head.payload).await;
        }
        let mut bytes = BytesMut::with_capacity(size);
        bytes.extend_from_slice(&head.payload);
        let mut rest = stream::iter((1..count).map(|index| self.chunk(hash, index)))
            .buffered(CHUNKS_IN_FLIGHT);
        while let Some(chunk) = rest.next().await {
            bytes.extend_from_slice(&chunk?.payload);
        }
        checked(hash, bytes.freeze()).await
    }

    async fn head(&self, hash: BlobHash, freshness: Freshness) -> Result<Option<Record>, LogError> {
        self.0.last_on(subject(hash, 0), freshness).await
    }

    async fn chunk(&self, hash: BlobHash, index: usize) -> Result<Record, BlobError> {
        if let Some(found) = self.0.last_on(subject(hash, index), Freshness::Any).await? {
            return Ok(found);
        }
        let latest = self.0.last_on(subject(hash, index), Freshness::Latest).await?;
        latest.ok_or(BlobError::Missing(hash))
    }
}

impl BlobStore for LogBlobs {
    fn put(&self, bytes: Bytes) -> BoxFuture<'static, Result<BlobHash, BlobError>> {
        let blobs = self.clone();
        Box::pin(async move { blobs.store(bytes).await })
    }

    fn get(&self, hash: BlobHash) -> BoxFuture<'static, Result<Bytes, BlobError>> {
        let blobs = self.clone();
        Box::pin(async move { blobs.load(hash).await })
    }

    fn remove(&self, hash: BlobHash) -> BoxFuture<'static, Result<(), BlobError>> {
        let blobs = self.clone();
        Box::pin(async move {
            // The head goes first: what is left of a blob without one is absent.
            blobs.0.purge(subject(hash, 0), u64::MAX).await?;
            Ok(blobs.0.purge(format!("{hash}.*"), u64::MAX).await?)
        })
    }

    fn remove_stale(&self, hash: BlobHash) -> BoxFuture<'static, Result<bool, BlobError>> {
        let blobs = self.clone();
        Box::pin(async move { blobs.drop_stale(hash).await })
    }

    fn list(&self) -> BoxFuture<'static, Result<Vec<BlobHash>, BlobError>> {
        let heads = self.0.subjects("*.0".into());
        Box::pin(async move {
            let hash = |subject: String| BlobHash::parse(subject.strip_suffix(".0")?);
            Ok(heads.await?.into_iter().filter_map(hash).collect())
        })
    }
}

fn subject(hash: BlobHash, index: usize) -> String {
    format!("{hash}.{index}")
}

/// How long ago a record was appended, by this machine's clock; nothing if that is to come.
fn age(record: &Record) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_millis(record.time_ms))
}

/// Hashes off the runtime's threads: 25 MiB take a tenth of a second.
async fn hashed(bytes: Bytes) -> (BlobHash, Bytes) {
    if bytes.len() <= CHUNK_BYTES_MAX {
        return (BlobHash::of(&bytes), bytes);
    }
    let copy = bytes.clone();
    let hash = tokio::task::spawn_blocking(move || BlobHash::of(&copy)).await;
    (hash.expect("hashing does not panic"), bytes)
}

async fn checked(hash: BlobHash, bytes: Bytes) -> Result<Bytes, BlobError> {
    let (found, bytes) = hashed(bytes).await;
    if found == hash { Ok(bytes) } else { Err(BlobError::Damaged(hash)) }
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}
