//! The listening sockets of workers: for each thread one, which the kernel spreads connections over.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use atoll_router::{BindError, bind_reuse_port};

use crate::config::NodeConfig;

/// How often a taken port is tried again: a node that was killed leaves processes behind which end at once,
/// but not at the same moment.
const TAKEN_TRIES_MAX: u32 = 60;

/// The pause between two tries.
const TAKEN_PAUSE: Duration = Duration::from_millis(50);

/// Bound sockets, one pair for each thread.
pub(crate) struct Listeners {
    /// HTTP and HTTPS.
    pub(crate) pairs: Vec<(TcpListener, TcpListener)>,
    /// Where plain HTTP answers.
    pub(crate) http: SocketAddr,
    /// Where HTTPS answers.
    pub(crate) https: SocketAddr,
}

impl Listeners {
    /// Binds the sockets of so many threads.
    pub(crate) async fn bind(config: &NodeConfig, threads: usize) -> Result<Self, BindError> {
        let (http, http_address) = bind(config.http, threads).await?;
        let (https, https_address) = bind(config.https, threads).await?;
        let pairs = http.into_iter().zip(https).collect();
        Ok(Self { pairs, http: http_address, https: https_address })
    }
}

/// Binds so many sockets of one address, and says which that is.
pub(crate) async fn bind(
    address: SocketAddr,
    threads: usize,
) -> Result<(Vec<TcpListener>, SocketAddr), BindError> {
    refuse_taken(address).await?;
    let first = bind_reuse_port(address)?;
    let address = first.local_addr().map_err(|source| BindError { address, source })?;
    let mut listeners = vec![first];
    for _ in 1..threads {
        listeners.push(bind_reuse_port(address)?);
    }
    Ok((listeners, address))
}

/// SO_REUSEPORT would let two nodes of one user share a port unnoticed: a plain bind shows that it is taken.
async fn refuse_taken(address: SocketAddr) -> Result<(), BindError> {
    if address.port() == 0 {
        return Ok(());
    }
    let mut tries = 1;
    loop {
        match TcpListener::bind(address) {
            Ok(_) => return Ok(()),
            Err(source)
                if source.kind() == std::io::ErrorKind::AddrInUse && tries < TAKEN_TRIES_MAX =>
            {
                tries += 1;
                tokio::time::sleep(TAKEN_PAUSE).await;
            }
            Err(source) => return Err(BindError { address, source }),
        }
    }
}
