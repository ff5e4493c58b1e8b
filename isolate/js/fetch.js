// fetch(): the WHATWG algorithm around one op per hop. Redirects are followed here, so that every hop
// passes the host's gate again.
(function () {
const { core, primordials } = __bootstrap;
const { op_fetch_hop } = core.ops;
const {
  ArrayPrototypeFilter,
  ArrayPrototypePush,
  ArrayPrototypeSome,
  Promise,
  PromisePrototypeThen,
  PromiseReject,
  StringPrototypeStartsWith,
  TypeError,
} = primordials;
const { byteLowerCase } = core.loadExtScript("ext:deno_web/00_infra.js");
const { URL } = core.loadExtScript("ext:deno_web/00_url.js");
const abortSignal = core.loadExtScript("ext:deno_web/03_abort_signal.js");
const request = core.loadExtScript("ext:atoll/request.js");
const { nullBodyStatus, redirectStatus, Response, stateOf } = core.loadExtScript("ext:atoll/response.js");
const { bodyFromRid, extractBody, NO_RESOURCE, takeBody, toBytes } = core.loadExtScript("ext:atoll/body.js");
const { requireInvocation } = core.loadExtScript("ext:atoll/invocation.js");

const REDIRECTS_MAX = 20;
// What op_fetch_hop takes for "via": the internet with the body decoded, the same with the body as it
// comes, or the capability number of a service binding.
const INTERNET = -1;
const INTERNET_RAW = -2;
// What it gives for a response without a socket.
const NO_SOCKET = -1;
const BODY_HEADERS = { __proto__: null, "content-encoding": 1, "content-language": 1, "content-location": 1, "content-type": 1, "content-length": 1 };
const ORIGIN_HEADERS = { __proto__: null, "authorization": 1, "proxy-authorization": 1, "cookie": 1, "host": 1 };

function withoutHeaders(list, names) {
  return ArrayPrototypeFilter(list, (header) => !(byteLowerCase(header[0]) in names));
}

// A body that is not a stream, as bytes.
function bytesToSend(body) {
  return body === null || typeof body === "number" ? null : toBytes(body);
}

function hasHeader(list, name) {
  return ArrayPrototypeSome(list, (header) => byteLowerCase(header[0]) === name);
}

// https://fetch.spec.whatwg.org/#http-redirect-fetch
function redirected(hop, status, location) {
  const current = new URL(hop.url);
  const next = new URL(location, current);
  if (next.protocol !== "http:" && next.protocol !== "https:") {
    throw new TypeError(`Redirect to a URL with the scheme ${next.protocol} is not followed`);
  }
  if (next.hash === "") next.hash = current.hash;
  if (status !== 303 && hop.streaming) {
    throw new TypeError("A request whose body is a stream cannot be redirected: buffer the body, or use redirect: \"manual\"");
  }
  const toGet = ((status === 301 || status === 302) && hop.method === "POST") ||
    (status === 303 && hop.method !== "GET" && hop.method !== "HEAD");
  if (toGet) {
    hop.method = "GET";
    hop.body = null;
    hop.streaming = false;
    hop.headers = withoutHeaders(hop.headers, BODY_HEADERS);
  }
  if (next.origin !== current.origin) hop.headers = withoutHeaders(hop.headers, ORIGIN_HEADERS);
  hop.url = next.href;
  return hop;
}

function responseFrom(invocation, result, urls, signal) {
  const response = new Response();
  const state = stateOf(response);
  state.status = result.status;
  state.statusText = result.statusText;
  state.type = "basic";
  state.guard = "immutable";
  state.urls = urls;
  state.list = result.headers;
  state.decoded = result.decoded;
  if (result.socket !== NO_SOCKET) {
    const { headerOf, socketFrom } = core.loadExtScript("ext:atoll/websocket.js");
    state.webSocket = socketFrom(invocation, result.socket, headerOf(result.headers, "sec-websocket-protocol"));
  }
  if (result.rid !== 0 && !nullBodyStatus(result.status)) {
    const body = bodyFromRid(result.rid);
    signal[abortSignal.add](() => body.fail(signal.reason));
    state.body = body;
  } else if (result.rid !== 0) {
    core.tryClose(result.rid);
  }
  return response;
}

async function follow(state, signal, via) {
  const invocation = requireInvocation("fetch()");
  let source = null;
  let body = null;
  const given = request.bodyOf(state);
  if (given !== null) {
    source = given.source;
    body = takeBody(given);
  }
  const { redirect: redirectMode } = state.options;
  let hop = {
    method: state.method,
    url: state.url,
    headers: request.listOf(state),
    body,
    streaming: typeof body === "number",
  };
  const urls = [hop.url];
  for (let count = 0;; count++) {
    if (via === INTERNET && !StringPrototypeStartsWith(hop.url, "http:") && !StringPrototypeStartsWith(hop.url, "https:")) {
      throw new TypeError(`Fetch API cannot load: ${hop.url}`);
    }
    const cancel = core.createCancelHandle();
    const onAbort = () => core.tryClose(cancel);
    signal[abortSignal.add](onAbort);
    let result;
    try {
      result = await op_fetch_hop(
        invocation,
        via === INTERNET && hasHeader(hop.headers, "accept-encoding") ? INTERNET_RAW : via,
        hop.method,
        hop.url,
        hop.headers,
        bytesToSend(hop.body),
        typeof hop.body === "number" ? hop.body : NO_RESOURCE,
        cancel,
      );
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      throw error;
    } finally {
      signal[abortSignal.remove](onAbort);
      core.tryClose(cancel);
    }
    const redirect = redirectStatus(result.status) ? result.location : null;
    if (redirect === null || redirectMode === "manual" || via !== INTERNET) {
      return responseFrom(invocation, result, urls, signal);
    }
    core.tryClose(result.rid);
    if (redirectMode === "error") {
      throw new TypeError(`${hop.url} redirects, and the request has redirect: "error"`);
    }
    if (count === REDIRECTS_MAX) {
      throw new TypeError(`Too many redirects: more than ${REDIRECTS_MAX}, last to ${hop.url}`);
    }
    hop = redirected(hop, result.status, redirect);
    if (hop.body !== null && !hop.streaming && source !== null) {
      hop.body = takeBody(extractBody(source).body);
    }
    ArrayPrototypePush(urls, hop.url);
  }
}

function send(input, init, via) {
  let state, signal;
  try {
    const sent = new request.Request(input, init);
    state = request.stateOf(sent);
    signal = sent.signal;
    if (signal.aborted) return PromiseReject(signal.reason);
  } catch (error) {
    return PromiseReject(error);
  }
  return new Promise((resolve, reject) => {
    const onAbort = () => reject(signal.reason);
    signal[abortSignal.add](onAbort);
    PromisePrototypeThen(follow(state, signal, via), resolve, reject);
  });
}

function fetch(input, init = undefined) {
  return send(input, init, INTERNET);
}

// env.NAME of a service binding.
class Fetcher {
  #via;
  constructor(via) {
    this.#via = via;
  }
  fetch(input, init = undefined) {
    return send(input, init, this.#via);
  }
}

return { fetch, Fetcher, INTERNET_RAW, NO_SOCKET };
})();
