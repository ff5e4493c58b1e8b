//! The load generator of stores: clients that each do the next operation when the last is answered. Every
//! get is checked for its length.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::LocalSet;

use super::client::{Client, Clients};
use super::plan::{Operation, Plan, Seen, key};
use crate::histogram::Histogram;

/// Clients that fill a store.
const FILLERS: usize = 32;
/// A client that fails this often gives up.
const FAILURES_MAX: u32 = 20;
/// How long after the window a client may take for its last operation.
const GRACE: Duration = Duration::from_secs(20);

struct State {
    plan: Plan,
    value: Vec<u8>,
    start: Instant,
    end: Instant,
    seen: RefCell<Seen>,
    /// The next key to fill.
    next: Cell<usize>,
    /// Puts that were begun.
    puts: Cell<u64>,
}

/// Makes the load, on the calling thread.
pub(crate) fn run(plan: Plan) -> std::io::Result<Seen> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, make(plan)).map_err(std::io::Error::other)
}

async fn make(plan: Plan) -> Result<Seen, String> {
    let clients = Clients::open(&plan.target).await?;
    let count = if plan.operation == Operation::Fill { FILLERS } else { plan.clients };
    let mut ready = Vec::with_capacity(count);
    for _ in 0..count {
        ready.push(clients.client().await?);
    }
    let start = Instant::now() + Duration::from_millis(plan.warmup_ms);
    let end = start + Duration::from_millis(plan.window_ms);
    let seen = Seen { latencies: Histogram::new(), per_second: 0.0, errors: 0, first_error: None };
    let state = Rc::new(State {
        // Bytes that do not compress to nothing.
        value: (0..plan.value_bytes).map(|at| (at * 31 % 251) as u8).collect(),
        start,
        end,
        seen: RefCell::new(seen),
        next: Cell::new(0),
        puts: Cell::new(0),
        plan,
    });
    let work = |(index, client)| {
        let state = Rc::clone(&state);
        tokio::task::spawn_local(async move { state.work(index, client).await })
    };
    let tasks: Vec<_> = ready.into_iter().enumerate().map(work).collect();
    let filling = state.plan.operation == Operation::Fill;
    for task in tasks {
        let done = tokio::time::timeout_at((end + GRACE).into(), task).await;
        if !filling && done.is_err() {
            state.fail("an operation does not end".to_owned());
        }
    }
    clients.close().await;
    let mut seen = state.seen.borrow().clone();
    seen.per_second = seen.latencies.total() as f64 * 1_000.0 / state.plan.window_ms as f64;
    Ok(seen)
}

impl State {
    async fn work(&self, index: usize, mut client: Client) {
        let mut failures = 0;
        // Clients go through the keys by different ways.
        let mut random = index as u64 * 0x9e37_79b9_7f4a_7c15 + 1;
        while failures < FAILURES_MAX {
            let number = match self.plan.operation {
                Operation::Fill => match self.next.replace(self.next.get() + 1) {
                    number if number < self.plan.keys => number,
                    _ => return,
                },
                _ if Instant::now() >= self.end => return,
                _ => {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    (random % self.plan.keys as u64) as usize
                }
            };
            let begun = Instant::now();
            match self.operate(&mut client, &key(number)).await {
                Ok(()) => {
                    let done = Instant::now();
                    if done >= self.start && done < self.end {
                        self.seen.borrow_mut().latencies.record(done - begun);
                    }
                }
                Err(error) => {
                    failures += 1;
                    self.fail(error);
                }
            }
        }
    }

    async fn operate(&self, client: &mut Client, key: &str) -> Result<(), String> {
        if self.plan.operation != Operation::Get {
            return client.put(key, &self.next_value()).await;
        }
        match client.get(key).await? {
            bytes if bytes == self.plan.value_bytes => Ok(()),
            bytes => Err(format!("{key} has {bytes} bytes")),
        }
    }

    /// No two are the same: an engine may notice that there is nothing to write.
    fn next_value(&self) -> Bytes {
        self.puts.set(self.puts.get() + 1);
        let mut value = self.value.clone();
        // Processes differ in their ids, and the puts of one in their numbers.
        let number = u64::from(std::process::id()) << 32 | self.puts.get();
        for (byte, mark) in value.iter_mut().zip(number.to_le_bytes()) {
            *byte = mark;
        }
        value.into()
    }

    fn fail(&self, error: String) {
        let mut seen = self.seen.borrow_mut();
        seen.errors += 1;
        seen.first_error.get_or_insert(error);
    }
}
