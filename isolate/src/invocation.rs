//! The invocations that are in flight in one instance: what ops find by number, and how each one ends.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use deno_core::CancelHandle;
use http::HeaderMap;
use tokio::sync::oneshot;

use crate::body::{BodyResource, ResponseBody};
use crate::connections::{Connection, Connections};
use crate::host::Body;
use crate::in_flight::InFlight;
use crate::logs::LogBudget;
use crate::outcome::{Exception, LogLevel, LogLine, Outcome};
use crate::socket::{SentBytes, SocketSlot};
use crate::sockets::Holding;

/// The number by which JS knows an invocation; 0 is start-up.
pub(crate) type InvocationKey = u32;

/// Keys stay small integers in V8.
const KEY_MAX: InvocationKey = (1 << 30) - 1;

/// Uncaught exceptions kept for one invocation.
const EXCEPTIONS_MAX: usize = 16;

/// How long abort listeners may run after the client has left.
const ABORT_GRACE: Duration = Duration::from_millis(50);

/// How often a streaming invocation is looked at.
const CLIENT_CHECK: Duration = Duration::from_secs(2);

/// What an invocation leaves behind when it ends.
#[derive(Clone, Debug)]
pub struct InvocationRecord {
    /// The id that it was given.
    pub id: Arc<str>,
    /// How it ended.
    pub outcome: Outcome,
    /// The status of the response, if the handler gave one.
    pub status: Option<u16>,
    /// Console lines in order.
    pub logs: Vec<LogLine>,
    /// Uncaught exceptions in order.
    pub exceptions: Vec<Exception>,
    /// CPU time charged.
    pub cpu: Duration,
    /// Wall time until everything had ended.
    pub wall: Duration,
}

/// Called once, when an invocation has ended.
pub type OnEnd = Box<dyn FnOnce(InvocationRecord)>;

/// What the host knows of a request's client. It is asked only for what JS asks for.
pub trait RequestFacts {
    /// Writes into the headers what the host says and a client may not. Called once at most, before JS sees
    /// them.
    fn finish_headers(&self, headers: &mut HeaderMap);

    /// `request.cf` as JSON text.
    fn cf(&self, headers: &HeaderMap) -> String;

    /// What rules decided before the worker was called, as JSON text: `details` by rule, and `variables`.
    fn flags(&self) -> Option<String> {
        None
    }

    /// The worker tells an outcome of what was decided. The metric's name is short, the value finite.
    fn track(&self, metric: &str, value: f64) {
        let _ = (metric, value);
    }
}

/// The parts of a request that JS takes when it wants them.
pub(crate) struct PendingRequest {
    pub(crate) headers: HeaderMap,
    pub(crate) facts: Option<Box<dyn RequestFacts>>,
    /// Whether the headers are as JS may see them.
    pub(crate) finished: bool,
    pub(crate) body: Option<Body>,
}

/// What a handler made of its event.
pub(crate) enum Answer {
    Response(http::Response<ResponseBody>),
    /// The handler of an event without a response came to its end.
    Done,
    /// What a script decided about a request, as JSON text; empty if nothing.
    Decision(String),
    Failed(Outcome, Exception),
}

pub(crate) struct Invocation {
    pub(crate) id: Arc<str>,
    pub(crate) request: Option<PendingRequest>,
    pub(crate) cancel: Rc<CancelHandle>,
    pub(crate) pass_through: bool,
    answer: Option<Answer>,
    pub(crate) answered: bool,
    waker: Option<Waker>,
    outcome: Outcome,
    status: Option<u16>,
    logs: Vec<LogLine>,
    log_budget: LogBudget,
    exceptions: Vec<Exception>,
    subrequests: u32,
    /// Outcomes that it told.
    pub(crate) tracked: u32,
    /// The handler's promise has settled.
    handled: bool,
    /// Promises given to `waitUntil` that have not settled.
    pub(crate) waiting: u32,
    /// When the client had the whole response or went away; until then it may take more.
    client_gone: Option<Instant>,
    left_waiters: Vec<oneshot::Sender<bool>>,
    ended_waiters: Vec<oneshot::Sender<()>>,
    started: Instant,
    pub(crate) cpu: Duration,
    on_end: Option<OnEnd>,
    /// Bodies that came in, oldest first: of the request, and of responses to subrequests.
    bodies: Vec<Weak<BodyResource>>,
    /// Who sends the response's body, and is to hear of the end.
    sender: Option<Waker>,
    connections: Connections,
    pub(crate) holding: Holding,
    /// CPU time since the event that it works on: its own, or the last message that came.
    pub(crate) spent: Duration,
}

/// Runs a task on the calling isolate thread, whose runtime must be a current-thread one. Unlike tokio's
/// `spawn_local` it also works where ops are polled, outside of any `LocalSet`.
pub fn spawn<F: Future<Output: 'static> + 'static>(
    task: F,
) -> deno_core::unsync::JoinHandle<F::Output> {
    deno_core::unsync::spawn(task)
}

/// Takes console lines as they are written, with the id of their invocation.
pub(crate) type OnLogLine = Box<dyn Fn(Option<&str>, &LogLine)>;

/// Every invocation in flight in one instance. What every call looks at goes first.
#[repr(C)]
pub(crate) struct Invocations {
    pub(crate) table: RefCell<InFlight>,
    next: Cell<InvocationKey>,
    /// Sockets were accepted in the instance: only then is anything of them looked at.
    pub(crate) has_sockets: Cell<bool>,
    limits: InvocationLimits,
    /// For lines of no invocation: of start-up, or since the last invocation began.
    stray_log_budget: RefCell<LogBudget>,
    console: OnLogLine,
    pub(crate) sent: SentBytes,
    /// Counts the slices of an instance with sockets.
    pub(crate) slices: Cell<u64>,
}

/// The limits that are counted here.
#[derive(Clone, Copy)]
pub(crate) struct InvocationLimits {
    pub(crate) log_bytes_max: usize,
    pub(crate) subrequests_max: u32,
    pub(crate) connections_max: usize,
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

impl Invocation {
    /// Ties a body to the invocation: it is dropped with it at the latest.
    pub(crate) fn hold(&mut self, body: Rc<BodyResource>) -> Rc<BodyResource> {
        self.bodies.retain(|held| held.strong_count() > 0);
        self.bodies.push(Rc::downgrade(&body));
        body
    }

    fn keep(&mut self, exception: Exception) {
        if self.exceptions.len() < EXCEPTIONS_MAX {
            self.exceptions.push(exception);
        }
    }
}

impl Invocations {
    pub(crate) fn new(limits: InvocationLimits, console: OnLogLine) -> Self {
        Self {
            table: RefCell::default(),
            next: Cell::new(1),
            has_sockets: Cell::new(false),
            limits,
            stray_log_budget: RefCell::new(LogBudget::new(limits.log_bytes_max)),
            console,
            sent: SentBytes::default(),
            slices: Cell::new(0),
        }
    }

    /// Enters a new invocation and gives its key.
    pub(crate) fn begin(
        &self,
        id: Arc<str>,
        request: Option<PendingRequest>,
        on_end: OnEnd,
    ) -> InvocationKey {
        let mut table = self.table.borrow_mut();
        let mut key = self.next.get();
        while table.find(key).is_some() {
            key = if key >= KEY_MAX { 1 } else { key + 1 };
        }
        self.next.set(if key >= KEY_MAX { 1 } else { key + 1 });
        *self.stray_log_budget.borrow_mut() = LogBudget::new(self.limits.log_bytes_max);
        let invocation = Invocation {
            id,
            request,
            cancel: CancelHandle::new_rc(),
            pass_through: false,
            answer: None,
            answered: false,
            waker: None,
            outcome: Outcome::Ok,
            status: None,
            logs: Vec::new(),
            log_budget: LogBudget::new(self.limits.log_bytes_max),
            exceptions: Vec::new(),
            subrequests: 0,
            tracked: 0,
            handled: false,
            waiting: 0,
            client_gone: None,
            left_waiters: Vec::new(),
            ended_waiters: Vec::new(),
            started: Instant::now(),
            cpu: Duration::ZERO,
            on_end: Some(on_end),
            bodies: Vec::new(),
            sender: None,
            connections: Connections::new(self.limits.connections_max),
            holding: Holding::default(),
            spent: Duration::ZERO,
        };
        table.insert(key, Box::new(invocation));
        key
    }

    /// Invocations that have ever begun, up to a large number.
    pub(crate) fn begun(&self) -> u32 {
        self.next.get() - 1
    }

    pub(crate) fn len(&self) -> usize {
        self.table.borrow().len()
    }

    pub(crate) fn with<R>(
        &self,
        key: InvocationKey,
        f: impl FnOnce(&mut Invocation) -> R,
    ) -> Option<R> {
        self.table.borrow_mut().find_mut(key).map(f)
    }

    /// Counts one subrequest; the error is the text to throw.
    pub(crate) fn count_subrequest(
        &self,
        key: InvocationKey,
    ) -> Result<(Arc<str>, Rc<CancelHandle>), String> {
        let max = self.limits.subrequests_max;
        self.with(key, |invocation| {
            if invocation.subrequests >= max {
                return Err(format!(
                    "Too many subrequests: one invocation may make {max} (limits.subrequests)."
                ));
            }
            invocation.subrequests += 1;
            Ok((invocation.id.clone(), invocation.cancel.clone()))
        })
        .unwrap_or_else(|| Err("the invocation that this belongs to has ended".to_owned()))
    }

    /// Waits in line for one of the invocation's connections; `None` when it has ended.
    pub(crate) async fn connection(self: Rc<Self>, key: InvocationKey) -> Option<Connection> {
        let connections = self.with(key, |invocation| invocation.connections.clone())?;
        let bodies = || self.with(key, |invocation| invocation.bodies.clone()).unwrap_or_default();
        connections.open(bodies).await
    }

    /// Hands over what the handler made of its event. The first answer counts.
    pub(crate) fn answer(&self, key: InvocationKey, answer: Answer) {
        let waker = self.with(key, |invocation| {
            if invocation.answered {
                return None;
            }
            invocation.answered = true;
            invocation.handled = true;
            match &answer {
                Answer::Response(response) => invocation.status = Some(response.status().as_u16()),
                Answer::Done | Answer::Decision(_) => {}
                Answer::Failed(outcome, exception) => {
                    invocation.outcome = *outcome;
                    invocation.keep(exception.clone());
                }
            }
            invocation.answer = Some(answer);
            invocation.waker.take()
        });
        if let Some(Some(waker)) = waker {
            waker.wake();
        }
    }

    /// Answers for a limit. A failure that nobody has seen yet gives way: the end of an execution may look
    /// like an error to the code that it ends.
    pub(crate) fn overrule(&self, key: InvocationKey, outcome: Outcome, exception: Exception) {
        self.with(key, |invocation| {
            if matches!(invocation.answer, Some(Answer::Failed(..))) {
                invocation.answered = false;
                invocation.exceptions.pop();
            }
        });
        self.answer(key, Answer::Failed(outcome, exception));
    }

    /// Takes the answer if it is there.
    pub(crate) fn take_answer(&self, key: InvocationKey) -> Option<Answer> {
        self.with(key, |invocation| invocation.answer.take()).flatten()
    }

    /// Waits for the answer. Ready with `None` if the invocation is gone.
    pub(crate) fn poll_answer(
        &self,
        key: InvocationKey,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Answer>> {
        self.with(key, |invocation| match invocation.answer.take() {
            Some(answer) => Poll::Ready(Some(answer)),
            None => {
                invocation.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        })
        .unwrap_or(Poll::Ready(None))
    }

    /// Whether the invocation has its whole response, and is the only one in flight.
    pub(crate) fn is_answered_alone(&self, key: InvocationKey) -> bool {
        let table = self.table.borrow();
        let whole = |invocation: &Invocation| match &invocation.answer {
            Some(Answer::Response(response)) => {
                !matches!(response.body(), ResponseBody::Stream(_)) && !SocketSlot::is_in(response)
            }
            _ => false,
        };
        table.len() == 1 && table.find(key).is_some_and(whole)
    }

    /// Invocations that wait for an answer.
    pub(crate) fn unanswered(&self) -> Vec<InvocationKey> {
        let table = self.table.borrow();
        table.iter().filter(|(_, i)| !i.answered).map(|(key, _)| key).collect()
    }

    /// Every invocation in flight.
    pub(crate) fn keys(&self) -> Vec<InvocationKey> {
        self.table.borrow().iter().map(|(key, _)| key).collect()
    }

    /// Writes one console line.
    pub(crate) fn log(&self, key: InvocationKey, level: LogLevel, message: String) {
        self.write(key, LogLine { level, message, timestamp_ms: now_ms() });
    }

    /// Keeps a line and passes it on, or drops it when there have been too many.
    fn write(&self, key: InvocationKey, line: LogLine) {
        let owned = self.with(key, |invocation| {
            let line = invocation.log_budget.admit(line.clone());
            invocation.logs.extend(line.clone());
            (Some(invocation.id.clone()), line)
        });
        let (id, line) =
            owned.unwrap_or_else(|| (None, self.stray_log_budget.borrow_mut().admit(line)));
        if let Some(line) = line {
            (self.console)(id.as_deref(), &line);
        }
    }

    /// Whether one more uncaught exception would be kept.
    pub(crate) fn takes_exception(&self, key: InvocationKey) -> bool {
        self.with(key, |invocation| invocation.exceptions.len() < EXCEPTIONS_MAX).unwrap_or(true)
    }

    /// Notes an exception that nothing caught but that does not end the invocation.
    pub(crate) fn report(&self, key: InvocationKey, exception: Exception) {
        let message = exception
            .stack
            .clone()
            .unwrap_or_else(|| format!("{}: {}", exception.name, exception.message));
        let line = LogLine {
            level: LogLevel::Error,
            message: format!("Uncaught {message}"),
            timestamp_ms: exception.timestamp_ms,
        };
        self.with(key, |invocation| invocation.keep(exception));
        self.write(key, line);
    }

    /// What a handler answered is of no use.
    pub(crate) fn fail(&self, key: InvocationKey, exception: Exception) {
        self.with(key, |invocation| {
            invocation.outcome = Outcome::Exception;
            invocation.keep(exception);
        });
    }

    /// A promise was given to `waitUntil`.
    pub(crate) fn wait_until_begun(&self, key: InvocationKey) {
        self.with(key, |invocation| invocation.waiting += 1);
    }

    /// A promise given to `waitUntil` has settled.
    pub(crate) fn wait_until_over(&self, key: InvocationKey) {
        self.with(key, |invocation| invocation.waiting = invocation.waiting.saturating_sub(1));
        self.end_if_over(key);
    }

    /// The client has the whole response, or there was none to have.
    pub(crate) fn client_done(&self, key: InvocationKey) {
        self.with(key, |invocation| {
            invocation.client_gone.get_or_insert_with(Instant::now);
        });
        self.end_if_over(key);
    }

    /// The client went away before it had the whole response. Abort listeners get a moment to run, and may
    /// call `waitUntil`; then the invocation ends.
    pub(crate) fn client_left(self: &Rc<Self>, key: InvocationKey) {
        let known = self.with(key, |invocation| {
            invocation.client_gone.get_or_insert_with(Instant::now);
            if invocation.outcome == Outcome::Ok {
                invocation.outcome = Outcome::Canceled;
            }
            for waiter in invocation.left_waiters.drain(..) {
                // A waiter that is gone has stopped caring.
                let _ = waiter.send(true);
            }
        });
        if known.is_none() {
            return;
        }
        let invocations = self.clone();
        spawn(async move {
            tokio::time::sleep(ABORT_GRACE).await;
            if invocations.with(key, |invocation| invocation.waiting == 0).unwrap_or(false) {
                invocations.end(key, None);
            }
        });
    }

    /// How long an invocation may still go on. `None` says that it has ended.
    pub(crate) fn time_left(&self, key: InvocationKey, wait_until: Duration) -> Option<Duration> {
        self.with(key, |invocation| match invocation.client_gone {
            None => CLIENT_CHECK,
            Some(gone) => wait_until.saturating_sub(gone.elapsed()),
        })
    }

    pub(crate) fn wait_left(&self, key: InvocationKey) -> Option<oneshot::Receiver<bool>> {
        let (sender, receiver) = oneshot::channel();
        self.with(key, |invocation| invocation.left_waiters.push(sender)).map(|()| receiver)
    }

    pub(crate) fn wait_ended(&self, key: InvocationKey) -> Option<oneshot::Receiver<()>> {
        let (sender, receiver) = oneshot::channel();
        self.with(key, |invocation| invocation.ended_waiters.push(sender)).map(|()| receiver)
    }

    /// Ends an invocation that goes on after its client is gone for longer than it may.
    pub(crate) fn linger(self: &Rc<Self>, key: InvocationKey, wait_until: Duration) {
        if self.time_left(key, wait_until).is_none() {
            return;
        }
        let invocations = self.clone();
        spawn(async move {
            while let Some(left) = invocations.time_left(key, wait_until) {
                if left.is_zero() {
                    return invocations.end(key, None);
                }
                tokio::time::sleep(left).await;
            }
        });
    }

    fn end_if_over(&self, key: InvocationKey) {
        let over = self
            .with(key, |i| {
                let canceled = i.outcome == Outcome::Canceled;
                i.waiting == 0 && i.client_gone.is_some() && (i.handled || canceled)
            })
            .unwrap_or(false);
        if over {
            self.end(key, None);
        }
    }

    /// Ends an invocation whatever it still does. Without an outcome, the one that it came to stands.
    pub(crate) fn end(&self, key: InvocationKey, outcome: Option<Outcome>) {
        let Some(mut invocation) = self.table.borrow_mut().remove(key) else { return };
        invocation.cancel.cancel();
        invocation.holding.end(outcome.unwrap_or(invocation.outcome));
        invocation.bodies.iter().filter_map(Weak::upgrade).for_each(|body| body.shut());
        if let Some(sender) = invocation.sender.take() {
            sender.wake();
        }
        if let Some(waker) = invocation.waker.take() {
            waker.wake();
        }
        let record = InvocationRecord {
            id: invocation.id,
            outcome: outcome.unwrap_or(invocation.outcome),
            status: invocation.status,
            logs: invocation.logs,
            exceptions: invocation.exceptions,
            cpu: invocation.cpu,
            wall: invocation.started.elapsed(),
        };
        for waiter in invocation.ended_waiters {
            // A waiter that is gone has stopped caring.
            let _ = waiter.send(());
        }
        if let Some(on_end) = invocation.on_end.take() {
            on_end(record);
        }
    }
}

/// Held by a streaming response body: tells the invocation whether the client took all of it.
pub(crate) struct BodyGuard {
    invocations: Rc<Invocations>,
    key: InvocationKey,
    over: bool,
}

impl BodyGuard {
    pub(crate) fn new(invocations: Rc<Invocations>, key: InvocationKey) -> Self {
        Self { invocations, key, over: false }
    }

    /// Whether the invocation goes on; if it does, `cx` hears of its end.
    pub(crate) fn goes_on(&self, cx: &Context<'_>) -> bool {
        let listen = |invocation: &mut Invocation| match &mut invocation.sender {
            Some(sender) => sender.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        };
        self.invocations.with(self.key, listen).is_some()
    }

    pub(crate) fn complete(mut self) {
        self.over = true;
        self.invocations.client_done(self.key);
    }

    pub(crate) fn broken(mut self, message: &str) {
        self.over = true;
        self.invocations.with(self.key, |invocation| {
            if invocation.outcome == Outcome::Ok {
                invocation.outcome = Outcome::Exception;
            }
            invocation.keep(Exception {
                name: "Error".to_owned(),
                message: format!("the response body broke off: {message}"),
                stack: None,
                timestamp_ms: now_ms(),
            });
        });
        self.invocations.client_done(self.key);
    }
}

impl Drop for BodyGuard {
    fn drop(&mut self) {
        if !self.over {
            self.invocations.client_left(self.key);
        }
    }
}
