//! The instances that a debugger may attach to.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use atoll_isolate::{Inspector, InspectorCommands, InspectorMessages};
use tokio::sync::watch;

use crate::registry::{Snapshot, VersionId, WorkerName};

/// The instances that a debugger may attach to, as the isolate threads report them. Cheap to clone.
#[derive(Clone)]
pub struct Debuggees {
    address: SocketAddr,
    live: Arc<Mutex<Live>>,
    newest: watch::Sender<Option<String>>,
}

enum Live {
    /// Instances may be added.
    Open(Vec<Debuggee>),
    /// The node stops: nothing may be debugged any more.
    Closed,
}

/// One instance.
struct Debuggee {
    listed: Listed,
    version: VersionId,
    inspector: Inspector,
    /// Dropping it, with the instance's entry, ends the instance's sessions.
    open: watch::Sender<()>,
}

/// What the server tells of an instance.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    /// Nobody can guess it: that a page of another site finds it is what must not happen.
    pub(super) id: String,
    pub(super) worker: WorkerName,
    pub(super) url: String,
}

/// An open session.
pub(super) struct Attached {
    pub(super) commands: InspectorCommands,
    pub(super) messages: InspectorMessages,
    /// Fails to change once the session must end.
    pub(super) open: watch::Receiver<()>,
}

impl Debuggees {
    /// Makes an empty list for the server at `address`.
    pub fn new(address: SocketAddr) -> Self {
        let live = Arc::new(Mutex::new(Live::Open(Vec::new())));
        Self { address, live, newest: watch::Sender::new(None) }
    }

    /// Follows where debuggers may attach: the WebSocket URL of the newest instance.
    pub fn newest(&self) -> watch::Receiver<Option<String>> {
        let mut newest = self.newest.subscribe();
        // What came before is news to the follower.
        newest.mark_changed();
        newest
    }

    /// Takes an instance in, under an id of its own.
    pub(crate) fn add(
        &self,
        worker: WorkerName,
        version: VersionId,
        main_module: &str,
        inspector: Inspector,
    ) {
        let id = uuid::Uuid::new_v4().to_string();
        let ws = format!("ws://{}/ws/{id}", self.address);
        let listed = Listed { id, worker, url: format!("file:///{main_module}") };
        let Live::Open(debuggees) = &mut *self.live() else { return };
        debuggees.retain(|debuggee| !debuggee.inspector.is_closed());
        debuggees.push(Debuggee { listed, version, inspector, open: watch::Sender::new(()) });
        self.newest.send_replace(Some(ws));
    }

    /// Ends the sessions of the versions that are not `wanted`, and forgets them. What a debugger holds at
    /// a breakpoint there goes on.
    fn retain(&self, wanted: impl Fn(&VersionId) -> bool) {
        if let Live::Open(debuggees) = &mut *self.live() {
            debuggees.retain(|debuggee| wanted(&debuggee.version));
        }
    }

    /// Ends all sessions, for good. A thread that a breakpoint parks could not be drained.
    pub(crate) fn close(&self) {
        *self.live() = Live::Closed;
    }

    pub(super) fn list(&self) -> Vec<Listed> {
        let live = self.live();
        let Live::Open(debuggees) = &*live else { return Vec::new() };
        let there = debuggees.iter().filter(|debuggee| !debuggee.inspector.is_closed());
        there.map(|debuggee| debuggee.listed.clone()).collect()
    }

    /// Opens a session, if there is such an instance.
    pub(super) fn attach(&self, id: &str) -> Option<Attached> {
        let live = self.live();
        let Live::Open(debuggees) = &*live else { return None };
        let debuggee = debuggees.iter().find(|debuggee| debuggee.listed.id == id)?;
        let (commands, messages) = debuggee.inspector.connect()?;
        Some(Attached { commands, messages, open: debuggee.open.subscribe() })
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets go of versions that are no longer deployed. Not the isolate threads' work: a breakpoint parks them.
pub async fn follow(mut snapshots: watch::Receiver<Arc<Snapshot>>, debuggees: Debuggees) {
    while snapshots.changed().await.is_ok() {
        let snapshot = snapshots.borrow_and_update().clone();
        debuggees.retain(|version| serving(&snapshot).any(|serves| serves == version));
    }
}

/// The versions that serve.
pub(crate) fn serving(snapshot: &Snapshot) -> impl Iterator<Item = &VersionId> {
    snapshot.workers.iter().flat_map(|live| live.versions())
}
