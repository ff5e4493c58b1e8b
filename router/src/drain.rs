//! Drain: the word to every thread to finish what it has accepted and take no more.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Starts the drain. Dropping it without a word also starts one, with a deadline of now.
#[derive(Debug)]
pub struct DrainTrigger {
    sender: watch::Sender<Option<Instant>>,
}

/// Tells one listener when to drain. Clones hear the same word, on any thread.
#[derive(Clone, Debug)]
pub struct DrainSignal {
    receiver: watch::Receiver<Option<Instant>>,
}

/// Makes a trigger and its signal.
pub fn drain_channel() -> (DrainTrigger, DrainSignal) {
    let (sender, receiver) = watch::channel(None);
    (DrainTrigger { sender }, DrainSignal { receiver })
}

impl DrainTrigger {
    /// Starts the drain: connections have this long to finish. A later call moves the deadline
    /// only of listeners that have not begun to drain.
    pub fn start(&self, within: Duration) {
        self.sender.send_replace(Some(Instant::now() + within));
    }

    /// Another signal that this trigger reaches.
    pub fn signal(&self) -> DrainSignal {
        DrainSignal { receiver: self.sender.subscribe() }
    }
}

impl DrainSignal {
    /// Waits for the drain to start and returns its deadline. Safe to cancel.
    pub async fn started(&mut self) -> Instant {
        match self.receiver.wait_for(Option::is_some).await {
            Ok(deadline) => deadline.unwrap_or_else(Instant::now),
            Err(_) => Instant::now(),
        }
    }

    /// Whether the drain has started: a health check says "not ready" then.
    pub fn is_started(&self) -> bool {
        self.receiver.borrow().is_some()
    }
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that ended by themselves after the drain began.
    pub finished: usize,
    /// Connections that were cut at the deadline.
    pub cut: usize,
}
