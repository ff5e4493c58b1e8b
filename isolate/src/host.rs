//! The one gate for I/O: everything that a worker may reach outside its isolate goes through [`Host`].

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;

use crate::outcome::LogLine;

/// Any error that a body may end with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A streaming body in either direction. Polled on the isolate's thread only.
pub type Body = Pin<Box<dyn http_body::Body<Data = Bytes, Error = BoxError>>>;

/// Where a `fetch` goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// The public internet.
    Internet,
    /// The service binding with this capability number.
    Service(u32),
}

/// Whether the response's `content-encoding` is to be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decode {
    /// Decode the body and drop the header.
    Yes,
    /// Hand the body over as it came.
    No,
}

/// One hop of a `fetch`. Redirects are followed inside the isolate, one hop at a time.
pub struct FetchHop {
    /// The id of the invocation that asks.
    pub invocation: Arc<str>,
    /// Where it goes.
    pub via: Via,
    /// The request, with an absolute URI.
    pub request: http::Request<Option<Body>>,
    /// What to do with an encoded body.
    pub decode: Decode,
}

/// One operation on a KV namespace. Limits are the store's to check.
pub enum KvCall {
    /// Reads several keys at one moment.
    Get {
        /// The keys.
        keys: Vec<String>,
    },
    /// Writes one key.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: Bytes,
        /// Seconds since the Unix epoch.
        expiration: Option<f64>,
        /// Seconds from now.
        expiration_ttl: Option<f64>,
        /// JSON text.
        metadata: Option<String>,
    },
    /// Removes one key.
    Delete {
        /// The key.
        key: String,
    },
    /// Lists keys in order.
    List {
        /// Only keys that begin with this.
        prefix: Option<String>,
        /// Keys in one page.
        limit: Option<f64>,
        /// Where the previous page ended.
        cursor: Option<String>,
    },
}

/// One value read from a KV namespace.
pub struct KvEntry {
    /// The value.
    pub value: Bytes,
    /// JSON text.
    pub metadata: Option<Arc<str>>,
}

/// What a [`KvCall`] gives back.
pub enum KvReply {
    /// One entry for each key asked for, in order.
    Entries(Vec<Option<KvEntry>>),
    /// The write is durable.
    Done,
    /// A page of keys as the JSON text that `list()` resolves to.
    Page(String),
}

/// Why the host refused or failed. The message is thrown in the worker.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// The worker's fault: thrown as a `TypeError`.
    #[error("{0}")]
    Refused(String),
    /// Something outside failed: thrown as an `Error`.
    #[error("{0}")]
    Failed(String),
}

/// What an isolate may ask of the world. One host belongs to one instance, and so to one account.
///
/// The futures run on the isolate's thread and are dropped when the invocation ends.
pub trait Host: 'static {
    /// Sends one hop of a `fetch`.
    fn fetch(
        &self,
        hop: FetchHop,
    ) -> LocalBoxFuture<'static, Result<http::Response<Body>, HostError>>;

    /// Runs one operation on the namespace with this capability number.
    fn kv(
        &self,
        capability: u32,
        call: KvCall,
    ) -> LocalBoxFuture<'static, Result<KvReply, HostError>>;

    /// Sees each console line as it is written. The invocation is absent during start-up.
    fn console(&self, invocation: Option<&str>, line: &LogLine);
}
