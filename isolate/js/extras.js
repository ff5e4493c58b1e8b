// The Workers platform's own additions to the web's: timing-safe comparison, digest streams, AsyncLocalStorage.
(function () {
const { core, primordials } = __bootstrap;
const {
  ObjectDefineProperty,
  ReflectApply,
  SafeArrayIterator,
  Symbol,
  TypeError,
  TypedArrayPrototypeGetByteLength,
} = primordials;
const { SubtleCrypto, Crypto } = core.loadExtScript("ext:deno_crypto/00_crypto.js");
const { bytesOf } = core.loadExtScript("ext:atoll/bytes.js");
const { defineLate } = core.loadExtScript("ext:atoll/late.js");
const { op_report_error } = core.ops;
const { contextWith, currentInvocation } = core.loadExtScript("ext:atoll/invocation.js");

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
defineLate(Crypto.prototype, "DigestStream", "ext:atoll/stream_classes.js", false);

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

return { AsyncLocalStorage, AsyncResource, reportError };
})();
