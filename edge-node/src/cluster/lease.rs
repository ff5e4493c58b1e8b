//! Holds a lease for as long as this node can, and says since when and until when it does.

use std::sync::Arc;
use std::time::Duration;

use atoll_kv::log::{Fence, Held, Lease, LeaseError};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Cluster;

/// A lease that this node has now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tenure {
    /// Grows from holder to holder.
    pub(super) fence: Fence,
    /// When it ends unless it is renewed.
    pub(super) until: Instant,
}

/// Whether this node has a lease, for those who only want to know that.
pub(crate) struct LeaseView {
    tenures: watch::Receiver<Option<Tenure>>,
    _leave: watch::Sender<bool>,
}

/// The lease of whoever gets certificates from an ACME authority.
const ACME: LeaseOptions =
    LeaseOptions { name: "acme", ttl: Duration::from_secs(15), interval: Duration::from_secs(5) };

impl LeaseView {
    /// Asks for the lease of ACME, and holds it for as long as this is there. Needs a tokio runtime.
    pub(crate) fn acme(cluster: &Cluster) -> Self {
        let (sender, tenures) = watch::channel(None);
        let (leave, leaving) = watch::channel(false);
        let holder = format!("{}-{}", cluster.config().name, cluster.instance());
        tokio::spawn(hold(cluster.connection().leases(), ACME, holder, sender, leaving));
        Self { tenures, _leave: leave }
    }

    /// Waits until the node has the lease; false when it never will.
    pub(crate) async fn held(&mut self) -> bool {
        self.tenures.wait_for(Option::is_some).await.is_ok()
    }
}

/// How a lease is held.
#[derive(Clone, Copy, Debug)]
pub(super) struct LeaseOptions {
    pub(super) name: &'static str,
    /// How long it outlives its holder.
    pub(super) ttl: Duration,
    /// How often it is renewed, or asked for.
    pub(super) interval: Duration,
}

/// Whether nobody is left to say that the lease is to be let go.
fn is_left(leave: &watch::Receiver<bool>) -> bool {
    leave.has_changed().is_err()
}

/// Asks for the lease, renews it, and lets it go when `leave` says so.
pub(super) async fn hold(
    leases: Arc<dyn Lease>,
    options: LeaseOptions,
    holder: String,
    tenures: watch::Sender<Option<Tenure>>,
    mut leave: watch::Receiver<bool>,
) {
    let LeaseOptions { name, ttl, interval } = options;
    let mut held: Option<(Held, Instant)> = None;
    while !*leave.borrow() && !is_left(&leave) {
        let asked = Instant::now();
        let result = match held.clone() {
            Some((lease, _)) => leases.renew(lease, ttl).await,
            None => leases.acquire(name, &holder, ttl).await,
        };
        held = match (result, held) {
            (Ok(lease), _) => Some((lease, asked + ttl)),
            // Whether it was renewed is unknown: it may be used until it would have ended.
            (Err(LeaseError::Log(error)), Some((lease, until))) if Instant::now() < until => {
                tracing::debug!(%error, name, "a lease cannot be renewed now");
                Some((lease, until))
            }
            _ => None,
        };
        let tenure =
            held.as_ref().map(|(lease, until)| Tenure { fence: lease.fence, until: *until });
        tenures.send_if_modified(|known| {
            let changed = known.map(|known| known.fence) != tenure.map(|tenure| tenure.fence);
            *known = tenure;
            changed
        });
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            // Whoever told it to leave may be gone.
            _ = leave.wait_for(|leave| *leave) => {}
        }
    }
    tenures.send_replace(None);
    if let Some((lease, _)) = held
        && let Err(error) = leases.release(lease).await
    {
        tracing::debug!(%error, name, "a lease ends by itself");
    }
}
