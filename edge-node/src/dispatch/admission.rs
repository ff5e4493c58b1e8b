//! Who is let in: how many invocations of one worker and of one account are under way in this process, and
//! how many begin in a second. What is turned away costs next to nothing.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use atoll_isolate::Outcome;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use rustc_hash::FxHashMap;

use super::pages::Problem;
use crate::config::LimitsConfig;
use crate::registry::{AccountId, WorkerRef};

/// Gates of the table that may be dead before it is looked through.
const DEAD_GATES_MAX: usize = 1_024;

/// Counts one worker's or one account's invocations, against its limits.
struct Gate {
    under_way: AtomicU32,
    under_way_max: u32,
    rate: Option<DefaultDirectRateLimiter>,
}

impl Gate {
    fn new(under_way_max: u32, per_second_max: u32) -> Self {
        let rate = NonZeroU32::new(per_second_max).map(Quota::per_second).map(RateLimiter::direct);
        Self { under_way: AtomicU32::new(0), under_way_max, rate }
    }

    /// How long to wait, if there were too many in this second.
    fn over_rate(&self) -> Option<Duration> {
        let refused = self.rate.as_ref()?.check().err()?;
        Some(refused.wait_time_from(DefaultClock::default().now()))
    }

    fn enter(&self) -> bool {
        // Counted first and looked at then: threads that do this at once never let too many in.
        let entered = self.under_way.fetch_add(1, Ordering::Relaxed) < self.under_way_max;
        if !entered {
            self.leave();
        }
        entered
    }

    fn leave(&self) {
        self.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One worker's gate, and its account's.
pub(super) struct WorkerGate {
    worker: Gate,
    account: Arc<Gate>,
}

/// How a call came to this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// By a client, another node or an event.
    Fresh,
    /// By another serving process of the node, where it was counted towards the rates.
    FromSibling,
}

/// Why a call is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    WorkerBusy,
    AccountBusy,
    /// Too many in this second; there is room again after so long.
    RateLimited(Duration),
}

impl Refusal {
    /// The page that the client gets.
    pub(super) fn problem(self) -> Problem {
        match self {
            Self::WorkerBusy | Self::AccountBusy => Problem::Ended(Outcome::Overloaded),
            Self::RateLimited(wait) => Problem::RateLimited(wait),
        }
    }

    /// What the log says.
    pub(super) fn message(self) -> &'static str {
        match self {
            Self::WorkerBusy => "the worker has limits.concurrency_max invocations under way",
            Self::AccountBusy => {
                "the account has limits.account_concurrency_max invocations under way"
            }
            Self::RateLimited(_) => "the worker or its account is called too often",
        }
    }
}

impl WorkerGate {
    /// Lets one invocation in. It is under way until the permit is dropped.
    pub(super) fn admit(self: &Arc<Self>, arrival: Arrival) -> Result<Permit, Refusal> {
        if !self.worker.enter() {
            return Err(Refusal::WorkerBusy);
        }
        if !self.account.enter() {
            self.worker.leave();
            return Err(Refusal::AccountBusy);
        }
        let permit = Permit(self.clone());
        if arrival == Arrival::FromSibling {
            return Ok(permit);
        }
        match self.worker.over_rate().or_else(|| self.account.over_rate()) {
            None => Ok(permit),
            Some(wait) => Err(Refusal::RateLimited(wait)),
        }
    }
}

/// Held by an invocation that was let in.
pub(super) struct Permit(Arc<WorkerGate>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.worker.leave();
        self.0.account.leave();
    }
}

/// What one worker and one account may have in this process.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    worker_under_way: u32,
    worker_per_second: u32,
    account_under_way: u32,
    account_per_second: u32,
}

/// The gates of all workers of the process. A gate outlives changes of the route table for as long as
/// something is under way in it.
pub(super) struct Admission {
    bounds: Bounds,
    gates: Mutex<Gates>,
}

#[derive(Default)]
struct Gates {
    workers: FxHashMap<WorkerRef, Weak<WorkerGate>>,
    accounts: FxHashMap<AccountId, Weak<Gate>>,
}

impl Admission {
    /// Gates after these limits. Rates are the node's: each of its `processes` takes an equal part.
    pub(super) fn new(limits: &LimitsConfig, processes: NonZeroU32) -> Self {
        // Rounded up: a rate that is on is never turned off by being split.
        let part = |rate: u32| rate.div_ceil(processes.get());
        let bounds = Bounds {
            worker_under_way: limits.concurrency_max,
            worker_per_second: part(limits.requests_per_s_max),
            account_under_way: limits.account_concurrency_max,
            account_per_second: part(limits.account_requests_per_s_max),
        };
        Self { bounds, gates: Mutex::default() }
    }

    /// A worker's gate. Looked up once for each worker and snapshot.
    pub(super) fn gate(&self, worker: &WorkerRef) -> Arc<WorkerGate> {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = gates.workers.get(worker).and_then(Weak::upgrade) {
            return known;
        }
        gates.forget_dead();
        let bounds = self.bounds;
        let account = gates.accounts.get(&worker.account).and_then(Weak::upgrade);
        let account = account.unwrap_or_else(|| {
            let gate = Arc::new(Gate::new(bounds.account_under_way, bounds.account_per_second));
            gates.accounts.insert(worker.account.clone(), Arc::downgrade(&gate));
            gate
        });
        let gate = Gate::new(bounds.worker_under_way, bounds.worker_per_second);
        let gate = Arc::new(WorkerGate { worker: gate, account });
        gates.workers.insert(worker.clone(), Arc::downgrade(&gate));
        gate
    }
}

impl Gates {
    /// Looks through the table each time it has grown by some.
    fn forget_dead(&mut self) {
        if self.workers.len() % DEAD_GATES_MAX == DEAD_GATES_MAX - 1 {
            self.workers.retain(|_, gate| gate.strong_count() > 0);
            self.accounts.retain(|_, gate| gate.strong_count() > 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::WorkerName;

    fn worker(account: &str, name: &str) -> WorkerRef {
        WorkerRef { account: AccountId::new(account), worker: WorkerName::new(name) }
    }

    fn admission(limits: LimitsConfig, processes: u32) -> Admission {
        Admission::new(&limits, NonZeroU32::new(processes).unwrap())
    }

    fn let_in(gate: &Arc<WorkerGate>, calls: usize) -> Vec<Permit> {
        (0..calls).filter_map(|_| gate.admit(Arrival::Fresh).ok()).collect()
    }

    #[test]
    fn a_worker_and_its_account_have_so_much_under_way_and_no_more() {
        let limits = LimitsConfig {
            concurrency_max: 2,
            account_concurrency_max: 3,
            ..LimitsConfig::default()
        };
        let admission = admission(limits, 1);
        let (one, two) = (admission.gate(&worker("a", "one")), admission.gate(&worker("a", "two")));
        let other = admission.gate(&worker("b", "one"));
        let first = let_in(&one, 5);
        assert_eq!(first.len(), 2);
        assert_eq!(one.admit(Arrival::Fresh).err(), Some(Refusal::WorkerBusy));
        let second = let_in(&two, 5);
        assert_eq!(second.len(), 1);
        assert_eq!(two.admit(Arrival::Fresh).err(), Some(Refusal::AccountBusy));
        assert_eq!(let_in(&other, 5).len(), 2, "another account minds its own");
        drop(first);
        assert_eq!(let_in(&two, 5).len(), 1);
        drop(second);
        assert_eq!(let_in(&one, 5).len(), 2);
    }

    #[test]
    fn rates_are_off_unless_given_and_split_between_processes() {
        for (node, processes, expected) in [(0, 1, 50), (10, 1, 10), (10, 4, 3), (1, 8, 1)] {
            let limits = LimitsConfig { requests_per_s_max: node, ..LimitsConfig::default() };
            let gate = admission(limits, processes).gate(&worker("a", "w"));
            let admitted = let_in(&gate, 50).len();
            assert_eq!(admitted, expected, "{node} by {processes}");
        }
        let limits = LimitsConfig { account_requests_per_s_max: 5, ..LimitsConfig::default() };
        let admission = admission(limits, 1);
        let gates = ["one", "two"].map(|name| admission.gate(&worker("a", name)));
        assert_eq!(let_in(&gates[0], 3).len(), 3);
        assert_eq!(let_in(&gates[1], 3).len(), 2);
        let refused = gates[1].admit(Arrival::Fresh).err();
        assert!(
            matches!(refused, Some(Refusal::RateLimited(wait)) if wait <= Duration::from_secs(1))
        );
        assert!(gates[0].admit(Arrival::Fresh).is_err(), "what is refused is not under way");
        let sent_home = gates[0].admit(Arrival::FromSibling);
        assert!(sent_home.is_ok(), "it was counted where it came to the node");
    }

    #[test]
    fn a_gate_is_the_same_while_somebody_holds_it() {
        let admission = admission(LimitsConfig::default(), 1);
        let gate = admission.gate(&worker("a", "w"));
        assert!(Arc::ptr_eq(&gate, &admission.gate(&worker("a", "w"))));
        for n in 0..3 * DEAD_GATES_MAX {
            admission.gate(&worker(&format!("a{n}"), "w"));
        }
        assert!(admission.gates.lock().unwrap().workers.len() <= DEAD_GATES_MAX);
        assert!(Arc::ptr_eq(&gate, &admission.gate(&worker("a", "w"))));
    }
}
