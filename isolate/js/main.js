// The instance's heart: takes the script's exports, builds env, and turns one call from Rust into one call
// of a handler and one answer.
(function () {
const { core } = __bootstrap;
const { defineLate } = core.loadExtScript("ext:atoll/late.js");
core.loadExtScript("ext:atoll/async_ops.js");
const { installClock } = core.loadExtScript("ext:atoll/clock.js");
const { primordials } = __bootstrap;
const {
  op_invocation_fail,
  op_invocation_handled,
  op_invocation_pass_through,
  op_report_error,
  op_respond,
  op_respond_socket,
  op_rule_decided,
  op_track,
} = core.ops;
const {
  ArrayPrototypePush,
  JSONParse,
  JSONStringify,
  ObjectAssign,
  ObjectFreeze,
  ObjectGetOwnPropertySymbols,
  ObjectHasOwn,
  PromisePrototypeThen,
  PromiseResolve,
  ReflectConstruct,
  StringPrototypeStartsWith,
  TypedArrayPrototypeGetBuffer,
  TypeError,
} = primordials;
const { setAsyncContext } = core;
const { fromState, listOf, newState } = core.loadExtScript("ext:atoll/request.js");
const { bodyOf, isResponse, Response, sentList, stateOf, TEXT } = core.loadExtScript("ext:atoll/response.js");
const { URL } = core.loadExtScript("ext:deno_web/00_url.js");
const { byteLowerCase } = core.loadExtScript("ext:deno_web/00_infra.js");
const { takeBody } = core.loadExtScript("ext:atoll/body.js");
const { currentInvocation, invocationOf, waitUntil } = core.loadExtScript("ext:atoll/invocation.js");
const { Fetcher } = core.loadExtScript("ext:atoll/fetch.js");
const { KvNamespace } = core.loadExtScript("ext:atoll/kv.js");
const { console, installGlobals } = core.loadExtScript("ext:atoll/globals.js");
const { dispatchEvent, entrypointFromListeners } = core.loadExtScript("ext:atoll/events.js");
const { saveGlobalThisReference } = core.loadExtScript("ext:deno_web/02_event.js");
const workersModule = core.loadExtScript("ext:atoll/workers_module.js");
core.loadExtScript("ext:atoll/async_hooks_module.js");

// V8 compiles a function in parentheses where it stands, and so into the snapshot. Those of this directory run in
// every isolate, and nothing can call them while the snapshot is made; what can be called is warmUp()'s.
const env = workersModule.env;
const FLAGS = "ext:atoll/flags.js";
let entrypoint = null;
let entrypointIsClass = false;
const props = ObjectFreeze({});

// What nobody but this script calls the constructor with.
const OURS = { __proto__: null };

class ExecutionContext {
  #invocation;
  constructor(by, invocation) {
    if (by !== OURS) throw new TypeError("Illegal constructor");
    this.#invocation = invocation;
  }
  waitUntil(promise) {
    waitUntil(this.#invocation, promise);
  }
  passThroughOnException() {
    op_invocation_pass_through(this.#invocation.id);
  }
  get props() {
    return props;
  }
  get experiments() {
    return core.loadExtScript(FLAGS).experimentsOf(this.#invocation);
  }
  track(metric, value = 1) {
    if (typeof metric !== "string") throw new TypeError("track takes the name of a metric first");
    if (typeof value !== "number") throw new TypeError(`the value of metric "${metric}" is no number`);
    op_track(this.#invocation.id, metric, value);
  }
}

function failed(invocation, error) {
  op_invocation_fail(invocation.id, error);
}

// What op_respond takes for a content type that stands alone is what a response's `typed` is.
const HEADERS_LISTED = 0;

// The longest text that dispatchFetch returns: longer ones may be too long, which op_respond knows.
const RETURNED_TEXT_MAX = 1 << 20;

// Whether a response is a text of status 200 with nothing but its content type, as most are.
const isPlainText = (function (state) {
  return state.typed === TEXT && state.text !== null && !state.used && state.status === 200 &&
    state.text.length <= RETURNED_TEXT_MAX;
});

const respond = (function (invocation, state) {
  if (state.type === "error") throw new TypeError("The fetch handler returned Response.error().");
  if (state.status === 101) return respondWithSocket(invocation, state);
  const { text, list } = state;
  if (text !== null && !state.used) {
    state.used = true;
    if (list === null) op_respond(invocation.id, state.status, null, text, state.typed);
    else op_respond(invocation.id, state.status, list, text, HEADERS_LISTED);
    return;
  }
  const body = takeBody(bodyOf(state));
  op_respond(invocation.id, state.status, sentList(state), body, HEADERS_LISTED);
});

function respondWithSocket(invocation, state) {
  if (state.webSocket === null) {
    throw new TypeError("A response with status 101 needs a WebSocket: new Response(null, { status: 101, webSocket: client }).");
  }
  const { headerOf, takeSocket } = core.loadExtScript("ext:atoll/websocket.js");
  if (byteLowerCase(headerOf(listOf(invocation), "upgrade")) !== "websocket") {
    throw new TypeError(
      "Worker tried to return WebSocket in a response to a request which did not contain the header \"Upgrade: websocket\".",
    );
  }
  const socket = takeSocket(state.webSocket);
  op_respond_socket(invocation.id, sentList(state), socket.owner, socket.index);
}

const call = (function (name, argument, invocation) {
  const ctx = new ExecutionContext(OURS, invocation);
  const target = entrypointIsClass ? ReflectConstruct(entrypoint, [ctx, env]) : entrypoint;
  if (typeof target?.[name] !== "function") throw new TypeError(`Handler does not export a ${name}() function.`);
  if (entrypointIsClass) return target[name](argument);
  return name === "rule" ? target[name](argument, ctx, env) : target[name](argument, env, ctx);
});

// The methods that Rust names by their place.
const METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];

// Whether the worker has answered with nothing but responses so far: no promises of them.
let answersAtOnce = true;

// The state of a response; null for what is none. V8 compiles reading it in place, which throws where there is none, and
// calls a builtin for the question whether it is there.
const stateAtOnce = (function (result) {
  if (answersAtOnce) {
    try {
      return stateOf(result);
    } catch {
      answersAtOnce = false;
    }
  }
  return isResponse(result) ? stateOf(result) : null;
});

// Called by Rust for one HTTP request. `method` is a place in METHODS or a name. Returns the response's text if it is
// there and plain, which spares an op; every other answer is given by one.
const dispatchFetch = (function (id, method, url, hasBody) {
  const invocation = newState(id, typeof method === "number" ? METHODS[method] : method, url, hasBody);
  setAsyncContext(invocation);
  try {
    const result = call("fetch", fromState(invocation), invocation);
    const state = stateAtOnce(result);
    if (state !== null) {
      if (!isPlainText(state)) return respond(invocation, state);
      state.used = true;
      return state.text;
    }
    PromisePrototypeThen(
      PromiseResolve(result),
      ((response) => {
        try {
          if (!isResponse(response)) {
            throw new TypeError(
              "Incorrect type for Promise: the Promise did not resolve to 'Response'. The fetch handler must return a Response.",
            );
          }
          respond(invocation, stateOf(response));
        } catch (error) {
          failed(invocation, error);
        }
      }),
      (error) => failed(invocation, error),
    );
  } catch (error) {
    failed(invocation, error);
  } finally {
    setAsyncContext(undefined);
  }
});

class ScheduledController {
  #cron;
  #scheduledTime;
  constructor(cron, scheduledTime) {
    this.#cron = cron;
    this.#scheduledTime = scheduledTime;
  }
  get cron() {
    return this.#cron;
  }
  get scheduledTime() {
    return this.#scheduledTime;
  }
  get type() {
    return "scheduled";
  }
  noRetry() {}
}

// Calls a handler whose result is no response, and hands that over once it is there.
function run(invocation, name, argument, done) {
  setAsyncContext(invocation);
  try {
    PromisePrototypeThen(
      PromiseResolve(call(name, argument, invocation)),
      (result) => {
        try {
          done(result);
        } catch (error) {
          failed(invocation, error);
        }
      },
      (error) => failed(invocation, error),
    );
  } catch (error) {
    failed(invocation, error);
  } finally {
    setAsyncContext(undefined);
  }
}

// Called by Rust for one cron line that came due.
function dispatchScheduled(id, cron, scheduledTime) {
  const controller = new ScheduledController(cron, scheduledTime);
  run(newState(id, "", "", false), "scheduled", controller, () => op_invocation_handled(id));
}

// Called by Rust for one request that a script is to decide about. The script's handler gets no body.
function dispatchRule(id, method, url) {
  const invocation = newState(id, typeof method === "number" ? METHODS[method] : method, url, false);
  run(invocation, "rule", fromState(invocation), (decision) => {
    op_rule_decided(id, decision === undefined || decision === null ? "" : JSONStringify(decision) ?? "false");
  });
}

function wasmModule(bytes) {
  return new WebAssembly.Module(bytes);
}

const BINDING = {
  __proto__: null,
  text: (binding) => binding.value,
  json: (binding) => JSONParse(binding.value),
  data: (_binding, bytes) => TypedArrayPrototypeGetBuffer(bytes),
  wasm: (_binding, bytes) => wasmModule(bytes),
  kv: (binding) => new KvNamespace(binding.capability),
  service: (binding) => new Fetcher(binding.capability),
};

// Called by Rust once, when the isolate is made and nobody's script is known yet.
const bootstrap = (function (inspected, time) {
  // Reaches for Deno.core, so it goes first.
  if (inspected) core.wrapConsole(console, core.v8Console);
  delete globalThis.Deno;
  delete globalThis.__bootstrap;
  delete globalThis.bootstrap;
  const symbols = ObjectGetOwnPropertySymbols(globalThis);
  for (let i = 0; i < symbols.length; i++) {
    if (StringPrototypeStartsWith(symbols[i].description ?? "", "Deno.")) delete globalThis[symbols[i]];
  }
  installClock(time);
  installGlobals();
  warmUp();
});

// Called by Rust before the script runs. `bindings` is JSON; `blobs` holds bytes by binding name.
const bind = (function (bindings, blobs) {
  const list = JSONParse(bindings);
  for (let i = 0; i < list.length; i++) {
    const binding = list[i];
    env[binding.name] = BINDING[binding.kind](binding, blobs[binding.name]);
  }
  // Not among the bindings that a worker lists, and not in the way of one that is called so.
  if (!ObjectHasOwn(env, "FLAGS")) defineLate(env, "FLAGS", FLAGS, false);
});

// Service-worker scripts see their bindings as globals.
function exposeBindings() {
  ObjectAssign(globalThis, env);
}

const KNOWN_HANDLERS = ["fetch", "scheduled", "queue", "tail", "email", "rule"];

// Called by Rust once the script has run. Returns the names of the handlers found.
const install = (function (exported) {
  entrypoint = exported ?? entrypointFromListeners();
  const found = [];
  if (entrypoint === null || entrypoint === undefined) return found;
  entrypointIsClass = typeof entrypoint === "function";
  const holder = entrypointIsClass ? entrypoint.prototype : entrypoint;
  for (let i = 0; i < KNOWN_HANDLERS.length; i++) {
    if (typeof holder?.[KNOWN_HANDLERS[i]] === "function") ArrayPrototypePush(found, KNOWN_HANDLERS[i]);
  }
  return found;
});

// What a listener throws goes to listeners for errors, and then to the log. Deno's own way out ends the isolate.
saveGlobalThisReference({ __proto__: null, dispatchEvent });
core.reportUnhandledException = (error) => op_report_error(currentInvocation()?.id ?? 0, error);

// Does what every worker does in its first call. Once while the snapshot is made: functions that have run are
// compiled in the snapshot. And once in each isolate while it waits for a script: the memory that this touches, and
// what V8 sets up when it is first needed, are not the first call's.
function warmUp() {
  const state = newState(0, "GET", "http://warm.up/", false);
  state.list = [["host", "warm.up"]];
  const request = fromState(state);
  const { pathname, searchParams } = new URL(request.url);
  const headers = { "content-type": "text/plain", "x-host": request.headers.get("X-Host") ?? request.headers.get("host") };
  const text = new Response(`${request.method} ${pathname} ${searchParams.get("q")}`, { status: 200, headers });
  const answers = [text, Response.json({ ok: true }), new Response("ok")];
  new ExecutionContext(OURS, state);
  for (let i = 0; i < answers.length; i++) {
    if (!isResponse(answers[i])) continue;
    const answer = stateAtOnce(answers[i]);
    isPlainText(answer);
    takeBody(bodyOf(answer));
    sentList(answer);
  }
}
warmUp();

core.setReportExceptionCallback((error) => op_report_error(currentInvocation()?.id ?? 0, error));
core.setUnhandledPromiseRejectionHandler((_promise, error) => {
  op_report_error(currentInvocation()?.id ?? 0, error);
  return true;
});

// Called by Rust for what was rejected after the script's start and nobody handles.
function reportRejection(error, context) {
  op_report_error(invocationOf(context)?.id ?? 0, error);
}

globalThis.__atoll = {
  bootstrap,
  bind,
  exposeBindings,
  install,
  dispatchFetch,
  dispatchScheduled,
  dispatchRule,
  reportRejection,
};
return {};
})();
