//! The key-value store: the trait that everything else codes against, and the engines behind it.
//!
//! It knows namespaces, keys and bytes. It refuses to know who may use a namespace, what a worker
//! is, or how a value reached the node.

#![forbid(unsafe_code)]

mod clock;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
mod counter;
mod entry;
mod epochs;
mod error;
mod key;
pub mod limits;
mod list;
pub mod log;
pub mod model;
pub mod nats_program;
mod remote;
mod replicated;
mod sqlite;
mod store;
mod weight;

pub use clock::{Clock, ManualClock, SystemClock};
pub use entry::{BulkWrite, Entry, PutOptions};
pub use epochs::{EpochReader, Epochs};
pub use error::{Cause, KvError, Operation};
pub use key::{Key, NamespaceId};
pub use list::{KeyInfo, ListOptions, ListPage, ListQuery};
pub use remote::{RemoteOptions, RemoteStats, RemoteStore, ServeOptions, serve_remote};
pub use replicated::{
    Export, Exported, Health, ReplicatedOptions, ReplicatedStats, ReplicatedStore, import,
};
pub use sqlite::{BATCH_SIZE_BOUNDS, SqliteOptions, SqliteStats, SqliteStore};
pub use store::{KvFuture, KvStore};
