//! One connection to NATS, and what this process knows of its state.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_nats::jetstream::Context;
use async_nats::jetstream::context::ContextBuilder;
use async_nats::{Client, Event, Server};
use tokio::sync::watch;

use super::log::NatsLog;
use super::options::NatsOptions;
use crate::log::{
    BlobStore, ChangeLog, Connectivity, Lease, LogBlobs, LogEngine, LogLeases, LogOptions,
    Retention,
};

/// How long one request to JetStream may take; operations try again within their own bounds.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// What the client says where a server does not know it, and what is enough.
const AUTHORIZATION: (&str, &str) =
    ("authorization violation: nats: authorization violation", "authorization violation");

/// A connection to NATS that comes back by itself. Clones share it.
#[derive(Clone)]
pub struct NatsConnection(Arc<Connection>);

struct Connection {
    client: Client,
    context: Context,
    options: NatsOptions,
    link: watch::Receiver<Link>,
    connectivity: watch::Receiver<Connectivity>,
    trouble: Trouble,
}

/// Why the last attempt to connect failed, if it did.
type Trouble = Arc<Mutex<Option<String>>>;

/// The connection's state, and how often it was made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    pub(super) connected: bool,
    pub(super) connects: u64,
}

/// Every failure of connecting and of messages between nodes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NatsError {
    /// The prefix cannot be part of a stream's name.
    #[error("{0:?} is no prefix, take 1 to 32 letters, digits or -")]
    Prefix(String),
    /// A file of credentials or certificates cannot be used.
    #[error("cannot use {path}: {cause}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// The client did not start, such as for a malformed URL.
    #[error("cannot connect to NATS: {0}")]
    Connect(String),
    /// No server can be reached now. Nothing was sent.
    #[error("no NATS server can be reached, nothing was sent")]
    Disconnected,
    /// Nobody listens on the subject.
    #[error("nobody answers on {0}")]
    NoResponders(String),
    /// No answer came in time.
    #[error("no answer in time on {0}")]
    TimedOut(String),
    /// The message was not sent, such as for its size or a malformed subject.
    #[error("cannot send: {0}")]
    Send(String),
}

impl NatsConnection {
    /// Begins to connect and returns at once, whether a server is there or not: `connectivity`
    /// tells when one is.
    ///
    /// # Errors
    /// `Prefix`, `File`, or `Connect` for what trying again cannot mend.
    pub async fn connect(options: NatsOptions) -> Result<Self, NatsError> {
        options.check()?;
        let since = Instant::now();
        let (connectivity_in, connectivity) = watch::channel(Connectivity::Disconnected { since });
        let (link_in, link) = watch::channel(Link { connected: false, connects: 0 });
        let trouble = Trouble::default();
        let (attempts, events) = (trouble.clone(), trouble.clone());
        let client = options
            .client()?
            .event_callback(move |event| {
                observe(&event, &link_in, &connectivity_in, &events);
                std::future::ready(())
            })
            // The only place where the client says why: it is called before each round of attempts, and lets
            // the client choose.
            .reconnect_to_server_callback(move |servers, _| {
                note_trouble(&servers, &attempts);
                std::future::ready(None)
            })
            .connect(options.urls.clone())
            .await
            .map_err(|error| NatsError::Connect(error.to_string()))?;
        let builder = ContextBuilder::new().timeout(REQUEST_TIMEOUT);
        let context = match &options.domain {
            Some(domain) => {
                ContextBuilder::new().domain(domain).timeout(REQUEST_TIMEOUT).build(client.clone())
            }
            None => builder.build(client.clone()),
        };
        Ok(Self(Arc::new(Connection { client, context, options, link, connectivity, trouble })))
    }

    /// Opens a log: the stream `<prefix>_<name>` with the subjects `<prefix>.<name>.>`.
    pub fn log(&self, name: &str, options: LogOptions) -> Arc<dyn ChangeLog> {
        Arc::new(NatsLog::new(self.clone(), name, options))
    }

    /// The cluster's blobs.
    pub fn blobs(&self) -> Arc<dyn BlobStore> {
        Arc::new(LogBlobs::new(self.log("blobs", last_per_subject())))
    }

    /// The cluster's leases.
    pub fn leases(&self) -> Arc<dyn Lease> {
        Arc::new(LogLeases::new(self.log("leases", last_per_subject())))
    }

    /// Whether a server can be reached, as far as the client knows.
    pub fn connectivity(&self) -> watch::Receiver<Connectivity> {
        self.0.connectivity.clone()
    }

    /// Why no server can be reached, as far as that is known: one refuses the credentials, or shows a certificate
    /// that nobody trusts.
    pub fn trouble(&self) -> Option<String> {
        locked(&self.0.trouble).clone()
    }

    /// That no server can be reached, and why.
    pub(super) fn unreachable(&self) -> String {
        match self.trouble() {
            Some(why) => format!("no NATS server can be reached: {why}"),
            None => "no NATS server can be reached".to_owned(),
        }
    }

    /// How often the connection was lost and made again.
    pub fn reconnects(&self) -> u64 {
        self.0.link.borrow().connects.saturating_sub(1)
    }

    /// Sends what waits to be sent, and ends the connection.
    pub async fn close(&self) {
        if let Err(error) = self.0.client.drain().await {
            tracing::debug!(%error, "cannot drain the NATS connection");
        }
    }

    /// What the cluster's names begin with.
    pub fn prefix(&self) -> &str {
        &self.0.options.prefix
    }

    pub(super) fn replicas(&self) -> usize {
        self.0.options.replicas
    }

    pub(super) fn domain(&self) -> Option<&str> {
        self.0.options.domain.as_deref()
    }

    pub(super) fn client(&self) -> &Client {
        &self.0.client
    }

    pub(super) fn context(&self) -> &Context {
        &self.0.context
    }

    pub(super) fn link(&self) -> watch::Receiver<Link> {
        self.0.link.clone()
    }

    pub(super) fn is_connected(&self) -> bool {
        self.0.link.borrow().connected
    }

    /// Waits until a server is there; false if none is at `deadline`.
    pub(super) async fn connected_by(&self, deadline: tokio::time::Instant) -> bool {
        let mut link = self.link();
        let wait = link.wait_for(|link| link.connected);
        // The sender lives as long as the client, so an error is the end of both.
        matches!(tokio::time::timeout_at(deadline, wait).await, Ok(Ok(_)))
    }
}

impl LogEngine for NatsConnection {
    fn log(&self, name: &str, options: LogOptions) -> Arc<dyn ChangeLog> {
        NatsConnection::log(self, name, options)
    }
}

/// The options of a log of which only the newest record of a subject counts.
fn last_per_subject() -> LogOptions {
    LogOptions { retention: Retention::LastPerSubject, ..LogOptions::default() }
}

fn locked(trouble: &Mutex<Option<String>>) -> MutexGuard<'_, Option<String>> {
    trouble.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps why the servers could not be reached, and tells the log when that is something new.
fn note_trouble(servers: &[Server], trouble: &Mutex<Option<String>>) {
    let server = |server: &Server| {
        let why = server.last_error.as_ref()?.replace(AUTHORIZATION.0, AUTHORIZATION.1);
        Some(format!("{}:{}: {why}", server.addr.host(), server.addr.port()))
    };
    // A server can be known in two ways: by its URL, and from another server.
    let found: BTreeSet<String> = servers.iter().filter_map(server).collect();
    let found = found.into_iter().collect::<Vec<_>>().join("; ");
    if found.is_empty() {
        return;
    }
    let mut known = locked(trouble);
    if known.as_deref() != Some(&found) {
        tracing::warn!(why = found, "NATS servers cannot be reached");
        *known = Some(found);
    }
}

fn observe(
    event: &Event,
    link: &watch::Sender<Link>,
    connectivity: &watch::Sender<Connectivity>,
    trouble: &Mutex<Option<String>>,
) {
    match event {
        Event::Connected => {
            *locked(trouble) = None;
            tracing::info!("connected to NATS");
            link.send_modify(|link| {
                *link = Link { connected: true, connects: link.connects + 1 };
            });
            connectivity.send_replace(Connectivity::Connected);
        }
        Event::Disconnected | Event::Closed => {
            // A connection that this node closes is no trouble.
            if *event == Event::Disconnected {
                tracing::warn!("NATS cannot be reached");
            }
            link.send_modify(|link| link.connected = false);
            connectivity.send_if_modified(|state| {
                let was_connected = *state == Connectivity::Connected;
                if was_connected {
                    *state = Connectivity::Disconnected { since: Instant::now() };
                }
                was_connected
            });
        }
        Event::ServerError(error) => tracing::warn!(%error, "a NATS server complains"),
        event => tracing::debug!(%event, "NATS client"),
    }
}
