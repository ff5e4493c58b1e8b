//! Gets certificates from an ACME authority (RFC 8555) and renews them: one node of a cluster asks, all answer the
//! authority's questions and serve by what comes of it. Whatever fails leaves the certificate in use alone.

mod authority;
mod error;
mod http;
mod names;
mod publisher;
mod schedule;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::cluster::{Cluster, LeaseView};
use crate::config::{AcmeConfig, NodeConfig};
use crate::node::stores::NodeStores;
use crate::observe::Count;
use crate::registry::{AcmeIssued, Registry, RegistryError, Snapshot, now_ms};
use authority::Authority;
use error::AcmeError;
use publisher::Publisher;
use schedule::{due_after, pause_after};

/// The pause between two orders.
const ORDER_PAUSE: Duration = Duration::from_secs(1);
/// The longest sleep between two looks at what is due, so that a changed clock is noticed.
const SLEEP_MAX: Duration = Duration::from_secs(30);
/// How long one order may take, with all that the authority looks at.
const ORDER_MAX: Duration = Duration::from_secs(300);
/// How long a certificate that nobody wants any more is kept after it has run out, in seconds.
const KEPT_S: u64 = 7 * 24 * 3_600;

/// Starts to get certificates, if the configuration wants any. The task ends with the registry.
pub(crate) fn start(
    config: &NodeConfig,
    stores: &NodeStores,
    in_use: watch::Receiver<u64>,
) -> Option<JoinHandle<()>> {
    let acme = config.tls.acme.clone()?;
    let (registry, cluster) = (stores.registry.clone(), stores.cluster.clone());
    let metrics = stores.hub.metrics();
    let issued = metrics.counter("acme_certificates", "Certificates that ACME has brought");
    let failed = metrics.counter("acme_failures", "Orders of certificates by ACME that failed");
    let runner = Runner {
        publisher: Publisher::new(registry.clone(), in_use, cluster.clone()),
        config: acme,
        domain: config.domain.clone(),
        registry,
        authority: None,
        rests_until: None,
        issued,
        failed,
    };
    Some(tokio::spawn(runner.run(cluster)))
}

struct Runner {
    config: AcmeConfig,
    /// The node's own domain, whose names need no authority.
    domain: String,
    registry: Registry,
    publisher: Publisher,
    /// The conversation with the authority; begun anew after a failure.
    authority: Option<Authority>,
    /// Until when the authority is left alone.
    rests_until: Option<Instant>,
    issued: Count,
    failed: Count,
}

/// What is to be done next.
enum Next {
    Order(String),
    Wait(Duration),
}

impl Runner {
    async fn run(mut self, cluster: Option<Cluster>) {
        let mut snapshots = self.registry.subscribe();
        let mut lease = cluster.map(|cluster| LeaseView::acme(&cluster));
        loop {
            if let Some(lease) = &mut lease
                && !lease.held().await
            {
                return;
            }
            let snapshot = snapshots.borrow_and_update().clone();
            let wait = match self.next(snapshot).await {
                Ok(Next::Order(host)) => {
                    self.order(&host).await;
                    tokio::time::sleep(ORDER_PAUSE).await;
                    continue;
                }
                Ok(Next::Wait(wait)) => wait.min(SLEEP_MAX),
                Err(error) => {
                    tracing::error!(%error, "it cannot be read which certificates are due");
                    SLEEP_MAX
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                changed = snapshots.changed() => if changed.is_err() { return },
            }
        }
    }

    /// The name whose turn it is, or how long there is nothing to do.
    async fn next(&self, snapshot: Arc<Snapshot>) -> Result<Next, RegistryError> {
        if let Some(until) = self.rests_until
            && until > Instant::now()
        {
            return Ok(Next::Wait(until - Instant::now()));
        }
        let (config, domain) = (self.config.clone(), self.domain.clone());
        let registry = self.registry.clone();
        blocking(move || {
            let wanted = names::wanted(&config, &domain, &snapshot, &registry.uploaded_hosts()?);
            let known = registry.acme_certificates()?;
            let now = now_ms();
            for gone in known.iter().filter(|known| !wanted.contains(&known.host)) {
                if gone.expires_s.saturating_add(KEPT_S) < now / 1_000 {
                    registry.forget_acme(&gone.host)?;
                }
            }
            Ok(schedule::next(&wanted, &known, &config.directory, now))
        })
        .await
    }

    /// Asks for one certificate, and notes what came of it.
    async fn order(&mut self, host: &str) {
        tracing::info!(host, directory = self.config.directory, "asking for a certificate");
        let result = match tokio::time::timeout(ORDER_MAX, self.issue(host)).await {
            Ok(result) => result,
            Err(_) => Err(AcmeError::TooLong),
        };
        self.publisher.withdraw().await;
        let noted = match result {
            Ok(issued) => self.put(host, issued).await,
            Err(error) => self.note(host, error).await,
        };
        if let Err(error) = noted {
            tracing::error!(host, %error, "what came of a certificate's order cannot be noted");
            self.rests_until = Some(Instant::now() + SLEEP_MAX);
        }
    }

    async fn issue(&mut self, host: &str) -> Result<AcmeIssued, AcmeError> {
        let authority = match &mut self.authority {
            Some(authority) => authority,
            none => none.insert(Authority::open(&self.config, &self.registry).await?),
        };
        authority.issue(host, self.config.challenge, &mut self.publisher).await
    }

    async fn put(&mut self, host: &str, issued: AcmeIssued) -> Result<(), RegistryError> {
        let AcmeIssued { from_s, expires_s, .. } = issued;
        let issued = AcmeIssued { due_ms: due_after(from_s, expires_s, rand::random()), ..issued };
        let days = expires_s.saturating_sub(now_ms() / 1_000) / 86_400;
        let (registry, name) = (self.registry.clone(), host.to_owned());
        let directory = self.config.directory.clone();
        blocking(move || registry.put_acme_certificate(&name, &directory, &issued)).await?;
        self.issued.add(1);
        tracing::info!(host, days, "a certificate was issued and serves");
        Ok(())
    }

    async fn note(&mut self, host: &str, error: AcmeError) -> Result<(), RegistryError> {
        let asked = self.authority.take().and_then(|authority| authority.asked_to_wait());
        let (registry, name, directory) =
            (self.registry.clone(), host.to_owned(), self.config.directory.clone());
        let (text, forget) = (error.to_string(), error.is_of_account());
        let everything = error.is_rate_limit() || asked.is_some();
        let pause = blocking(move || {
            if forget {
                registry.forget_acme_account(&directory)?;
            }
            let known = registry.acme_certificates()?;
            let failures = known.iter().find(|known| known.host == name);
            let failures = failures.map_or(0, |known| known.failures) + 1;
            let pause = pause_after(failures, everything, asked, rand::random());
            let due_ms =
                now_ms().saturating_add(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
            registry.note_acme_failure(&name, &text, due_ms)?;
            Ok::<_, RegistryError>(pause)
        })
        .await?;
        if everything {
            self.rests_until = Some(Instant::now() + pause);
        }
        self.failed.add(1);
        let again_s = pause.as_secs();
        tracing::error!(host, %error, again_s, "no certificate was issued; what serves now stays");
        Ok(())
    }
}

/// Runs what blocks on the disk where it may.
async fn blocking<T: Send + 'static, E: From<RegistryError> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(RegistryError::Unavailable(error.to_string()).into()),
    }
}
