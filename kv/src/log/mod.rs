//! Ordered logs that many nodes share, and what is built on one: blobs and leases.
//!
//! A log orders appended records by a sequence, keeps them durably and tells every subscriber of
//! them in that order. It knows subjects, headers and bytes. It refuses to know what a record
//! means: keys, namespaces and changesets belong to those who append them.

mod blobs;
mod change;
mod error;
#[cfg(any(test, feature = "contract"))]
mod fake;
mod lease;
mod nats;
mod sqlite;
mod subject;

pub use blobs::{BlobError, BlobHash, BlobStore, LogBlobs};
pub use change::{
    Absent, Append, ChangeLog, Connectivity, Deliveries, Delivery, Expect, Freshness, Headers,
    Identity, LogEngine, LogFuture, LogOptions, LogState, Lost, Position, Record, Retention,
};
pub use error::LogError;
#[cfg(any(test, feature = "contract"))]
pub use fake::{FakeLog, FakeLogs};
pub use lease::{FENCE_HEADER, Fence, Held, Lease, LeaseError, LogLeases, append_fenced};
pub use nats::{
    Message, NatsAuth, NatsConnection, NatsError, NatsLog, NatsOptions, NatsTls, Subscription,
};
pub use sqlite::SqliteLogs;
