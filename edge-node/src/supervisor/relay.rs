//! The conversation with one serving process, from its start to the end of its link: it gets what it serves
//! by, and its words are acted upon. A process that does not answer is given up.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;

use super::child::Child;
use super::keep::Seats;
use super::{ProcessSockets, Shared};
use crate::dispatch::Job;
use crate::node::sockets::ThreadSockets;
use crate::observe::ProcessState;
use crate::process::{
    self, FrameLimits, FromServing, LinkError, LinkReader, LinkSender, QuicSeats, ServingStart,
    ToServing, open, send_fds, split_modules,
};
use crate::registry::{Snapshot, VersionId};

/// How often a process is asked whether it is there.
const PING_INTERVAL: Duration = Duration::from_secs(2);

/// How long a process may say nothing.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// How long a process may take until it accepts requests.
const START_MAX: Duration = Duration::from_secs(30);

/// What a drain may take beyond the time that requests and then `waitUntil` get.
const DRAIN_GRACE: Duration = Duration::from_secs(5);

/// Versions that are read for one process at once.
const VERSION_READS_MAX: usize = 16;

/// What a process may say of its confinement, in characters.
const SANDBOX_CHARS_MAX: usize = 500;

/// What a serving process may send: reports with their logs are the longest.
const LIMITS: FrameLimits = FrameLimits { header_bytes_max: 16 << 20, payload_bytes_max: 0 };

/// The sockets of each thread, until the drain: from then on nobody may wait in them for
/// a process that never comes.
pub(super) type OpenSockets = Option<ProcessSockets>;

/// Why a conversation is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum Over {
    /// The process has finished what it accepted.
    #[error("it is drained")]
    Drained,
    /// The link ended.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// What it needs cannot be had.
    #[error("it cannot be given what it needs: {0}")]
    Io(#[from] std::io::Error),
    /// It did not get ready in time.
    #[error("it is not ready after {START_MAX:?}")]
    NotReady,
    /// It says nothing.
    #[error("it has not answered for {SILENCE_MAX:?}")]
    Hung,
    /// The drain's time is over.
    #[error("it has not finished in time")]
    DrainTooLong,
}

/// What is known of one serving process.
pub(super) struct Relay<'a> {
    pub(super) shared: &'a Arc<Shared>,
    /// Its place among the serving processes.
    pub(super) place: usize,
    /// Its number, unlike that of any before it.
    pub(super) number: u64,
    /// When it last said something, in milliseconds since `begun`.
    heard_ms: AtomicU64,
    ready: watch::Sender<bool>,
    begun: Instant,
}

impl<'a> Relay<'a> {
    pub(super) fn new(shared: &'a Arc<Shared>, place: usize, number: u64) -> Self {
        Self {
            shared,
            place,
            number,
            heard_ms: AtomicU64::new(0),
            ready: watch::Sender::new(false),
            begun: Instant::now(),
        }
    }

    /// Talks until the link ends or the process must be given up.
    pub(super) async fn run(
        &self,
        child: &Child,
        socket: UnixStream,
        seats: &mut Seats,
        jobs: &mut mpsc::Receiver<Job>,
    ) -> Over {
        match self.begin(child, socket, seats).await {
            Ok((sender, reader, told)) => tokio::select! {
                over = self.listen(reader, sender.clone()) => over,
                over = self.tell(sender.clone(), told, &mut seats.sockets, jobs) => over,
                over = self.watch(sender) => over,
            },
            Err(over) => over,
        }
    }

    /// Sends everything that the process needs to serve. Gives the snapshot that it has then.
    async fn begin(
        &self,
        child: &Child,
        socket: UnixStream,
        seats: &Seats,
    ) -> Result<(LinkSender<ToServing>, LinkReader<FromServing>, Arc<Snapshot>), Over> {
        let shared = self.shared;
        let kv = process::kv::serve(&shared.kv)?;
        let geo = process::geo::serve(shared.geo.files.clone())?;
        let mut fds: Vec<BorrowedFd<'_>> =
            vec![child.crash_report(), kv.as_fd(), shared.epochs.as_fd(), geo.as_fd()];
        let sockets = seats.sockets.as_ref();
        let threads = sockets.into_iter().flat_map(|sockets| &sockets.threads);
        fds.extend(threads.flat_map(ThreadSockets::fds));
        send_fds(&socket, &fds).await?;
        let inboxes: Vec<_> = shared.inboxes.iter().map(AsFd::as_fd).collect();
        send_fds(&socket, &inboxes).await?;
        let of_peers = sockets.into_iter().flat_map(|sockets| &sockets.peers);
        send_fds(&socket, &of_peers.map(AsFd::as_fd).collect::<Vec<_>>()).await?;
        let of_siblings = sockets.into_iter().flat_map(|sockets| &sockets.siblings);
        send_fds(&socket, &of_siblings.map(AsFd::as_fd).collect::<Vec<_>>()).await?;
        let (sender, reader) = open::<ToServing, FromServing>(socket, LIMITS);
        let snapshot = shared.snapshots.borrow().clone();
        let start = ServingStart {
            config: shared.config.clone(),
            tls: (**shared.tls.borrow()).clone(),
            quic: QuicSeats { keys: shared.quic_keys.clone(), first: seats.first },
            quarantined: shared.quarantined.borrow().clone(),
            followed: shared.hub.followed().borrow().clone(),
            credentials: shared.credentials.borrow().as_deref().cloned(),
            neighbours: (**shared.neighbours.borrow()).clone(),
            siblings: shared.siblings.known().map(|siblings| (self.place, siblings)),
        };
        let whole = difference(&snapshot, &Snapshot::default());
        sender.send(&ToServing::Start(Box::new(start)), vec![whole]).await?;
        Ok((sender, reader, snapshot))
    }

    async fn listen(
        &self,
        mut reader: LinkReader<FromServing>,
        sender: LinkSender<ToServing>,
    ) -> Over {
        let reads = Arc::new(Semaphore::new(VERSION_READS_MAX));
        loop {
            let word = match reader.next().await {
                Ok((word, _)) => word,
                Err(error) => return error.into(),
            };
            self.heard_ms.store(self.now_ms(), Ordering::Relaxed);
            let (shared, number) = (self.shared, self.number);
            match word {
                FromServing::Ready { sandbox } => self.note_ready(sandbox),
                FromServing::Applied { revision } => shared.in_use.set(number, revision),
                FromServing::WantVersion { request, id } => {
                    // Waiting here keeps a process that asks too much from being read.
                    let Ok(permit) = reads.clone().acquire_owned().await else { continue };
                    let (shared, sender) = (shared.clone(), sender.clone());
                    tokio::spawn(async move {
                        answer(&shared, &sender, request, id).await;
                        drop(permit);
                    });
                }
                FromServing::Report(report) => shared.hub.show(*report),
                FromServing::Metrics(delta) => shared.hub.metrics().add(number, delta),
                FromServing::Experiments(seen) => shared.experiments.take(*seen),
                FromServing::Pong(_) => {}
                FromServing::Drained => return Over::Drained,
            }
        }
    }

    fn note_ready(&self, sandbox: String) {
        // It is shown to people: no line of it may pass for one of ours.
        let fit = |letter: &char| !letter.is_control();
        let sandbox: String = sandbox.chars().filter(fit).take(SANDBOX_CHARS_MAX).collect();
        let took_ms = self.now_ms();
        let place = self.place;
        tracing::info!(process = place, sandbox, took_ms, "a serving process is ready");
        self.shared.health.update_process(place, |process| {
            process.state = ProcessState::Ready;
            process.sandbox = Some(sandbox);
        });
        self.ready.send_replace(true);
        self.shared.siblings.runs(place);
        self.shared.ready.send_modify(|ready| *ready += 1);
    }

    /// Passes on what changes, of the registry since the snapshot that the process was `told`, and the word to drain.
    async fn tell(
        &self,
        sender: LinkSender<ToServing>,
        mut told: Arc<Snapshot>,
        sockets: &mut OpenSockets,
        jobs: &mut mpsc::Receiver<Job>,
    ) -> Over {
        let mut snapshots = self.shared.snapshots.clone();
        let mut followed = self.shared.hub.followed();
        let mut quarantined = self.shared.quarantined.clone();
        let mut drain = self.shared.drain.clone();
        let mut tls = self.shared.tls.clone();
        let mut credentials = self.shared.credentials.clone();
        let mut neighbours = self.shared.neighbours.clone();
        let mut siblings = self.shared.siblings.follow();
        tls.mark_changed();
        // What changed since the start was written counts as a change.
        snapshots.mark_changed();
        followed.mark_changed();
        quarantined.mark_changed();
        credentials.mark_changed();
        neighbours.mark_changed();
        siblings.mark_changed();
        loop {
            let (word, payload) = tokio::select! {
                biased;
                _ = drain.wait_for(|drain| *drain) => break,
                // Before the snapshot that names new certificates.
                Ok(()) = tls.changed() => {
                    let bytes = (**tls.borrow_and_update()).clone();
                    (ToServing::Tls(Box::new(bytes)), Vec::new())
                }
                Ok(()) = snapshots.changed() => {
                    let snapshot = snapshots.borrow_and_update().clone();
                    let difference = difference(&snapshot, &told);
                    told = snapshot;
                    (ToServing::Snapshot, vec![difference])
                }
                Ok(()) = followed.changed() => {
                    (ToServing::Followed(followed.borrow_and_update().clone()), Vec::new())
                }
                Ok(()) = credentials.changed() => {
                    let Some(now) = credentials.borrow_and_update().clone() else { continue };
                    (ToServing::Credentials(Box::new((*now).clone())), Vec::new())
                }
                Ok(()) = neighbours.changed() => {
                    let now = (**neighbours.borrow_and_update()).clone();
                    (ToServing::Neighbours(Box::new(now)), Vec::new())
                }
                Ok(()) = siblings.changed() => {
                    let Some(now) = siblings.borrow_and_update().clone() else { continue };
                    (ToServing::Siblings(Box::new(now)), Vec::new())
                }
                Ok(()) = quarantined.changed() => {
                    (ToServing::Quarantined(quarantined.borrow_and_update().clone()), Vec::new())
                }
                Some(job) = jobs.recv() => (ToServing::Job(job), Vec::new()),
            };
            if let Err(error) = sender.send(&word, payload).await {
                return error.into();
            }
        }
        *sockets = None;
        let ms_max = self.shared.config.drain_ms_max;
        if let Err(error) = sender.send(&ToServing::Drain { ms_max }, Vec::new()).await {
            return error.into();
        }
        let wait_until_ms = self.shared.config.limits.wait_until_ms_max.min(ms_max);
        let ms_max = Duration::from_millis(ms_max.saturating_add(wait_until_ms));
        tokio::time::sleep(ms_max.saturating_add(DRAIN_GRACE)).await;
        Over::DrainTooLong
    }

    /// Ends when the process does not get ready, or falls silent.
    async fn watch(&self, sender: LinkSender<ToServing>) -> Over {
        let mut ready = self.ready.subscribe();
        if tokio::time::timeout(START_MAX, ready.wait_for(|ready| *ready)).await.is_err() {
            return Over::NotReady;
        }
        let mut ticks = tokio::time::interval(PING_INTERVAL);
        let mut number = 0;
        loop {
            ticks.tick().await;
            let silent_ms = self.now_ms().saturating_sub(self.heard_ms.load(Ordering::Relaxed));
            if Duration::from_millis(silent_ms) > SILENCE_MAX {
                return Over::Hung;
            }
            number += 1;
            // Without room the process reads nothing, and its silence will tell.
            sender.try_send(&ToServing::Ping(number));
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// What makes one snapshot of another, in MessagePack. Changes that came between the two are told together.
fn difference(snapshot: &Snapshot, before: &Snapshot) -> Bytes {
    let difference = rmp_serde::to_vec_named(&snapshot.since(before));
    difference.expect("a difference is plain data").into()
}

/// Reads a version and sends it.
async fn answer(shared: &Shared, sender: &LinkSender<ToServing>, request: u64, id: VersionId) {
    let registry = shared.registry.clone();
    let read = tokio::task::spawn_blocking(move || registry.version(&id)).await;
    let (version, payload) = match read {
        Ok(Ok(Some(version))) => {
            let (parts, payload) = split_modules(&version);
            (Ok(Some((Box::new((*version).clone()), parts))), payload)
        }
        Ok(Ok(None)) => (Ok(None), Vec::new()),
        Ok(Err(error)) => (Err(error.to_string()), Vec::new()),
        Err(_) => (Err("reading the version failed".to_owned()), Vec::new()),
    };
    // A process that is gone wants no answer.
    let _ = sender.send(&ToServing::Version { request, version }, payload).await;
}
