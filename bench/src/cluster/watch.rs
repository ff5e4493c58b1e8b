//! Threads that ask nodes for a number that grows, and note when each sees which.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::api::Connection;

/// The pause between two questions.
const PAUSE: Duration = Duration::from_micros(200);
const PATIENCE: Duration = Duration::from_secs(30);

/// A thread that watches one node. It ends when it is dropped.
pub(super) struct Watcher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    asked: Mutex<Asked>,
    over: AtomicBool,
}

/// What is asked for, and whether it was seen.
#[derive(Default)]
struct Asked {
    /// The path, and the answer that is waited for.
    question: Option<(String, String)>,
    seen: Option<Instant>,
}

impl Watcher {
    /// Watches a worker of the node at `address`.
    pub(super) fn start(address: SocketAddr, host: &str) -> Self {
        let shared = Arc::new(Shared::default());
        let (mine, host) = (Arc::clone(&shared), host.to_owned());
        let thread = std::thread::spawn(move || {
            let mut connection = Connection::new(address);
            while !mine.over.load(Ordering::Relaxed) {
                mine.look(&mut connection, &host);
                std::thread::sleep(PAUSE);
            }
        });
        Self { shared, thread: Some(thread) }
    }

    /// Begins to look for this answer at a path.
    pub(super) fn look_for(&self, path: &str, answer: &str) {
        let question = Some((path.to_owned(), answer.to_owned()));
        *self.shared.lock() = Asked { question, seen: None };
    }

    /// Waits until it was seen; answers when that was.
    pub(super) fn seen(&self) -> Result<Instant, String> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            if let Some(seen) = self.shared.lock().seen {
                return Ok(seen);
            }
            if Instant::now() > give_up {
                return Err(format!("a change is not seen within {PATIENCE:?}"));
            }
            std::thread::sleep(PAUSE);
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its panic has been printed.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn look(&self, connection: &mut Connection, host: &str) {
        let Some((path, answer)) = self.lock().question.clone() else { return };
        let found = connection.request(&format!("GET {path}"), &[("host", host)], b"");
        let at = Instant::now();
        let mut asked = self.lock();
        let same = asked.question.as_ref().is_some_and(|(_, wanted)| *wanted == answer);
        if same && found.is_ok_and(|response| response.body == answer.as_bytes()) {
            *asked = Asked { question: None, seen: Some(at) };
        }
    }

    fn lock(&self) -> MutexGuard<'_, Asked> {
        // Whatever a panic left is whole.
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
