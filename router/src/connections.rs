//! The open connections of one listener: their count and limit, and the sweep that closes those
//! that are too slow or idle for too long.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::connection::{Activity, Phase};
use crate::drain::Drained;
use crate::options::ServeOptions;

/// The share of connections (one in so many) closed at once when the limit is reached: finding
/// the oldest takes a pass over all of them, so it is not done for each newcomer.
const EVICTION_SHARE: usize = 64;

/// How long a connection on which nothing has come may still begin once a drain has begun.
pub(crate) const FIRST_REQUEST_GRACE: Duration = Duration::from_secs(1);

/// What a connection's task is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Order {
    /// Carry on.
    #[default]
    Serve,
    /// Finish what has been accepted, then close.
    Drain,
    /// Close now.
    Close,
}

/// Carries an [`Order`] to a connection's task.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    order: Cell<Order>,
    waker: RefCell<Option<Waker>>,
}

impl Orders {
    /// The order in force; the task is woken when it changes.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Order {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        self.order.get()
    }

    /// Waits for any order but to carry on.
    pub(crate) async fn changed(&self) {
        self.beyond(Order::Serve).await;
    }

    /// Waits until a connection that has asked for nothing yet is to be given up: at once when it is told to close,
    /// and a moment after a drain has begun, since its first request may be on its way.
    pub(crate) async fn given_up(&self) {
        self.changed().await;
        tokio::select! {
            _ = self.beyond(Order::Drain) => {}
            () = tokio::time::sleep(FIRST_REQUEST_GRACE) => {}
        }
    }

    /// Waits for an order that goes beyond this one.
    pub(crate) async fn beyond(&self, known: Order) -> Order {
        std::future::poll_fn(|cx| match self.poll(cx) {
            order if order > known => Poll::Ready(order),
            _ => Poll::Pending,
        })
        .await
    }

    fn give(&self, order: Order) {
        if order > self.order.get() {
            self.order.set(order);
            if let Some(waker) = self.waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }
}

/// Every open connection of one listener on one thread.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    open: RefCell<HashMap<u64, Tracked>>,
    next_id: Cell<u64>,
    closed: Notify,
}

/// A connection and what the last sweep saw of it.
#[derive(Debug)]
struct Tracked {
    activity: Arc<Activity>,
    orders: Rc<Orders>,
    phase: Phase,
    requests: u64,
    phase_since: Instant,
    blocked: Option<(u64, Instant)>,
    untaken: Option<(u64, Instant)>,
}

/// A connection's place in the set, given up on drop.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) activity: Arc<Activity>,
    pub(crate) orders: Rc<Orders>,
    id: u64,
    connections: Rc<Connections>,
}

impl Connections {
    pub(crate) fn add(self: &Rc<Self>) -> Place {
        let id = self.next_id.replace(self.next_id.get() + 1);
        let activity = Arc::new(Activity::default());
        let orders = Rc::new(Orders::default());
        let tracked = Tracked {
            activity: Arc::clone(&activity),
            orders: Rc::clone(&orders),
            phase: Phase::Idle,
            requests: 0,
            phase_since: Instant::now(),
            blocked: None,
            untaken: None,
        };
        self.open.borrow_mut().insert(id, tracked);
        Place { activity, orders, id, connections: Rc::clone(self) }
    }

    pub(crate) fn count(&self) -> usize {
        self.open.borrow().len()
    }

    /// Waits until a connection closes. The count may have changed before: check it first.
    pub(crate) async fn one_closed(&self) {
        self.closed.notified().await;
    }

    /// Gives an order to every connection.
    pub(crate) fn order_all(&self, order: Order) {
        for tracked in self.open.borrow().values() {
            tracked.orders.give(order);
        }
    }

    /// Lets every connection finish what was accepted until the deadline, and closes what is left.
    pub(crate) async fn drain(&self, options: &ServeOptions, deadline: Instant) -> Drained {
        self.order_all(Order::Drain);
        let draining = self.count();
        let mut sweep = tokio::time::interval(options.sweep_interval());
        let all_closed = async {
            while self.count() > 0 {
                tokio::select! {
                    () = self.one_closed() => {}
                    _ = sweep.tick() => self.sweep(options),
                }
            }
        };
        let cut = match tokio::time::timeout_at(deadline, all_closed).await {
            Ok(()) => 0,
            Err(_) => self.count(),
        };
        self.order_all(Order::Close);
        Drained { finished: draining - cut, cut }
    }

    /// Closes every connection that has been longer in its phase than the options allow.
    pub(crate) fn sweep(&self, options: &ServeOptions) {
        let now = Instant::now();
        let frames = options.frames_per_sweep();
        for tracked in self.open.borrow_mut().values_mut() {
            tracked.activity.grant(frames);
            tracked.observe(now);
            let in_phase = now - tracked.phase_since;
            let overdue = match tracked.phase {
                Phase::Idle => in_phase >= options.idle_timeout,
                Phase::Head => in_phase >= options.header_read_timeout,
                Phase::Busy => false,
            };
            let stalled = [tracked.blocked, tracked.untaken]
                .into_iter()
                .flatten()
                .any(|(_, since)| now - since >= options.write_stall_timeout);
            let told = in_phase < options.idle_timeout + options.header_read_timeout;
            if overdue && tracked.phase == Phase::Idle && told {
                // The client may be sending at this moment: HTTP/2 can tell it to try elsewhere, if it listens.
                tracked.orders.give(Order::Drain);
            } else if overdue || stalled {
                tracked.orders.give(Order::Close);
            }
        }
    }

    /// Closes the connections that have waited longest without a request in flight, and returns
    /// how many they are.
    pub(crate) fn evict(&self) -> usize {
        let open = self.open.borrow();
        let mut waiting: Vec<_> =
            open.values().filter(|tracked| tracked.activity.phase() != Phase::Busy).collect();
        if waiting.is_empty() {
            return 0;
        }
        let share = open.len().div_ceil(EVICTION_SHARE).min(waiting.len());
        waiting.select_nth_unstable_by_key(share - 1, |tracked| tracked.phase_since);
        for tracked in &waiting[..share] {
            tracked.orders.give(Order::Close);
        }
        share
    }
}

impl Tracked {
    fn observe(&mut self, now: Instant) {
        let (phase, requests) = (self.activity.phase(), self.activity.requests());
        if phase != self.phase || requests != self.requests {
            (self.phase, self.requests, self.phase_since) = (phase, requests, now);
        }
        self.blocked = unmoved(self.blocked, self.activity.blocked_at_write(), now);
        self.untaken = unmoved(self.untaken, self.activity.untaken(), now);
    }
}

/// Since when a count has been what it is.
fn unmoved(
    known: Option<(u64, Instant)>,
    count: Option<u64>,
    now: Instant,
) -> Option<(u64, Instant)> {
    count.map(|count| match known {
        Some((seen, since)) if seen == count => (count, since),
        _ => (count, now),
    })
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.open.borrow_mut().remove(&self.id);
        self.connections.closed.notify_one();
    }
}
