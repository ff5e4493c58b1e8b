// What a worker finds on globalThis: the Workers platform's globals, and nothing of the machinery below.
(function () {
const { core, primordials } = __bootstrap;
const { ObjectDefineProperty, ObjectGetPrototypeOf, ObjectSetPrototypeOf, Promise, SymbolToStringTag } = primordials;
const { op_log } = core.ops;

const event = core.loadExtScript("ext:deno_web/02_event.js");
const abort = core.loadExtScript("ext:deno_web/03_abort_signal.js");
const streams = core.loadExtScript("ext:deno_web/06_streams.js");
const encoding = core.loadExtScript("ext:deno_web/08_text_encoding.js");
const file = core.loadExtScript("ext:deno_web/09_file.js");
const compression = core.loadExtScript("ext:deno_web/14_compression.js");
const performanceModule = core.loadExtScript("ext:deno_web/15_performance.js");
const messagePort = core.loadExtScript("ext:deno_web/13_message_port.js");
const { URL, URLSearchParams } = core.loadExtScript("ext:deno_web/00_url.js");
const { URLPattern } = core.loadExtScript("ext:deno_web/01_urlpattern.js");
const { DOMException } = core.loadExtScript("ext:deno_web/01_dom_exception.js");
const { atob, btoa } = core.loadExtScript("ext:deno_web/05_base64.js");
const { structuredClone } = core.loadExtScript("ext:deno_web/02_structured_clone.js");
const { Console, setNoColorFns } = core.loadExtScript("ext:deno_web/01_console.js");
const cryptoModule = core.loadExtScript("ext:deno_crypto/00_crypto.js");
const { Headers } = core.loadExtScript("ext:deno_fetch/20_headers.js");
const { FormData } = core.loadExtScript("ext:deno_fetch/21_formdata.js");
const { Request } = core.loadExtScript("ext:atoll/request.js");
const { Response } = core.loadExtScript("ext:atoll/response.js");
const invocation = core.loadExtScript("ext:atoll/invocation.js");
const { fetch } = core.loadExtScript("ext:atoll/fetch.js");
const events = core.loadExtScript("ext:atoll/events.js");
const { WebSocket, WebSocketPair } = core.loadExtScript("ext:atoll/websocket.js");
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
  WebSocket,
  WebSocketPair,
  AbortController: abort.AbortController,
  AbortSignal: abort.AbortSignal,
  ByteLengthQueuingStrategy: streams.ByteLengthQueuingStrategy,
  CountQueuingStrategy: streams.CountQueuingStrategy,
  ReadableByteStreamController: streams.ReadableByteStreamController,
  ReadableStream: streams.ReadableStream,
  ReadableStreamBYOBReader: streams.ReadableStreamBYOBReader,
  ReadableStreamBYOBRequest: streams.ReadableStreamBYOBRequest,
  ReadableStreamDefaultController: streams.ReadableStreamDefaultController,
  ReadableStreamDefaultReader: streams.ReadableStreamDefaultReader,
  TransformStream: streams.TransformStream,
  TransformStreamDefaultController: streams.TransformStreamDefaultController,
  WritableStream: streams.WritableStream,
  WritableStreamDefaultController: streams.WritableStreamDefaultController,
  WritableStreamDefaultWriter: streams.WritableStreamDefaultWriter,
  IdentityTransformStream: extras.IdentityTransformStream,
  FixedLengthStream: extras.FixedLengthStream,
  CompressionStream: compression.CompressionStream,
  DecompressionStream: compression.DecompressionStream,
  TextDecoder: encoding.TextDecoder,
  TextDecoderStream: encoding.TextDecoderStream,
  TextEncoder: encoding.TextEncoder,
  TextEncoderStream: encoding.TextEncoderStream,
  Blob: file.Blob,
  File: file.File,
  URL,
  URLSearchParams,
  URLPattern,
  DOMException,
  Headers,
  FormData,
  Request,
  Response,
  MessageChannel: messagePort.MessageChannel,
  MessagePort: messagePort.MessagePort,
  Crypto: cryptoModule.Crypto,
  CryptoKey: cryptoModule.CryptoKey,
  SubtleCrypto: cryptoModule.SubtleCrypto,
  Performance: performanceModule.Performance,
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
  performance: performanceModule.performance,
  navigator: new Navigator(),
  scheduler: new Scheduler(),
};

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
  performanceModule.setTimeOrigin();
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
