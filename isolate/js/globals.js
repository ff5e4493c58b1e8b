// What a worker finds on globalThis: the Workers platform's globals, and nothing of the machinery below.
(function () {
const { core, primordials } = __bootstrap;
const { ObjectDefineProperty, ObjectGetPrototypeOf, ObjectSetPrototypeOf, Promise, SymbolToStringTag } = primordials;
const { op_log } = core.ops;

const event = core.loadExtScript("ext:deno_web/02_event.js");
const abort = core.loadExtScript("ext:deno_web/03_abort_signal.js");
const encoding = core.loadExtScript("ext:deno_web/08_text_encoding.js");
const { URL, URLSearchParams } = core.loadExtScript("ext:deno_web/00_url.js");
const { DOMException } = core.loadExtScript("ext:deno_web/01_dom_exception.js");
const { atob, btoa } = core.loadExtScript("ext:deno_web/05_base64.js");
const { structuredClone } = core.loadExtScript("ext:deno_web/02_structured_clone.js");
const { Console, setNoColorFns } = core.loadExtScript("ext:deno_web/01_console.js");
const cryptoModule = core.loadExtScript("ext:deno_crypto/00_crypto.js");
const { Headers } = core.loadExtScript("ext:deno_fetch/20_headers.js");
const { Request } = core.loadExtScript("ext:atoll/request.js");
const { Response } = core.loadExtScript("ext:atoll/response.js");
const invocation = core.loadExtScript("ext:atoll/invocation.js");
const { fetch } = core.loadExtScript("ext:atoll/fetch.js");
const events = core.loadExtScript("ext:atoll/events.js");
const { defineLate } = core.loadExtScript("ext:atoll/late.js");
const extras = core.loadExtScript("ext:atoll/extras.js");
core.loadExtScript("ext:atoll/crypto.js");

// Lines go to logs and tails, which bring their own colours.
setNoColorFns(() => true, () => true);
const console = new Console((message, level) => {
  op_log(invocation.currentInvocation()?.id ?? 0, level, message);
});

class Navigator {
  get userAgent() {
    return "Cloudflare-Workers";
  }
  get language() {
    return "en";
  }
}

class Scheduler {
  wait(delay, options = undefined) {
    return new Promise((resolve, reject) => {
      const signal = options?.signal;
      if (signal?.aborted) return reject(signal.reason);
      const id = invocation.setTimeout(resolve, delay);
      signal?.addEventListener("abort", () => {
        invocation.clearTimeout(id);
        reject(signal.reason);
      });
    });
  }
}

class WorkerGlobalScope extends event.EventTarget {
  get [SymbolToStringTag]() {
    return "ServiceWorkerGlobalScope";
  }
}

const hidden = {
  Event: event.Event,
  EventTarget: event.EventTarget,
  CustomEvent: event.CustomEvent,
  MessageEvent: event.MessageEvent,
  CloseEvent: event.CloseEvent,
  ErrorEvent: event.ErrorEvent,
  PromiseRejectionEvent: event.PromiseRejectionEvent,
  ExtendableEvent: events.ExtendableEvent,
  FetchEvent: events.FetchEvent,
  ScheduledEvent: events.ScheduledEvent,
  AbortController: abort.AbortController,
  AbortSignal: abort.AbortSignal,
  TextDecoder: encoding.TextDecoder,
  TextDecoderStream: encoding.TextDecoderStream,
  TextEncoder: encoding.TextEncoder,
  TextEncoderStream: encoding.TextEncoderStream,
  URL,
  URLSearchParams,
  DOMException,
  Headers,
  Request,
  Response,
  Crypto: cryptoModule.Crypto,
  CryptoKey: cryptoModule.CryptoKey,
  SubtleCrypto: cryptoModule.SubtleCrypto,
  Navigator,
  WorkerGlobalScope,
  ServiceWorkerGlobalScope: WorkerGlobalScope,
};

const visible = {
  console,
  fetch,
  atob,
  btoa,
  structuredClone,
  setTimeout: invocation.setTimeout,
  setInterval: invocation.setInterval,
  clearTimeout: invocation.clearTimeout,
  clearInterval: invocation.clearInterval,
  addEventListener: events.addEventListener,
  removeEventListener: events.removeEventListener,
  dispatchEvent: events.dispatchEvent,
  reportError: extras.reportError,
  navigator: new Navigator(),
  scheduler: new Scheduler(),
};

// Globals that load the script that they come from when they are first read.
const late = {
  __proto__: null,
  "ext:deno_web/06_streams.js": [
    "ByteLengthQueuingStrategy", "CountQueuingStrategy", "ReadableByteStreamController", "ReadableStream",
    "ReadableStreamBYOBReader", "ReadableStreamBYOBRequest", "ReadableStreamDefaultController",
    "ReadableStreamDefaultReader", "TransformStream", "TransformStreamDefaultController", "WritableStream",
    "WritableStreamDefaultController", "WritableStreamDefaultWriter",
  ],
  "ext:atoll/stream_classes.js": ["FixedLengthStream", "IdentityTransformStream"],
  "ext:atoll/websocket.js": ["WebSocket", "WebSocketPair"],
  "ext:atoll/compression.js": ["CompressionStream", "DecompressionStream"],
  "ext:deno_web/01_urlpattern.js": ["URLPattern"],
  "ext:deno_web/09_file.js": ["Blob", "File"],
  "ext:deno_fetch/21_formdata.js": ["FormData"],
  "ext:deno_web/13_message_port.js": ["MessageChannel", "MessagePort"],
  "ext:atoll/performance.js": ["Performance", "performance"],
};

// Those of them that a worker sees when it lists its globals.
const LATE_VISIBLE = { __proto__: null, performance: 1 };

// No shared memory: a thread that counts would be a clock, and a promise that waits for memory outlives its
// invocation. There is nobody to share with either.
const removeSharedMemory = (function () {
  const { Atomics, SharedArrayBuffer } = globalThis;
  delete SharedArrayBuffer.prototype.constructor;
  delete globalThis.SharedArrayBuffer;
  delete Atomics.wait;
  delete Atomics.waitAsync;
});

const installGlobals = (function () {
  removeSharedMemory();
  for (const name in hidden) {
    ObjectDefineProperty(globalThis, name, {
      __proto__: null, value: hidden[name], writable: true, enumerable: false, configurable: true,
    });
  }
  for (const name in visible) {
    ObjectDefineProperty(globalThis, name, {
      __proto__: null, value: visible[name], writable: true, enumerable: true, configurable: true,
    });
  }
  for (const script in late) {
    const names = late[script];
    for (let i = 0; i < names.length; i++) defineLate(globalThis, names[i], script, names[i] in LATE_VISIBLE);
  }
  ObjectDefineProperty(globalThis, "crypto", {
    __proto__: null, get: () => cryptoModule.crypto, enumerable: true, configurable: true,
  });
  ObjectDefineProperty(globalThis, "self", {
    __proto__: null, value: globalThis, writable: true, enumerable: true, configurable: true,
  });
  const prototype = ObjectGetPrototypeOf(globalThis);
  ObjectSetPrototypeOf(prototype, WorkerGlobalScope.prototype);
});

return { console, installGlobals };
})();
