// The instance's heart: takes the script's exports, builds env, and turns one call from Rust into one call
// of a handler and one answer.
(function () {
const { core } = __bootstrap;
core.loadExtScript("ext:atoll/async_ops.js");
const { installClock } = core.loadExtScript("ext:atoll/clock.js");
const { primordials } = __bootstrap;
const {
  op_invocation_fail,
  op_invocation_handled,
  op_invocation_wait_left,
  op_report_error,
  op_request_body,
  op_request_cf,
  op_request_headers,
  op_respond,
} = core.ops;
const {
  ArrayPrototypePush,
  JSONParse,
  ObjectAssign,
  ObjectFreeze,
  ObjectGetOwnPropertySymbols,
  ObjectPrototypeIsPrototypeOf,
  PromisePrototypeThen,
  PromiseResolve,
  ReflectApply,
  ReflectConstruct,
  StringPrototypeStartsWith,
  TypedArrayPrototypeGetBuffer,
  TypeError,
} = primordials;
const { setAsyncContext } = core;
const { fromInnerRequest } = core.loadExtScript("ext:deno_fetch/23_request.js");
const { Response, ResponsePrototype, toInnerResponse, wireHeaderList } = core.loadExtScript("ext:deno_fetch/23_response.js");
const { URL } = core.loadExtScript("ext:deno_web/00_url.js");
const { takeBody, bodyFromRid } = core.loadExtScript("ext:atoll/body.js");
const { Invocation, currentInvocation } = core.loadExtScript("ext:atoll/invocation.js");
const { Fetcher } = core.loadExtScript("ext:atoll/fetch.js");
const { KvNamespace } = core.loadExtScript("ext:atoll/kv.js");
const { console, installGlobals } = core.loadExtScript("ext:atoll/globals.js");
const { dispatchEvent, entrypointFromListeners } = core.loadExtScript("ext:atoll/events.js");
const { saveGlobalThisReference } = core.loadExtScript("ext:deno_web/02_event.js");
const workersModule = core.loadExtScript("ext:atoll/workers_module.js");
core.loadExtScript("ext:atoll/async_hooks_module.js");

const env = workersModule.env;
let entrypoint = null;
let entrypointIsClass = false;
const props = ObjectFreeze({});

class ExecutionContext {
  #invocation;
  constructor(invocation) {
    this.#invocation = invocation;
  }
  waitUntil(promise) {
    this.#invocation.waitUntil(promise);
  }
  passThroughOnException() {
    this.#invocation.passThroughOnException();
  }
  get props() {
    return props;
  }
}

function failed(invocation, error) {
  op_invocation_fail(invocation.id, error);
}

function isResponse(value) {
  return ObjectPrototypeIsPrototypeOf(ResponsePrototype, value);
}

function respond(invocation, response) {
  const inner = toInnerResponse(response);
  if (inner.type === "error") throw new TypeError("The fetch handler returned Response.error().");
  const body = takeBody(inner.body);
  const headers = wireHeaderList(inner);
  const only = headers.length === 1 ? onlyContentType(headers[0]) : HEADERS_LISTED;
  op_respond(invocation.id, inner.status, only === HEADERS_LISTED ? headers : null, body, only);
}

// What op_respond takes for "headers": a list, or the number of a content type that stands alone.
const HEADERS_LISTED = 0;
const ONLY_TEXT = 1;
const ONLY_JSON = 2;

function onlyContentType(header) {
  if (header[0] !== "content-type" && header[0] !== "Content-Type") return HEADERS_LISTED;
  if (header[1] === "text/plain;charset=UTF-8") return ONLY_TEXT;
  return header[1] === "application/json" ? ONLY_JSON : HEADERS_LISTED;
}

function call(name, handlerArguments, ctx) {
  if (entrypointIsClass) {
    const instance = ReflectConstruct(entrypoint, [ctx, env]);
    const method = instance[name];
    if (typeof method !== "function") throw new TypeError(`Handler does not export a ${name}() function.`);
    return ReflectApply(method, instance, [handlerArguments]);
  }
  const handler = entrypoint?.[name];
  if (typeof handler !== "function") throw new TypeError(`Handler does not export a ${name}() function.`);
  return ReflectApply(handler, entrypoint, [handlerArguments, env, ctx]);
}

function newInvocation(id) {
  const invocation = new Invocation(id);
  setAsyncContext({ __proto__: null, invocation });
  return invocation;
}

// What deno_fetch's Request wraps, with every part fetched when it is asked for. One shape for all
// requests: object literals with accessors are several times slower to make.
class IncomingRequest {
  constructor(id, method, url, hasBody) {
    this.id = id;
    this.method = method;
    this.address = url;
    this.headers = null;
    this.attributes = undefined;
    this.body = hasBody ? bodyFromRid(op_request_body(id)) : null;
    this.redirectMode = "follow";
    this.redirectCount = 0;
    this.clientRid = null;
    this.blobUrlEntry = null;
  }
  get headerList() {
    return this.headers ??= op_request_headers(this.id);
  }
  set headerList(list) {
    this.headers = list;
  }
  url() {
    return this.address;
  }
  currentUrl() {
    return this.address;
  }
  cf() {
    return this.attributes ??= JSONParse(op_request_cf(this.id));
  }
  onCancel(abort) {
    const left = op_invocation_wait_left(this.id);
    core.unrefOpPromise(left);
    PromisePrototypeThen(left, (left) => {
      if (left) abort();
    });
  }
}

// Called by Rust for one HTTP request.
function dispatchFetch(id, method, url, hasBody) {
  const invocation = newInvocation(id);
  try {
    const inner = new IncomingRequest(id, method, url, hasBody);
    const request = fromInnerRequest(inner, "immutable");
    const result = call("fetch", request, new ExecutionContext(invocation));
    if (isResponse(result)) return respond(invocation, result);
    PromisePrototypeThen(
      PromiseResolve(result),
      (response) => {
        try {
          if (!isResponse(response)) {
            throw new TypeError(
              "Incorrect type for Promise: the Promise did not resolve to 'Response'. The fetch handler must return a Response.",
            );
          }
          respond(invocation, response);
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

// Called by Rust for one cron line that came due.
function dispatchScheduled(id, cron, scheduledTime) {
  const invocation = newInvocation(id);
  try {
    const result = call("scheduled", new ScheduledController(cron, scheduledTime), new ExecutionContext(invocation));
    PromisePrototypeThen(
      PromiseResolve(result),
      () => op_invocation_handled(id),
      (error) => failed(invocation, error),
    );
  } catch (error) {
    failed(invocation, error);
  } finally {
    setAsyncContext(undefined);
  }
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
function bootstrap(inspected, time) {
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
}

// Called by Rust before the script runs. `bindings` is JSON; `blobs` holds bytes by binding name.
function bind(bindings, blobs) {
  const list = JSONParse(bindings);
  for (let i = 0; i < list.length; i++) {
    const binding = list[i];
    env[binding.name] = BINDING[binding.kind](binding, blobs[binding.name]);
  }
}

// Service-worker scripts see their bindings as globals.
function exposeBindings() {
  ObjectAssign(globalThis, env);
}

const KNOWN_HANDLERS = ["fetch", "scheduled", "queue", "tail", "email"];

// Called by Rust once the script has run. Returns the names of the handlers found.
function install(exported) {
  entrypoint = exported ?? entrypointFromListeners();
  const found = [];
  if (entrypoint === null || entrypoint === undefined) return found;
  entrypointIsClass = typeof entrypoint === "function";
  const holder = entrypointIsClass ? entrypoint.prototype : entrypoint;
  for (let i = 0; i < KNOWN_HANDLERS.length; i++) {
    if (typeof holder?.[KNOWN_HANDLERS[i]] === "function") ArrayPrototypePush(found, KNOWN_HANDLERS[i]);
  }
  return found;
}

// What a listener throws goes to listeners for errors, and then to the log. Deno's own way out ends the isolate.
saveGlobalThisReference({ __proto__: null, dispatchEvent });
core.reportUnhandledException = (error) => op_report_error(currentInvocation()?.id ?? 0, error);

// Does once, while the snapshot is made, what every worker does in its first call: functions that have run are
// compiled in the snapshot.
function warmUp() {
  const inner = new IncomingRequest(0, "GET", "http://warm.up/", false);
  inner.headers = [["host", "warm.up"]];
  const request = fromInnerRequest(inner, "immutable");
  const { pathname, searchParams } = new URL(request.url);
  const headers = { "content-type": "text/plain", "x-host": request.headers.get("host") };
  const text = new Response(`${request.method} ${pathname} ${searchParams.get("q")}`, { status: 200, headers });
  const answers = [text, Response.json({ ok: true })];
  for (let i = 0; i < answers.length; i++) {
    const answer = toInnerResponse(answers[i]);
    takeBody(answer.body);
    onlyContentType(wireHeaderList(answer)[0]);
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
  op_report_error(context?.invocation?.id ?? 0, error);
}

globalThis.__atoll = {
  bootstrap,
  bind,
  exposeBindings,
  install,
  dispatchFetch,
  dispatchScheduled,
  reportRejection,
};
return {};
})();
