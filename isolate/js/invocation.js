// One invocation as JS sees it: the async context that every continuation of a handler carries, the
// promises that keep it alive, and the timers that end with it. It is the state of the request too (request.js), so
// that an event costs one object; AsyncLocalStorage wraps it when it is used.
(function () {
const { core, primordials } = __bootstrap;
const {
  op_invocation_ended,
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

function waitUntil(invocation, promise) {
  op_wait_until_begun(invocation.id);
  const over = () => op_wait_until_over(invocation.id);
  PromisePrototypeThen(PromiseResolve(promise), over, (error) => {
    op_report_error(invocation.id, error);
    over();
  });
}

function holdTimer(invocation, timer) {
  if (invocation.timers === null) {
    invocation.timers = new SafeSet();
    const ended = op_invocation_ended(invocation.id);
    core.unrefOpPromise(ended);
    PromisePrototypeThen(ended, () => {
      invocation.ended = true;
      SetPrototypeForEach(invocation.timers, (id) => clearWebTimer(id));
      SetPrototypeClear(invocation.timers);
    });
  }
  SetPrototypeAdd(invocation.timers, timer);
}

function releaseTimer(invocation, timer) {
  if (invocation.timers !== null) SetPrototypeDelete(invocation.timers, timer);
}

// The invocation of a context: the context itself, which has an id, or what AsyncLocalStorage put beside its stores.
function invocationOf(context) {
  return context === undefined || context.id !== undefined ? context : context.invocation;
}

function currentInvocation() {
  return invocationOf(getAsyncContext());
}

// A context with one more store in it.
function contextWith(context, key, store) {
  if (invocationOf(context) === context) return { __proto__: null, invocation: context, [key]: store };
  return { __proto__: null, ...context, [key]: store };
}

// The id of the current invocation; throws where Workers forbid I/O.
function requireInvocation(what) {
  const invocation = currentInvocation();
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
    releaseTimer(invocation, id);
    callback(...args);
  }, delay);
  holdTimer(invocation, id);
  return id;
}

function setInterval(callback, delay = 0, ...args) {
  const invocation = timerOwner("setInterval", callback);
  if (invocation === null) return 0;
  const id = setWebInterval(() => callback(...args), delay);
  holdTimer(invocation, id);
  return id;
}

function clearTimer(id) {
  if (typeof id !== "number") return;
  clearWebTimer(id);
  const invocation = currentInvocation();
  if (invocation !== undefined) releaseTimer(invocation, id);
}

function clearTimeout(id) {
  clearTimer(id);
}

function clearInterval(id) {
  clearTimer(id);
}

return {
  contextWith,
  currentInvocation,
  invocationOf,
  requireInvocation,
  setTimeout,
  setInterval,
  clearTimeout,
  clearInterval,
  waitUntil,
};
})();
