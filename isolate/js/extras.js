// The Workers platform's own additions to the web's: fixed-length and identity streams, timing-safe
// comparison, digest streams, AsyncLocalStorage.
(function () {
const { core, primordials } = __bootstrap;
const {
  ArrayBufferIsView,
  BigInt,
  ObjectDefineProperty,
  Promise,
  ReflectApply,
  SafeArrayIterator,
  Symbol,
  TypeError,
  TypedArrayPrototypeGetByteLength,
  TypedArrayPrototypeSet,
  Uint8Array,
} = primordials;
const { TransformStream, WritableStream } = core.loadExtScript("ext:deno_web/06_streams.js");
// `crypto` is an object of the running isolate: it is read when used, never while the snapshot is made.
const cryptoModule = core.loadExtScript("ext:deno_crypto/00_crypto.js");
const { SubtleCrypto, Crypto } = cryptoModule;
const { op_report_error } = core.ops;
const { contextWith, currentInvocation } = core.loadExtScript("ext:atoll/invocation.js");

function bytesOf(chunk) {
  if (ArrayBufferIsView(chunk)) return new Uint8Array(chunk.buffer, chunk.byteOffset, chunk.byteLength);
  if (core.isAnyArrayBuffer(chunk)) return new Uint8Array(chunk);
  throw new TypeError("This stream takes bytes only: an ArrayBuffer or a view of one.");
}

class IdentityTransformStream extends TransformStream {
  constructor(_writableStrategy = undefined) {
    super({ transform: (chunk, controller) => controller.enqueue(bytesOf(chunk)) });
  }
}

class FixedLengthStream extends TransformStream {
  constructor(expectedLength, _writableStrategy = undefined) {
    const expected = BigInt(expectedLength);
    let seen = 0n;
    super({
      transform(chunk, controller) {
        const bytes = bytesOf(chunk);
        seen += BigInt(TypedArrayPrototypeGetByteLength(bytes));
        if (seen > expected) throw new TypeError("Attempt to write too many bytes through a FixedLengthStream.");
        controller.enqueue(bytes);
      },
      flush() {
        if (seen < expected) throw new TypeError("FixedLengthStream did not see all expected bytes before close().");
      },
    });
  }
}

class DigestStream extends WritableStream {
  #digest;
  constructor(algorithm) {
    let resolve, reject;
    const digest = new Promise((yes, no) => {
      resolve = yes;
      reject = no;
    });
    let parts = [];
    let total = 0;
    super({
      write(chunk) {
        const bytes = typeof chunk === "string" ? core.encode(chunk) : bytesOf(chunk).slice();
        total += TypedArrayPrototypeGetByteLength(bytes);
        parts[parts.length] = bytes;
      },
      async close() {
        const whole = new Uint8Array(total);
        let at = 0;
        for (const part of new SafeArrayIterator(parts)) {
          TypedArrayPrototypeSet(whole, part, at);
          at += TypedArrayPrototypeGetByteLength(part);
        }
        parts = [];
        resolve(await cryptoModule.crypto.subtle.digest(algorithm, whole));
      },
      abort(reason) {
        reject(reason);
      },
    });
    this.#digest = digest;
  }
  get digest() {
    return this.#digest;
  }
}

ObjectDefineProperty(SubtleCrypto.prototype, "timingSafeEqual", {
  __proto__: null,
  configurable: true,
  enumerable: true,
  writable: true,
  value: function timingSafeEqual(a, b) {
    const left = bytesOf(a);
    const right = bytesOf(b);
    const length = TypedArrayPrototypeGetByteLength(left);
    if (length !== TypedArrayPrototypeGetByteLength(right)) {
      throw new TypeError("Input buffers must have the same byte length");
    }
    let difference = 0;
    for (let i = 0; i < length; i++) difference |= left[i] ^ right[i];
    return difference === 0;
  },
});
ObjectDefineProperty(Crypto.prototype, "DigestStream", {
  __proto__: null, configurable: true, enumerable: false, writable: true, value: DigestStream,
});

function reportError(error) {
  op_report_error(currentInvocation()?.id ?? 0, error);
}

// node:async_hooks, as far as libraries of the edge use it.
class AsyncLocalStorage {
  #key = Symbol("AsyncLocalStorage");
  getStore() {
    return core.getAsyncContext()?.[this.#key];
  }
  run(store, callback, ...args) {
    const previous = core.getAsyncContext();
    core.setAsyncContext(contextWith(previous, this.#key, store));
    try {
      return ReflectApply(callback, undefined, args);
    } finally {
      core.setAsyncContext(previous);
    }
  }
  exit(callback, ...args) {
    return this.run(undefined, callback, ...new SafeArrayIterator(args));
  }
  enterWith(store) {
    core.setAsyncContext(contextWith(core.getAsyncContext(), this.#key, store));
  }
  disable() {}
  static bind(fn) {
    return AsyncResource.bind(fn);
  }
  static snapshot() {
    const context = core.getAsyncContext();
    return (fn, ...args) => inContext(context, fn, undefined, args);
  }
}

function inContext(context, fn, self, args) {
  const previous = core.getAsyncContext();
  core.setAsyncContext(context);
  try {
    return ReflectApply(fn, self, args);
  } finally {
    core.setAsyncContext(previous);
  }
}

class AsyncResource {
  #context = core.getAsyncContext();
  constructor(type) {
    this.type = type;
  }
  runInAsyncScope(fn, self, ...args) {
    return inContext(this.#context, fn, self, args);
  }
  bind(fn) {
    const context = this.#context;
    return function (...args) {
      return inContext(context, fn, this, args);
    };
  }
  static bind(fn) {
    return new AsyncResource("bound").bind(fn);
  }
}

return { bytesOf, IdentityTransformStream, FixedLengthStream, AsyncLocalStorage, AsyncResource, reportError };
})();
