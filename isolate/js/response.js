// The Response class of the Fetch standard, made so that a handler's usual answer, a string or JSON, costs one
// object and one literal: parts that nobody asks for are never made.
// https://fetch.spec.whatwg.org/#response-class
(function () {
const { core, primordials } = __bootstrap;
const {
  ArrayPrototypeFilter,
  ArrayPrototypePush,
  ArrayPrototypeSlice,
  ObjectDefineProperties,
  RangeError,
  RegExpPrototypeExec,
  SafeRegExp,
  TypeError,
} = primordials;
const webidl = core.loadExtScript("ext:deno_webidl/00_webidl.js");
const { byteLowerCase, serializeJSValueToJSONString } = core.loadExtScript("ext:deno_web/00_infra.js");
const { URL } = core.loadExtScript("ext:deno_web/00_url.js");
const { fillHeaderList, guardFromHeaders, headersFromHeaderList } = core.loadExtScript(
  "ext:deno_fetch/20_headers.js",
);
const { bodyFromData, extractBody } = core.loadExtScript("ext:atoll/body.js");
const { ifLoaded } = core.loadExtScript("ext:atoll/late.js");
const { copyList, finishBodyClass } = core.loadExtScript("ext:atoll/body_class.js");

const convertBody = webidl.converters["BodyInit_DOMString?"];
const convertUrl = webidl.converters["USVString"];
const convertStatus = webidl.converters["unsigned short"];
const convertStatusText = webidl.converters["ByteString"];
const convertAny = webidl.converters["any"];

// The content type that a body brings: what op_respond takes in place of a header list when nothing else is in it.
const UNTYPED = 0;
const TEXT = 1;
const JSON_TEXT = 2;
const CONTENT_TYPES = [null, "text/plain;charset=UTF-8", "application/json"];

const REASON_PHRASE = new SafeRegExp("^[\t \x21-\x7E\x80-\xFF]*$");
const NAMES_OF_ENCODED_BODY = { __proto__: null, "content-encoding": 1, "content-length": 1, "transfer-encoding": 1 };

function nullBodyStatus(status) {
  return status === 101 || status === 204 || status === 205 || status === 304;
}

function redirectStatus(status) {
  return status === 301 || status === 302 || status === 303 || status === 307 || status === 308;
}

function checkStatus(status, statusText) {
  if ((status < 200 || status > 599) && status !== 101) {
    throw new RangeError(`The status provided (${status}) is not equal to 101 and outside the range [200, 599]`);
  }
  if (statusText !== "" && RegExpPrototypeExec(REASON_PHRASE, statusText) === null) {
    throw new TypeError(`Invalid status text: "${statusText}"`);
  }
}

function hasContentType(list) {
  for (let i = 0; i < list.length; i++) {
    if (byteLowerCase(list[i][0]) === "content-type") return true;
  }
  return false;
}

let stateOf, isResponse;

class Response {
  // The body is `text` until somebody wants more than to send it, then `body`. Headers are what `typed` says until
  // somebody looks at them, then in `list`.
  #state = {
    text: null, typed: UNTYPED, status: 200, body: null, used: false, list: null, headers: null, statusText: "",
    type: "default", guard: "response", urls: null, decoded: false, webSocket: null,
  };

  static {
    stateOf = (response) => response.#state;
    isResponse = (value) => typeof value === "object" && value !== null && #state in value;
  }

  constructor(body = null, init = undefined) {
    if (body === null && init === undefined) return;
    const state = this.#state;
    if (typeof body === "string" && init === undefined) {
      state.text = body;
      state.typed = TEXT;
      return;
    }
    const prefix = "Failed to construct 'Response'";
    body = convertBody(body, prefix, "Argument 1");
    if (init !== undefined && init !== null) initialize(state, init, prefix);
    if (body !== null) setBody(state, body);
  }

  static error() {
    const response = new Response();
    const state = response.#state;
    state.status = 0;
    state.type = "error";
    state.guard = "immutable";
    return response;
  }

  static redirect(url, status = 302) {
    const prefix = "Failed to execute 'Response.redirect'";
    url = convertUrl(url, prefix, "Argument 1");
    status = convertStatus(status, prefix, "Argument 2");
    const { href } = new URL(url);
    if (!redirectStatus(status)) throw new RangeError(`Invalid redirect status code: ${status}`);
    const response = new Response();
    const state = response.#state;
    state.status = status;
    state.guard = "immutable";
    state.list = [["Location", href]];
    return response;
  }

  static json(data = undefined, init = undefined) {
    const text = serializeJSValueToJSONString(convertAny(data));
    const response = new Response();
    const state = response.#state;
    if (init !== undefined && init !== null) initialize(state, init, "Failed to execute 'Response.json'");
    setText(state, text, JSON_TEXT);
    return response;
  }

  get type() {
    return this.#state.type;
  }

  get url() {
    const { urls } = this.#state;
    if (urls === null) return "";
    const url = new URL(urls[urls.length - 1]);
    url.hash = "";
    return url.href;
  }

  get redirected() {
    const { urls } = this.#state;
    return urls !== null && urls.length > 1;
  }

  get status() {
    return this.#state.status;
  }

  get ok() {
    const { status } = this.#state;
    return status >= 200 && status <= 299;
  }

  get statusText() {
    return this.#state.statusText;
  }

  get headers() {
    const state = this.#state;
    return state.headers ??= headersFromHeaderList(listOf(state), state.guard);
  }

  get webSocket() {
    return this.#state.webSocket;
  }

  clone() {
    const state = this.#state;
    if (state.webSocket !== null) throw new TypeError("Cannot clone a response to a WebSocket handshake.");
    const body = bodyOf(state);
    if (body !== null && body.unusable()) throw new TypeError("Body is unusable");
    const response = new Response();
    const copy = response.#state;
    copy.status = state.status;
    copy.statusText = state.statusText;
    copy.type = state.type;
    copy.guard = state.headers === null ? state.guard : guardFromHeaders(state.headers);
    copy.urls = state.urls === null ? null : ArrayPrototypeSlice(state.urls);
    copy.decoded = state.decoded;
    copy.list = copyList(listOf(state));
    if (body !== null) copy.body = body.clone();
    return response;
  }
}

// https://fetch.spec.whatwg.org/#initialize-a-response, but for the body
function initialize(state, init, prefix) {
  if (typeof init !== "object" && typeof init !== "function") {
    throw new TypeError(`${prefix}: Argument 2 can not be converted to a dictionary`);
  }
  const { headers, status, statusText, webSocket } = init;
  if (status !== undefined) state.status = convertStatus(status, prefix, "'status' of 'ResponseInit'");
  if (statusText !== undefined) {
    state.statusText = convertStatusText(statusText, prefix, "'statusText' of 'ResponseInit'");
  }
  checkStatus(state.status, state.statusText);
  if (webSocket !== undefined && webSocket !== null) setWebSocket(state, webSocket, prefix);
  if (headers !== undefined) {
    state.list = [];
    fillHeaderList(state.list, headers, prefix, "'headers' of 'ResponseInit'");
  }
}

function setWebSocket(state, webSocket, prefix) {
  if (!ifLoaded("ext:atoll/websocket.js")?.isWebSocket(webSocket)) throw new TypeError(`${prefix}: 'webSocket' of 'ResponseInit' is not a WebSocket`);
  if (state.status !== 101) throw new RangeError("Responses with a WebSocket must have status code 101.");
  state.webSocket = webSocket;
}

function setBody(state, source) {
  if (typeof source === "string") return setText(state, source, TEXT);
  checkTakesBody(state);
  const { body, contentType } = extractBody(source);
  state.body = body;
  if (contentType !== null) addContentType(state, contentType);
}

function setText(state, text, typed) {
  checkTakesBody(state);
  state.text = text;
  if (state.list === null) state.typed = typed;
  else addContentType(state, CONTENT_TYPES[typed]);
}

function checkTakesBody(state) {
  if (nullBodyStatus(state.status)) throw new TypeError("Response with null body status cannot have body");
}

function addContentType(state, contentType) {
  const list = state.list ??= [];
  if (!hasContentType(list)) ArrayPrototypePush(list, ["Content-Type", contentType]);
}

// The header list, made from what is known if nobody has looked at it before.
function listOf(state) {
  if (state.list === null) {
    state.list = state.typed === UNTYPED ? [] : [["Content-Type", CONTENT_TYPES[state.typed]]];
    state.typed = UNTYPED;
  }
  return state.list;
}

function bodyOf(state) {
  if (state.text !== null) {
    state.body = bodyFromData(state.text, state.used);
    state.text = null;
  }
  return state.body;
}

// The headers as they are to be sent: those of an encoded body are not sent with the decoded one.
function sentList(state) {
  const list = listOf(state);
  if (!state.decoded) return list;
  return ArrayPrototypeFilter(list, (header) => !(byteLowerCase(header[0]) in NAMES_OF_ENCODED_BODY));
}

finishBodyClass(
  Response,
  (response) => bodyOf(stateOf(response)),
  (response) => listOf(stateOf(response)),
  isResponse,
  ["body", "bodyUsed", "headers", "ok", "redirected", "status", "statusText", "url"],
);
ObjectDefineProperties(Response, {
  json: { __proto__: null, enumerable: true },
  redirect: { __proto__: null, enumerable: true },
  error: { __proto__: null, enumerable: true },
});

return { bodyOf, isResponse, nullBodyStatus, redirectStatus, Response, sentList, stateOf, TEXT };
})();
