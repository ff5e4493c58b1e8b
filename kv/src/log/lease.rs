//! Leases in a log: one holder at a time for a name, for as long as it renews, and fences by which
//! a log refuses the appends of a holder that was replaced without noticing.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::change::{Append, ChangeLog, Expect, Freshness, Record};
use super::error::LogError;

/// The header in which a lease's record, and a fenced append, carry the holder's fence.
pub const FENCE_HEADER: &str = "Fence";
/// Times that an appender with a fence reads and tries again before it gives up.
const FENCED_TRIES_MAX: usize = 8;

/// A number that grows from holder to holder of one lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fence(pub u64);

/// A lease that this process holds, as long as it renews it in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// What is held.
    pub name: String,
    /// By whom.
    pub holder: String,
    /// The token of this tenure; renewing keeps it.
    pub fence: Fence,
    /// The record that renewing replaces.
    sequence: u64,
}

/// Leases by name. Whoever holds one has it for `ttl` from the moment it *asked*: it must count
/// from before the call, and stop what the lease protects at the end, renewed or not.
pub trait Lease: Send + Sync + 'static {
    /// Takes a lease that nobody holds. The name is a subject's token, the holder a name that
    /// nobody else uses.
    ///
    /// # Errors
    /// `Taken` while somebody holds it, this holder included.
    fn acquire(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> BoxFuture<'static, Result<Held, LeaseError>>;

    /// Holds a lease for `ttl` more.
    ///
    /// # Errors
    /// `Gone` if it ran out, whether or not somebody else has it by now.
    fn renew(&self, held: Held, ttl: Duration) -> BoxFuture<'static, Result<Held, LeaseError>>;

    /// Lets a lease go before its time.
    fn release(&self, held: Held) -> BoxFuture<'static, Result<(), LeaseError>>;

    /// Who holds a lease now, and by which fence.
    fn holder(&self, name: &str)
    -> BoxFuture<'static, Result<Option<(String, Fence)>, LeaseError>>;
}

/// Every failure of a `Lease`.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseError {
    /// Somebody holds it.
    #[error("the lease is held by {holder}")]
    Taken {
        /// Who.
        holder: String,
    },
    /// It ran out or was taken over.
    #[error("the lease is gone, acquire it anew")]
    Gone,
    /// The log below failed.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Leases as records that a log forgets after their time to live, taken by comparing and setting.
/// The fence is the sequence of the record that took the lease. Clones share the log.
#[derive(Clone)]
pub struct LogLeases(Arc<dyn ChangeLog>);

impl LogLeases {
    /// Takes a log that keeps the last record of each subject and holds nothing but leases.
    pub fn new(log: Arc<dyn ChangeLog>) -> Self {
        Self(log)
    }

    async fn take(self, name: String, holder: String, ttl: Duration) -> Result<Held, LeaseError> {
        if let Some(record) = self.0.last_on(name.clone(), Freshness::Latest).await? {
            return Err(LeaseError::Taken { holder: holder_of(&record) });
        }
        let append = Append::new(name.clone(), Bytes::copy_from_slice(holder.as_bytes()))
            .ttl(ttl)
            .expect(Expect::LastOnSubject(0));
        match self.0.append(append).await {
            Ok(sequence) => Ok(Held { name, holder, fence: Fence(sequence), sequence }),
            Err(LogError::Conflict) => {
                let record = self.0.last_on(name, Freshness::Latest).await?;
                let holder = record.as_ref().map(holder_of).unwrap_or_default();
                Err(LeaseError::Taken { holder })
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn extend(self, held: Held, ttl: Duration) -> Result<Held, LeaseError> {
        let append = Append::new(held.name.clone(), held.holder.clone())
            .header(FENCE_HEADER, held.fence.0.to_string())
            .ttl(ttl)
            .expect(Expect::LastOnSubject(held.sequence));
        match self.0.append(append).await {
            Ok(sequence) => Ok(Held { sequence, ..held }),
            Err(LogError::Conflict) => Err(LeaseError::Gone),
            Err(error) => Err(error.into()),
        }
    }
}

impl Lease for LogLeases {
    fn acquire(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> BoxFuture<'static, Result<Held, LeaseError>> {
        Box::pin(self.clone().take(name.to_owned(), holder.to_owned(), ttl))
    }

    fn renew(&self, held: Held, ttl: Duration) -> BoxFuture<'static, Result<Held, LeaseError>> {
        Box::pin(self.clone().extend(held, ttl))
    }

    fn release(&self, held: Held) -> BoxFuture<'static, Result<(), LeaseError>> {
        // Only records up to the holder's own go: a lease that was taken over stays.
        let purge = self.0.purge(held.name, held.sequence + 1);
        Box::pin(async move { Ok(purge.await?) })
    }

    fn holder(
        &self,
        name: &str,
    ) -> BoxFuture<'static, Result<Option<(String, Fence)>, LeaseError>> {
        let found = self.0.last_on(name.to_owned(), Freshness::Latest);
        Box::pin(async move {
            let record = found.await?;
            Ok(record.map(|record| (holder_of(&record), fence_of(&record, record.sequence))))
        })
    }
}

/// Appends to a subject that a lease protects, unless the log has seen a later holder's fence there.
///
/// A holder that was replaced is refused from the successor's first fenced append on the subject:
/// a new holder makes one before it relies on being alone. Every append to the subject must be
/// fenced. The expectation of `append` is replaced.
///
/// # Errors
/// `StaleFence`, `Conflict` if others append too often to come between, and those of an append.
pub async fn append_fenced(
    log: &dyn ChangeLog,
    append: Append,
    fence: Fence,
) -> Result<u64, LogError> {
    for _ in 0..FENCED_TRIES_MAX {
        let last = log.last_on(append.subject.clone(), Freshness::Latest).await?;
        let newest = last.as_ref().map_or(Fence(0), |record| fence_of(record, 0));
        if newest > fence {
            return Err(LogError::StaleFence { fence: fence.0, newest: newest.0 });
        }
        let sequence = last.map_or(0, |record| record.sequence);
        let fenced = append
            .clone()
            .header(FENCE_HEADER, fence.0.to_string())
            .expect(Expect::LastOnSubject(sequence));
        match log.append(fenced).await {
            Err(LogError::Conflict) => {}
            result => return result,
        }
    }
    Err(LogError::Conflict)
}

fn holder_of(record: &Record) -> String {
    String::from_utf8_lossy(&record.payload).into_owned()
}

fn fence_of(record: &Record, otherwise: u64) -> Fence {
    let fence = record.header(FENCE_HEADER).and_then(|text| text.parse().ok());
    Fence(fence.unwrap_or(otherwise))
}
