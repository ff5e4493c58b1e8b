// WebSocket and WebSocketPair as the Workers platform has them. A socket is an end of a pair of queues in Rust, known
// by two numbers; what speaks the protocol is the host, or the worker at the other end.
// Loaded late.
// https://websockets.spec.whatwg.org/
(function () {
const { core, primordials } = __bootstrap;
const {
  op_fetch_hop,
  op_socket_accept,
  op_socket_close,
  op_socket_next,
  op_socket_over,
  op_socket_pair,
  op_socket_send,
  op_socket_send_bytes,
} = core.ops;
const {
  ArrayIsArray,
  ArrayPrototypeIncludes,
  ArrayPrototypeJoin,
  ArrayPrototypePush,
  ObjectDefineProperties,
  ReflectApply,
  RegExpPrototypeExec,
  SafeArrayIterator,
  String,
  StringPrototypeSlice,
  SymbolIterator,
  SymbolToStringTag,
  TypedArrayPrototypeGetBuffer,
  TypedArrayPrototypeGetByteLength,
  TypeError,
} = primordials;
const { URL } = core.loadExtScript("ext:deno_web/00_url.js");
const { HTTP_TOKEN_CODE_POINT_RE, byteLowerCase } = core.loadExtScript("ext:deno_web/00_infra.js");
const { DOMException } = core.loadExtScript("ext:deno_web/01_dom_exception.js");
const { CloseEvent, defineEventHandler, ErrorEvent, Event, EventTarget, MessageEvent, setIsTrusted } = core
  .loadExtScript("ext:deno_web/02_event.js");
const { requireInvocation } = core.loadExtScript("ext:atoll/invocation.js");
const { NO_RESOURCE } = core.loadExtScript("ext:atoll/body.js");
const { INTERNET_RAW, NO_SOCKET } = core.loadExtScript("ext:atoll/fetch.js");
const { bytesOf, isBytes } = core.loadExtScript("ext:atoll/bytes.js");
const { dispatchEvent } = EventTarget.prototype;

const CONNECTING = 0;
const OPEN = 1;
const CLOSING = 2;
const CLOSED = 3;
const NO_CODE = 1005;
const ABNORMAL = 1006;
const REASON_BYTES_MAX = 123;

// The numbers of the socket that is being made, when it is not one that a worker asked for.
let given = null;
let stateOf, isWebSocket;

class WebSocket extends EventTarget {
  // `index` is there once there is a connection. `used` says that the end went away in a response.
  #state = {
    owner: 0, index: NO_SOCKET, readyState: CONNECTING, accepted: false, used: false, closeSent: false,
    binaryType: "arraybuffer", url: null, protocol: "", cancel: 0,
  };

  static {
    stateOf = (socket) => socket.#state;
    isWebSocket = (value) => typeof value === "object" && value !== null && #state in value;
  }

  constructor(url, protocols = undefined) {
    super();
    const state = this.#state;
    if (given !== null) {
      state.owner = given.owner;
      state.index = given.index;
      state.protocol = given.protocol;
      state.readyState = OPEN;
      return;
    }
    if (arguments.length === 0) throw new TypeError("Failed to construct 'WebSocket': 1 argument required, but only 0 present.");
    const target = targetOf(url);
    const asked = protocolsOf(protocols);
    state.owner = requireInvocation("new WebSocket()");
    state.url = target.shown;
    connect(this, state, target.sent, asked);
  }

  accept(_options = undefined) {
    const state = this.#state;
    if (state.url !== null) throw new TypeError("Websockets obtained from the 'new WebSocket()' constructor cannot call accept.");
    if (state.used) throw new TypeError("Can't accept() WebSocket that was already used in a response.");
    if (state.accepted) return;
    requireInvocation("accept()");
    begin(this, state);
  }

  send(message) {
    const state = this.#state;
    if (arguments.length === 0) throw new TypeError("Failed to execute 'send' on 'WebSocket': 1 argument required, but only 0 present.");
    if (state.readyState === CONNECTING) {
      throw new DOMException("The WebSocket is still connecting: wait for its open event.", "InvalidStateError");
    }
    if (!state.accepted) throw new TypeError("You must call accept() on this WebSocket before sending messages.");
    if (state.closeSent) throw new TypeError("Can't call WebSocket send() after close().");
    if (state.readyState === CLOSED) return;
    if (typeof message === "string") {
      op_socket_send(state.owner, state.index, message);
    } else if (isBytes(message)) {
      op_socket_send_bytes(state.owner, state.index, bytesOf(message));
    } else {
      op_socket_send(state.owner, state.index, String(message));
    }
  }

  close(code = undefined, reason = undefined) {
    const state = this.#state;
    const close = closeOf(code, reason);
    if (state.closeSent || state.readyState === CLOSED) return;
    if (state.readyState === CONNECTING) {
      state.closeSent = true;
      state.readyState = CLOSING;
      core.tryClose(state.cancel);
      return;
    }
    if (!state.accepted) throw new TypeError("You must call accept() on this WebSocket before sending messages.");
    state.closeSent = true;
    state.readyState = CLOSING;
    op_socket_close(state.owner, state.index, close.code, close.reason);
  }

  get readyState() {
    return this.#state.readyState;
  }

  get url() {
    return this.#state.url;
  }

  get protocol() {
    return this.#state.protocol;
  }

  get extensions() {
    return "";
  }

  get binaryType() {
    return this.#state.binaryType;
  }

  set binaryType(value) {
    if (value === "arraybuffer" || value === "blob") this.#state.binaryType = value;
  }

  get [SymbolToStringTag]() {
    return "WebSocket";
  }
}

for (const name of new SafeArrayIterator(["open", "message", "close", "error"])) defineEventHandler(WebSocket.prototype, name);

const constant = (value) => ({ __proto__: null, value, enumerable: true });
const CONSTANTS = {
  __proto__: null,
  CONNECTING: constant(CONNECTING), OPEN: constant(OPEN), CLOSING: constant(CLOSING), CLOSED: constant(CLOSED),
  READY_STATE_CONNECTING: constant(CONNECTING), READY_STATE_OPEN: constant(OPEN),
  READY_STATE_CLOSING: constant(CLOSING), READY_STATE_CLOSED: constant(CLOSED),
};
ObjectDefineProperties(WebSocket, CONSTANTS);
ObjectDefineProperties(WebSocket.prototype, CONSTANTS);

class WebSocketPair {
  constructor() {
    const owner = requireInvocation("new WebSocketPair()");
    const first = op_socket_pair(owner);
    this[0] = socketFrom(owner, first, "");
    this[1] = socketFrom(owner, first + 1, "");
  }

  *[SymbolIterator]() {
    yield this[0];
    yield this[1];
  }
}

function socketFrom(owner, index, protocol) {
  given = { owner, index, protocol };
  const socket = new WebSocket();
  given = null;
  return socket;
}

function syntaxError(message) {
  return new DOMException(message, "SyntaxError");
}

// https://websockets.spec.whatwg.org/#dom-websocket-websocket
function targetOf(input) {
  let url;
  try {
    url = new URL(input);
  } catch {
    throw syntaxError(`WebSocket Constructor: The url is invalid: "${input}".`);
  }
  const { protocol } = url;
  const plain = protocol === "ws:" || protocol === "http:";
  if (!plain && protocol !== "wss:" && protocol !== "https:") {
    throw syntaxError(`WebSocket Constructor: The url scheme must be ws, wss, http or https, and is "${protocol}".`);
  }
  if (url.hash !== "") throw syntaxError("WebSocket Constructor: The url fragment must be empty.");
  const rest = StringPrototypeSlice(url.href, protocol.length);
  return { sent: (plain ? "http:" : "https:") + rest, shown: (plain ? "ws:" : "wss:") + rest };
}

function protocolsOf(protocols) {
  if (protocols === undefined) return [];
  const asked = [];
  const list = ArrayIsArray(protocols) ? protocols : [protocols];
  for (let i = 0; i < list.length; i++) {
    const protocol = String(list[i]);
    if (RegExpPrototypeExec(HTTP_TOKEN_CODE_POINT_RE, protocol) === null) {
      throw syntaxError(`WebSocket Constructor: "${protocol}" is no protocol.`);
    }
    if (ArrayPrototypeIncludes(asked, protocol)) {
      throw syntaxError(`WebSocket Constructor: the protocol "${protocol}" stands twice.`);
    }
    ArrayPrototypePush(asked, protocol);
  }
  return asked;
}

function closeOf(code, reason) {
  if (code === undefined) {
    if (reason !== undefined) {
      throw new TypeError("If you specify a WebSocket close reason, you must also specify a code.");
    }
    return { code: NO_CODE, reason: "" };
  }
  const number = +code;
  const allowed = number >= 1000 && number < 5000 && number % 1 === 0 && number !== 1004 && number !== 1005 &&
    number !== 1006 && number !== 1015;
  if (!allowed) throw new TypeError(`Invalid WebSocket close code: ${String(code)}.`);
  const text = reason === undefined ? "" : String(reason);
  if (TypedArrayPrototypeGetByteLength(core.encode(text)) > REASON_BYTES_MAX) {
    throw syntaxError(`A WebSocket close reason may have ${REASON_BYTES_MAX} bytes at most.`);
  }
  return { code: number, reason: text };
}

function dispatch(socket, event) {
  setIsTrusted(event, true);
  ReflectApply(dispatchEvent, socket, [event]);
}

// From here on messages are events of the invocation that this runs in.
function begin(socket, state) {
  state.accepted = true;
  op_socket_accept(state.owner, state.index);
  receive(socket, state);
}

async function receive(socket, state) {
  for (;;) {
    let message;
    try {
      message = await op_socket_next(state.owner, state.index);
    } catch {
      // The invocation has ended, and with it the socket.
      return;
    }
    if (message === null) return;
    if (message.code !== null) return closed(socket, state, message);
    if (state.readyState === CLOSED) continue;
    dispatch(socket, new MessageEvent("message", { __proto__: null, data: dataOf(state, message) }));
  }
}

function dataOf(state, message) {
  if (message.text !== null) return message.text;
  if (state.binaryType === "blob") {
    const { Blob } = core.loadExtScript("ext:deno_web/09_file.js");
    return new Blob([message.bytes]);
  }
  return TypedArrayPrototypeGetBuffer(message.bytes);
}

function closed(socket, state, { code, reason, clean }) {
  state.readyState = CLOSED;
  // The answer to a close; nothing if this end closed first.
  if (clean) op_socket_close(state.owner, state.index, code, reason);
  if (!clean && code !== ABNORMAL) dispatch(socket, new ErrorEvent("error", { __proto__: null, message: reason }));
  dispatch(socket, new CloseEvent("close", { __proto__: null, code, reason, wasClean: clean }));
  op_socket_over(state.owner, state.index);
}

function failed(socket, state, message) {
  state.readyState = CLOSED;
  dispatch(socket, new ErrorEvent("error", { __proto__: null, message }));
  dispatch(socket, new CloseEvent("close", { __proto__: null, code: ABNORMAL, reason: message, wasClean: false }));
}

function headerOf(list, name) {
  for (let i = 0; i < list.length; i++) {
    if (byteLowerCase(list[i][0]) === name) return list[i][1];
  }
  return "";
}

async function connect(socket, state, url, asked) {
  const headers = [["Upgrade", "websocket"]];
  if (asked.length > 0) ArrayPrototypePush(headers, ["Sec-WebSocket-Protocol", ArrayPrototypeJoin(asked, ", ")]);
  state.cancel = core.createCancelHandle();
  let result;
  try {
    result = await op_fetch_hop(state.owner, INTERNET_RAW, "GET", url, headers, null, NO_RESOURCE, state.cancel);
  } catch (error) {
    return failed(socket, state, `Failed to establish the WebSocket connection: ${error.message}`);
  } finally {
    core.tryClose(state.cancel);
  }
  core.tryClose(result.rid);
  if (result.socket === NO_SOCKET) {
    return failed(
      socket, state,
      `Failed to establish the WebSocket connection: expected server to reply with HTTP status code 101 (switching protocols), but received ${result.status} instead.`,
    );
  }
  state.index = result.socket;
  const protocol = headerOf(result.headers, "sec-websocket-protocol");
  if (protocol !== "" && !ArrayPrototypeIncludes(asked, protocol)) {
    op_socket_close(state.owner, state.index, 1002, "");
    return failed(socket, state, `The server chose the protocol "${protocol}", which was not asked for.`);
  }
  if (state.closeSent) {
    op_socket_close(state.owner, state.index, 1000, "");
    return failed(socket, state, "The WebSocket was closed before it was connected.");
  }
  state.protocol = protocol;
  state.readyState = OPEN;
  state.accepted = true;
  dispatch(socket, new Event("open"));
  begin(socket, state);
}

// Takes a socket for a response. Gives its numbers.
function takeSocket(socket) {
  const state = stateOf(socket);
  if (state.accepted) throw new TypeError("Can't return WebSocket in a Response after calling accept().");
  if (state.used) throw new TypeError("Can't return WebSocket that was already used in a response.");
  state.used = true;
  state.readyState = CLOSED;
  return state;
}

return { headerOf, isWebSocket, socketFrom, takeSocket, WebSocket, WebSocketPair };
})();
