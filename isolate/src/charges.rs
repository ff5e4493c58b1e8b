//! Whose CPU time a slice of the event loop is. V8 does not say whose continuations a slice ran; with sockets that
//! stay open for hours, those that only wait must not pay for the others.

use std::time::Duration;

use crate::in_flight::InFlight;
use crate::invocation::{Invocation, InvocationKey, Invocations};

/// Which invocations a slice of the event loop is charged to.
#[derive(Clone, Copy)]
enum Blame {
    /// All in flight.
    All,
    /// Those that do not only wait for messages, or got one in this slice.
    Awake(u64),
    /// All wait: those whose messages came last, in this slice. What they began goes on.
    Latest(u64),
}

impl Invocation {
    /// Whether nothing but messages is known to be left for it to do.
    fn waits_for_messages(&self) -> bool {
        self.holding.is_open() && self.answered && self.waiting == 0
    }

    fn is_blamed(&self, blame: Blame) -> bool {
        match blame {
            Blame::All => true,
            Blame::Awake(slice) => !self.waits_for_messages() || self.holding.woken_in == slice,
            Blame::Latest(slice) => self.holding.woken_in == slice,
        }
    }
}

impl Invocations {
    /// Charges the CPU time of a slice of the event loop, in equal parts, to every invocation in flight that may
    /// have run: one poll runs continuations of many, and does not say how long each took.
    pub(crate) fn charge_all(&self, cpu: Duration) {
        let mut table = self.table.borrow_mut();
        let blame = self.blame(&table);
        let blamed = match blame {
            Blame::All => table.len(),
            _ => table.values().filter(|i| i.is_blamed(blame)).count(),
        };
        let share = cpu / u32::try_from(blamed.max(1)).unwrap_or(u32::MAX);
        for invocation in table.values_mut().filter(|i| i.is_blamed(blame)) {
            invocation.cpu += share;
            invocation.spent += share;
        }
    }

    /// Charges CPU time to one invocation.
    pub(crate) fn charge(&self, key: InvocationKey, cpu: Duration) {
        self.with(key, |invocation| {
            invocation.cpu += cpu;
            invocation.spent += cpu;
        });
    }

    /// The most CPU time that an invocation in flight has used for its event.
    pub(crate) fn cpu_used_max(&self) -> Duration {
        let table = self.table.borrow();
        let blame = self.blame(&table);
        let blamed = table.values().filter(|i| i.is_blamed(blame));
        blamed.map(|i| i.spent).max().unwrap_or_default()
    }

    /// Whose code a slice is taken to run.
    fn blame(&self, table: &InFlight) -> Blame {
        if !self.has_sockets.get() {
            return Blame::All;
        }
        let slice = self.slices.get();
        if table.values().any(|i| !i.waits_for_messages() || i.holding.woken_in == slice) {
            return Blame::Awake(slice);
        }
        Blame::Latest(table.values().map(|i| i.holding.woken_in).max().unwrap_or_default())
    }

    /// Begins a slice of the event loop.
    pub(crate) fn begin_slice(&self) {
        if self.has_sockets.get() {
            self.slices.set(self.slices.get() + 1);
        }
    }

    /// A message has come for an invocation, whose code the next slice runs: it has CPU time of its own, as on the
    /// Workers platform.
    pub(crate) fn message_came(&self, key: InvocationKey) {
        let next = self.slices.get() + 1;
        self.with(key, |invocation| {
            invocation.holding.woken_in = next;
            invocation.spent = Duration::ZERO;
        });
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::invocation::{Answer, InvocationLimits};
    use crate::socket::Socket;

    const SLICE: Duration = Duration::from_millis(100);

    fn begin(invocations: &Rc<Invocations>) -> InvocationKey {
        invocations.begin("id".into(), None, Box::new(|_| ()))
    }

    /// One that has answered with a socket and waits for messages.
    fn waiting(invocations: &Rc<Invocations>) -> (InvocationKey, (Socket, Socket)) {
        let key = begin(invocations);
        let (client, worker) = Socket::pair();
        invocations.answer_with_socket(key, &client);
        invocations.answer(key, Answer::Done);
        (key, (client, worker))
    }

    #[tokio::test]
    async fn who_waits_for_messages_does_not_pay_for_others() {
        let limits = InvocationLimits { log_bytes_max: 0, subrequests_max: 0, connections_max: 1 };
        let invocations = Rc::new(Invocations::new(limits, Box::new(|_, _| ())));
        let spent = |key| invocations.with(key, |i| i.spent).unwrap();
        let (idle, _idle_ends) = waiting(&invocations);
        let (chatty, _chatty_ends) = waiting(&invocations);
        let busy = begin(&invocations);
        invocations.begin_slice();
        invocations.charge_all(SLICE);
        assert_eq!(
            [spent(idle), spent(chatty), spent(busy)],
            [Duration::ZERO, Duration::ZERO, SLICE]
        );

        invocations.message_came(chatty);
        invocations.begin_slice();
        invocations.charge_all(2 * SLICE);
        assert_eq!([spent(idle), spent(chatty), spent(busy)], [Duration::ZERO, SLICE, 2 * SLICE]);

        invocations.end(busy, None);
        invocations.begin_slice();
        invocations.charge_all(SLICE);
        assert_eq!(
            [spent(idle), spent(chatty)],
            [Duration::ZERO, 2 * SLICE],
            "what it began goes on"
        );
        assert_eq!(invocations.cpu_used_max(), 2 * SLICE);

        invocations.message_came(chatty);
        assert_eq!(spent(chatty), Duration::ZERO, "a message is an event of its own");
        assert_eq!(
            invocations.with(chatty, |i| i.cpu),
            Some(2 * SLICE),
            "and all is told at the end"
        );
    }
}
