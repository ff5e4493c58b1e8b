//! What a node needs for requests between nodes: listening sockets, a certificate that it issues to itself and
//! renews, and a look at how far the others are. The authority's key stays in this process.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use atoll_router::{CERTIFICATE_LIFE, PeerAuthority, PeerCredentials, PeerTls, PeerTlsError};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Cluster;
use super::probe::probe_all;
use crate::dispatch::Neighbourhood;
use crate::node::NodeError;
use crate::node::sockets::bind;

/// How often the node looks whether its certificate is to be renewed.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// The age at which a certificate is renewed.
const RENEWED_AFTER: Duration = Duration::from_secs(CERTIFICATE_LIFE.as_secs() / 3);

/// A node's part in requests between nodes.
pub(crate) struct Peering {
    /// One for each thread that accepts; none where other nodes send nothing.
    pub(crate) sockets: Vec<TcpListener>,
    /// What the node shows to others.
    pub(crate) credentials: watch::Receiver<Option<Arc<PeerCredentials>>>,
    /// What is known of the other nodes.
    pub(crate) neighbours: watch::Receiver<Arc<Neighbourhood>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Peering {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Peering {
    /// Binds the sockets of so many threads, and issues the first certificate. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the address cannot be listened on, or no certificate can be made.
    pub(crate) async fn start(
        cluster: &Cluster,
        threads: usize,
        kept: Vec<TcpListener>,
    ) -> Result<Self, NodeError> {
        let (sockets, address) = match cluster.config().peer {
            Some(address) => {
                let (sockets, address) = bind(address, threads, kept).await?;
                (sockets, Some(address))
            }
            None => (Vec::new(), None),
        };
        let secret = cluster.registry().peer_secret()?.ok_or(NodeError::NoCluster)?;
        let authority = PeerAuthority::from_seed(&secret)?;
        let name = cluster.config().name.clone();
        let first = authority.issue(&name)?;
        let tls = Arc::new(ArcSwap::from_pointee(PeerTls::new(&first)?));
        let (sender, credentials) = watch::channel(Some(Arc::new(first)));
        cluster.advertise_peer(address);
        let (met, neighbours) = watch::channel(Arc::new(cluster.neighbourhood()));
        let probing = probe_all(cluster.clone(), tls.clone(), met);
        let renewing = renew(authority, name, move |new| {
            tls.store(Arc::new(PeerTls::new(&new)?));
            sender.send_replace(Some(Arc::new(new)));
            Ok(())
        });
        let tasks = vec![tokio::spawn(renewing), tokio::spawn(probing)];
        Ok(Self { sockets, credentials, neighbours, tasks })
    }
}

/// Issues a certificate anew long before the one in use runs out, by the clock on the wall, and gives it to `take`.
pub(crate) async fn renew(
    authority: PeerAuthority,
    name: String,
    take: impl Fn(PeerCredentials) -> Result<(), PeerTlsError>,
) {
    let mut issued = SystemTime::now();
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        // A clock that went back makes it due, too.
        if issued.elapsed().is_ok_and(|age| age < RENEWED_AFTER) {
            continue;
        }
        match authority.issue(&name).and_then(&take) {
            Ok(()) => issued = SystemTime::now(),
            Err(error) => tracing::error!(name, %error, "a certificate cannot be renewed"),
        }
    }
}

impl Cluster {
    /// Tells other nodes where to send requests from now on.
    fn advertise_peer(&self, bound: Option<SocketAddr>) {
        let told = self.config().advertise_peer.clone();
        let address = bound.map(|bound| told.unwrap_or_else(|| bound.to_string()));
        // It is called once.
        let _ = self.0.peer.set(address);
    }
}
