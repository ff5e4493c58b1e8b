// The Request class of the Fetch standard. A request that came in is one object around the invocation, and each
// part of it is fetched from the host when somebody asks for it.
// https://fetch.spec.whatwg.org/#request-class
(function () {
const { core, primordials } = __bootstrap;
const { op_invocation_wait_left, op_request_body, op_request_cf, op_request_headers } = core.ops;
const {
  JSONParse,
  ObjectKeys,
  PromisePrototypeThen,
  RegExpPrototypeExec,
  StringPrototypeToUpperCase,
  TypeError,
} = primordials;
const webidl = core.loadExtScript("ext:deno_webidl/00_webidl.js");
const { HTTP_TOKEN_CODE_POINT_RE } = core.loadExtScript("ext:deno_web/00_infra.js");
const { URL } = core.loadExtScript("ext:deno_web/00_url.js");
const { DOMException } = core.loadExtScript("ext:deno_web/01_dom_exception.js");
const { createDependentAbortSignal, newSignal, signalAbort } = core.loadExtScript("ext:deno_web/03_abort_signal.js");
const { fillHeaders, guardFromHeaders, headersFromHeaderList } = core.loadExtScript(
  "ext:deno_fetch/20_headers.js",
);
const { bodyFromRid, extractBody } = core.loadExtScript("ext:atoll/body.js");
const { copyList, finishBodyClass } = core.loadExtScript("ext:atoll/body_class.js");

const NORMALIZED = {
  __proto__: null,
  DELETE: "DELETE", delete: "DELETE", GET: "GET", get: "GET", HEAD: "HEAD", head: "HEAD", OPTIONS: "OPTIONS",
  options: "OPTIONS", PATCH: "PATCH", POST: "POST", post: "POST", PUT: "PUT", put: "PUT",
};
const FORBIDDEN = { __proto__: null, CONNECT: 1, TRACE: 1, TRACK: 1 };

// What a request is unless its init says otherwise.
const DEFAULTS = {
  __proto__: null,
  cache: "default", credentials: "same-origin", integrity: "", keepalive: false, mode: "cors", redirect: "follow",
  referrer: "about:client", referrerPolicy: "",
};

// https://fetch.spec.whatwg.org/#concept-method-normalize
function normalizeMethod(method) {
  const known = NORMALIZED[method];
  if (known !== undefined) return known;
  if (RegExpPrototypeExec(HTTP_TOKEN_CODE_POINT_RE, method) === null) throw new TypeError("Method is not valid");
  const upper = StringPrototypeToUpperCase(method);
  if (upper in FORBIDDEN) throw new TypeError("Method is forbidden");
  return NORMALIZED[upper] === upper && upper !== "PATCH" ? upper : method;
}

// The state of a request, and an invocation (invocation.js) at once. One that no event brought has no id but 0.
// Constants go first: V8 copies them in one go.
function newState(id, method, url, hasBody) {
  return {
    body: null, cf: undefined, ended: false, flags: undefined, headers: null, list: null, options: DEFAULTS, signal: null, timers: null,
    id, method, url, hasBody,
  };
}

let stateOf, isRequest;
// What nobody but this script calls the constructor with: the state of a request that came in or of a copy follows it.
const GIVEN = { __proto__: null };

function fromState(state) {
  return new Request(GIVEN, state);
}

class Request {
  #state;

  static {
    stateOf = (request) => request.#state;
    isRequest = (value) => typeof value === "object" && value !== null && #state in value;
  }

  constructor(input, init = undefined) {
    this.#state = input === GIVEN ? init : construct(input, init);
  }

  get method() {
    return this.#state.method;
  }

  get url() {
    return this.#state.url;
  }

  get headers() {
    const state = this.#state;
    return state.headers ??= headersFromHeaderList(listOf(state), state.id === 0 ? "request" : "immutable");
  }

  get cf() {
    const state = this.#state;
    if (state.cf === undefined && state.id !== 0) state.cf = JSONParse(op_request_cf(state.id));
    return state.cf;
  }

  get redirect() {
    return this.#state.options.redirect;
  }

  get cache() {
    return this.#state.options.cache;
  }

  get credentials() {
    return this.#state.options.credentials;
  }

  get integrity() {
    return this.#state.options.integrity;
  }

  get keepalive() {
    return this.#state.options.keepalive;
  }

  get mode() {
    return this.#state.options.mode;
  }

  get referrer() {
    return this.#state.options.referrer;
  }

  get referrerPolicy() {
    return this.#state.options.referrerPolicy;
  }

  get signal() {
    const state = this.#state;
    return state.signal ??= newSignalOf(state);
  }

  clone() {
    const state = this.#state;
    const body = bodyOf(state);
    if (body !== null && body.unusable()) throw new TypeError("Body is unusable");
    const copy = copyOf(state);
    copy.signal = createDependentAbortSignal([this.signal], "Failed to execute 'Request.clone'");
    const guard = state.headers === null ? (state.id === 0 ? "request" : "immutable") : guardFromHeaders(state.headers);
    copy.headers = headersFromHeaderList(copy.list, guard);
    if (body !== null) copy.body = body.clone();
    return fromState(copy);
  }
}

function listOf(state) {
  return state.list ??= state.id === 0 ? [] : op_request_headers(state.id);
}

function bodyOf(state) {
  if (state.hasBody) {
    state.hasBody = false;
    state.body = bodyFromRid(op_request_body(state.id));
  }
  return state.body;
}

// A signal of its own; that of a request that came in says that the client has left.
function newSignalOf(state) {
  const signal = newSignal();
  if (state.id !== 0) {
    const left = op_invocation_wait_left(state.id);
    core.unrefOpPromise(left);
    PromisePrototypeThen(left, (left) => {
      if (left) signal[signalAbort](new DOMException("The request has been cancelled.", "AbortError"));
    });
  }
  return signal;
}

// A copy without body and signal.
function copyOf(state) {
  const copy = newState(0, state.method, state.url, false);
  copy.list = copyList(listOf(state));
  copy.options = state.options;
  copy.cf = state.id !== 0 && state.cf === undefined ? JSONParse(op_request_cf(state.id)) : state.cf;
  return copy;
}

// https://fetch.spec.whatwg.org/#dom-request
function construct(input, init) {
  const prefix = "Failed to construct 'Request'";
  if (input === undefined) webidl.requiredArguments(0, 1, prefix);
  const cf = init?.cf;
  init = convertInit(init, prefix, "Argument 2");
  const from = isRequest(input) ? stateOf(input) : null;
  const state = from === null ? fromUrl(input, prefix) : copyOf(from);
  if (cf !== undefined) state.cf = cf;
  state.options = optionsFrom(init, state.options);
  if (init.method !== undefined) state.method = normalizeMethod(init.method);
  const signal = init.signal !== undefined ? init.signal : from === null ? null : input.signal;
  if (signal !== null) state.signal = createDependentAbortSignal([signal], prefix);
  if (init.headers !== undefined) {
    state.list = [];
    state.headers = headersFromHeaderList(state.list, "request");
    fillHeaders(state.headers, init.headers);
  }
  constructBody(state, from, init.body ?? null);
  return state;
}

function fromUrl(input, prefix) {
  const { href } = new URL(webidl.converters["DOMString"](input, prefix, "Argument 1"));
  return newState(0, "GET", href, false);
}

function constructBody(state, from, source) {
  const inherited = from === null ? null : bodyOf(from);
  if ((state.method === "GET" || state.method === "HEAD") && (source !== null || inherited !== null)) {
    throw new TypeError("Request with GET/HEAD method cannot have body");
  }
  if (source !== null) {
    const { body, contentType } = extractBody(source);
    state.body = body;
    if (contentType !== null) {
      const headers = state.headers ??= headersFromHeaderList(listOf(state), "request");
      if (!headers.has("content-type")) headers.append("Content-Type", contentType);
    }
  } else if (inherited !== null) {
    if (inherited.unusable()) throw new TypeError("Input request's body is unusable");
    state.body = inherited.createProxy();
  }
}

// The steps of the constructor that only set what its getters give back.
function optionsFrom(init, options) {
  const keys = ObjectKeys(init);
  let result = options;
  for (let i = 0; i < keys.length; i++) {
    const key = keys[i];
    if (!(key in DEFAULTS)) continue;
    if (result === options) result = { __proto__: null, ...options };
    result[key] = key === "referrer" ? referrerFrom(init.referrer) : init[key];
  }
  if (init.mode === "navigate") throw new TypeError("Request mode 'navigate' is not allowed");
  if (result.cache === "only-if-cached" && result.mode !== "same-origin") {
    throw new TypeError('Request cache mode "only-if-cached" can only be used with same-origin mode');
  }
  return result;
}

function referrerFrom(referrer) {
  if (referrer === "") return "";
  let url;
  try {
    url = new URL(referrer);
  } catch (cause) {
    throw new TypeError(`Referrer "${referrer}" is not a valid URL.`, { cause });
  }
  return url.protocol === "about:" && url.pathname === "client" ? "about:client" : url.href;
}

finishBodyClass(
  Request,
  (request) => bodyOf(stateOf(request)),
  (request) => listOf(stateOf(request)),
  isRequest,
  ["bodyUsed", "headers", "method", "redirect", "url"],
);

const choice = (name, values) => webidl.createEnumConverter(name, values);
const convertInit = webidl.createDictionaryConverter("RequestInit", [
  { key: "method", converter: webidl.converters["ByteString"] },
  { key: "headers", converter: webidl.converters["HeadersInit"] },
  { key: "body", converter: webidl.createNullableConverter(webidl.converters["BodyInit_DOMString"]) },
  { key: "referrer", converter: webidl.converters["USVString"] },
  {
    key: "referrerPolicy",
    converter: choice("ReferrerPolicy", [
      "", "no-referrer", "no-referrer-when-downgrade", "same-origin", "origin", "strict-origin",
      "origin-when-cross-origin", "strict-origin-when-cross-origin", "unsafe-url",
    ]),
  },
  { key: "mode", converter: choice("RequestMode", ["navigate", "same-origin", "no-cors", "cors"]) },
  { key: "credentials", converter: choice("RequestCredentials", ["omit", "same-origin", "include"]) },
  {
    key: "cache",
    converter: choice("RequestCache", [
      "default", "no-store", "reload", "no-cache", "force-cache", "only-if-cached",
    ]),
  },
  { key: "redirect", converter: choice("RequestRedirect", ["follow", "error", "manual"]) },
  { key: "integrity", converter: webidl.converters["DOMString"] },
  { key: "keepalive", converter: webidl.converters["boolean"] },
  { key: "priority", converter: choice("RequestPriority", ["auto", "low", "high"]) },
  { key: "signal", converter: webidl.createNullableConverter(webidl.converters["AbortSignal"]) },
]);

return { bodyOf, fromState, listOf, newState, Request, stateOf };
})();
