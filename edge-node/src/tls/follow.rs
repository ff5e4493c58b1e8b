//! Reads TLS material again when a file, an upload or the time asks for it, and says what came of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::bytes::TlsBytes;
use super::source::TlsSource;
use crate::file_look::{FileLook, LOOK_INTERVAL};
use crate::registry::Snapshot;

/// How often it is looked whether ticket keys have a new window: well within one.
const TIME_INTERVAL: Duration = Duration::from_secs(60);

/// Whether a signal of the operator's is heard, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reload {
    /// SIGHUP reads the files again.
    OnSignal,
    /// Only changes do.
    OnChange,
}

/// What TLS serves by, followed.
pub(crate) struct TlsFollower {
    /// What TLS serves by now.
    pub(crate) tls: watch::Receiver<Arc<TlsBytes>>,
    /// The registry's snapshots, each after the certificates that it names are in `tls`.
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Ends with the node.
    pub(crate) task: JoinHandle<()>,
}

impl TlsFollower {
    /// Follows files and the registry from what is in use already.
    pub(crate) fn start(
        source: TlsSource,
        current: TlsBytes,
        mut registry: watch::Receiver<Arc<Snapshot>>,
        reload: Reload,
    ) -> std::io::Result<Self> {
        let hangup = match reload {
            Reload::OnSignal => Some(signal(SignalKind::hangup())?),
            Reload::OnChange => None,
        };
        let (tls_sender, tls) = watch::channel(Arc::new(current));
        let (snapshot_sender, snapshots) = watch::channel(registry.borrow_and_update().clone());
        let looks = look(&source);
        let follow = Follow { source, looks, tls: tls_sender, snapshots: snapshot_sender };
        Ok(Self { tls, snapshots, task: tokio::spawn(follow.run(registry, hangup)) })
    }
}

struct Follow {
    source: TlsSource,
    /// What the last look at each file saw; none of one that is not there.
    looks: Vec<Option<FileLook>>,
    tls: watch::Sender<Arc<TlsBytes>>,
    snapshots: watch::Sender<Arc<Snapshot>>,
}

impl Follow {
    async fn run(
        mut self,
        mut registry: watch::Receiver<Arc<Snapshot>>,
        mut hangup: Option<Signal>,
    ) {
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        let mut times = tokio::time::interval(TIME_INTERVAL);
        loop {
            tokio::select! {
                changed = registry.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let snapshot = registry.borrow_and_update().clone();
                    if self.concerns(&snapshot) {
                        self = self.publish().await;
                    }
                    self.snapshots.send_replace(snapshot);
                }
                _ = looks.tick() => {
                    if look(&self.source) != self.looks {
                        self = self.reload().await;
                    }
                }
                _ = times.tick() => self = self.publish().await,
                () = signalled(&mut hangup) => {
                    tracing::info!("reading certificates again");
                    self = self.reload().await;
                }
            }
        }
    }

    /// Whether a snapshot may change what TLS serves by.
    fn concerns(&self, snapshot: &Snapshot) -> bool {
        let known = self.snapshots.borrow();
        known.certificates != snapshot.certificates || !known.subdomains.is(&snapshot.subdomains)
    }

    async fn reload(mut self) -> Self {
        self.looks = look(&self.source);
        if let Err(error) = self.source.reload() {
            tracing::error!(%error, "the certificates that were read before stay in use");
            return self;
        }
        tracing::info!("certificates were read again");
        self.publish().await
    }

    /// Reads everything where it may block, and shows it if it is new.
    async fn publish(self) -> Self {
        let read = tokio::task::spawn_blocking(move || {
            let read = self.source.read();
            (self, read)
        });
        let (this, read) = read.await.expect("reading certificates does not panic");
        match read {
            Ok(bytes) => {
                this.tls.send_if_modified(|current| {
                    let changed = **current != bytes;
                    if changed {
                        *current = Arc::new(bytes);
                    }
                    changed
                });
            }
            Err(error) => tracing::error!(%error, "TLS stays as it was"),
        }
        this
    }
}

async fn signalled(hangup: &mut Option<Signal>) {
    let heard = match hangup {
        Some(hangup) => hangup.recv().await.is_some(),
        None => false,
    };
    if !heard {
        std::future::pending().await
    }
}

fn look(source: &TlsSource) -> Vec<Option<FileLook>> {
    source.paths().map(|path| FileLook::of(path).ok()).collect()
}
