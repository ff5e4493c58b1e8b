//! Keeps one serving process running: starts it, and starts it again when it has ended. Says whose code
//! brought it down, and keeps that away.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Shared;
use super::child::{Child, Ended};
use super::relay::{OpenSockets, Over, Relay};
use super::restart::Restarts;
use crate::dispatch::{Culprit, Job};
use crate::observe::ProcessState;
use crate::process::LinkError;

/// The pause after the operating system has given no process.
const NO_PROCESS_PAUSE: Duration = Duration::from_secs(1);

/// What a serving process listens on, and where it stands among the others.
pub(super) struct Seats {
    /// The process's place.
    pub(super) place: usize,
    /// The place of its first thread among all of the node.
    pub(super) first: u16,
    pub(super) sockets: OpenSockets,
}

/// Keeps the serving process of a place running, with its listening sockets, until the node drains. The
/// sockets stay open here: while there is no process, connections wait in them for the next.
pub(super) async fn keep(shared: Arc<Shared>, mut seats: Seats, mut jobs: mpsc::Receiver<Job>) {
    let place = seats.place;
    let mut restarts = Restarts::default();
    let mut drain = shared.drain.clone();
    while seats.sockets.is_some() {
        let begun = Instant::now();
        let pause = match live(&shared, &mut seats, &mut jobs).await {
            Ok(()) => restarts.pause_after(begun.elapsed()),
            Err(error) => {
                tracing::error!(process = place, %error, "a serving process cannot be started");
                NO_PROCESS_PAUSE
            }
        };
        if *drain.borrow() {
            seats.sockets = None;
            continue;
        }
        shared.restarts.add(1);
        shared.health.update_process(place, |process| process.restarts += 1);
        if !pause.is_zero() {
            tracing::warn!(process = place, ?pause, "a serving process ends again and again");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = drain.wait_for(|drain| *drain) => seats.sockets = None,
            }
        }
    }
}

/// One process, from its start to its end.
async fn live(
    shared: &Arc<Shared>,
    seats: &mut Seats,
    jobs: &mut mpsc::Receiver<Job>,
) -> std::io::Result<()> {
    let (child, socket) = Child::start("serving-process", &shared.variables)?;
    let (place, number) = (seats.place, shared.next_number());
    shared.health.update_process(place, |process| {
        process.pid = Some(child.pid);
        process.state = ProcessState::Starting;
        process.sandbox = None;
    });
    let over = Relay::new(shared, place, number).run(&child, socket, seats, jobs).await;
    shared.siblings.ended(place);
    shared.in_use.remove(number);
    shared.hub.metrics().forget(number);
    shared.health.update_process(place, |process| {
        process.pid = None;
        process.state = ProcessState::Down;
    });
    let ended = match &over {
        Over::Drained | Over::Link(LinkError::Closed | LinkError::Io(_)) => child.end().await,
        _ => child.kill().await,
    };
    tell_end(shared, place, &over, &ended);
    Ok(())
}

fn tell_end(shared: &Shared, place: usize, over: &Over, ended: &Ended) {
    let (pid, how) = (ended.pid, ended.how());
    if matches!(over, Over::Drained) {
        return tracing::debug!(process = place, pid, how, "a serving process is drained");
    }
    let why = match over {
        Over::Link(LinkError::Closed) => None,
        other => Some(other.to_string()),
    };
    match ended.culprits.as_slice() {
        [] => tracing::error!(process = place, pid, how, why, "a serving process has ended"),
        culprits => {
            for Culprit { worker, version } in culprits {
                let rests = shared.quarantine(version.clone());
                shared.hub.metrics().observe_crash(worker);
                tracing::error!(
                    process = place,
                    pid,
                    how,
                    worker = worker.worker.as_str(),
                    account = worker.account.as_str(),
                    version = version.as_str(),
                    suspects = culprits.len(),
                    rests_s = rests.as_secs(),
                    "a serving process has crashed while it executed this worker"
                );
            }
        }
    }
}
