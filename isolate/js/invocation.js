// One invocation as JS sees it: the async context that every continuation of a handler carries, the
// promises that keep it alive, and the timers that end with it.
(function () {
const { core, primordials } = __bootstrap;
const {
  op_invocation_ended,
  op_invocation_pass_through,
  op_report_error,
  op_wait_until_begun,
  op_wait_until_over,
} = core.ops;
const {
  PromisePrototypeThen,
  PromiseResolve,
  RangeError,
  SafeSet,
  SetPrototypeAdd,
  SetPrototypeDelete,
  SetPrototypeClear,
  SetPrototypeForEach,
  SetPrototypeGetSize,
  TypeError,
} = primordials;
const { getAsyncContext } = core;
const {
  clearTimeout: clearWebTimer,
  setInterval: setWebInterval,
  setTimeout: setWebTimeout,
} = core.loadExtScript("ext:deno_web/02_timers.js");

// Timers that one invocation has running at once.
const TIMERS_MAX = 10_000;

class Invocation {
  constructor(id) {
    this.id = id;
    this.ended = false;
    this.timers = null;
  }

  waitUntil(promise) {
    op_wait_until_begun(this.id);
    const over = () => op_wait_until_over(this.id);
    PromisePrototypeThen(PromiseResolve(promise), over, (error) => {
      op_report_error(this.id, error);
      over();
    });
  }

  passThroughOnException() {
    op_invocation_pass_through(this.id);
  }

  holdTimer(timer) {
    if (this.timers === null) {
      this.timers = new SafeSet();
      const ended = op_invocation_ended(this.id);
      core.unrefOpPromise(ended);
      PromisePrototypeThen(ended, () => {
        this.ended = true;
        SetPrototypeForEach(this.timers, (id) => clearWebTimer(id));
        SetPrototypeClear(this.timers);
      });
    }
    SetPrototypeAdd(this.timers, timer);
  }

  releaseTimer(timer) {
    if (this.timers !== null) SetPrototypeDelete(this.timers, timer);
  }
}

function currentInvocation() {
  return getAsyncContext()?.invocation;
}

// The id of the current invocation; throws where Workers forbid I/O.
function requireInvocation(what) {
  const invocation = getAsyncContext()?.invocation;
  if (invocation === undefined) {
    throw new TypeError(
      `Disallowed operation called within global scope. ${what} is only allowed within a handler: ` +
        "move it into the handler that needs its result.",
    );
  }
  return invocation.id;
}

// The invocation that a new timer belongs to; nothing once it has ended.
function timerOwner(name, callback) {
  requireInvocation("Setting a timer");
  const invocation = currentInvocation();
  if (invocation.ended) return null;
  if (typeof callback !== "function") {
    throw new TypeError(`${name} takes a function: code is not made from strings here`);
  }
  if (invocation.timers !== null && SetPrototypeGetSize(invocation.timers) >= TIMERS_MAX) {
    throw new RangeError(`Too many timers: one invocation may have ${TIMERS_MAX} running at once.`);
  }
  return invocation;
}

function setTimeout(callback, delay = 0, ...args) {
  const invocation = timerOwner("setTimeout", callback);
  if (invocation === null) return 0;
  const id = setWebTimeout(() => {
    invocation.releaseTimer(id);
    callback(...args);
  }, delay);
  invocation.holdTimer(id);
  return id;
}

function setInterval(callback, delay = 0, ...args) {
  const invocation = timerOwner("setInterval", callback);
  if (invocation === null) return 0;
  const id = setWebInterval(() => callback(...args), delay);
  invocation.holdTimer(id);
  return id;
}

function clearTimer(id) {
  if (typeof id !== "number") return;
  clearWebTimer(id);
  currentInvocation()?.releaseTimer(id);
}

function clearTimeout(id) {
  clearTimer(id);
}

function clearInterval(id) {
  clearTimer(id);
}

return {
  Invocation,
  currentInvocation,
  requireInvocation,
  setTimeout,
  setInterval,
  clearTimeout,
  clearInterval,
};
})();
