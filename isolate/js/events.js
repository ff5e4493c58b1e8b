// The service-worker syntax: addEventListener("fetch", (event) => event.respondWith(...)).
(function () {
const { core, primordials } = __bootstrap;
const { ArrayPrototypePush, PromiseResolve, ReflectApply, String, TypeError } = primordials;
const { Event, EventTarget } = core.loadExtScript("ext:deno_web/02_event.js");

const HANDLED = { __proto__: null, fetch: 1, scheduled: 1 };
const listeners = { __proto__: null, fetch: [], scheduled: [] };

class ExtendableEvent extends Event {
  #ctx;
  constructor(type, ctx) {
    super(type);
    this.#ctx = ctx;
  }
  waitUntil(promise) {
    this.#ctx.waitUntil(promise);
  }
  passThroughOnException() {
    this.#ctx.passThroughOnException();
  }
}

class FetchEvent extends ExtendableEvent {
  #request;
  #response = null;
  constructor(request, ctx) {
    super("fetch", ctx);
    this.#request = request;
  }
  get request() {
    return this.#request;
  }
  respondWith(response) {
    if (this.#response !== null) {
      throw new TypeError("FetchEvent.respondWith() has already been called; it can only be called once.");
    }
    this.#response = PromiseResolve(response);
  }
  static responseOf(event) {
    return event.#response;
  }
}

class ScheduledEvent extends ExtendableEvent {
  #controller;
  constructor(controller, ctx) {
    super("scheduled", ctx);
    this.#controller = controller;
  }
  get cron() {
    return this.#controller.cron;
  }
  get scheduledTime() {
    return this.#controller.scheduledTime;
  }
}

const globalTarget = new EventTarget();

function addEventListener(type, listener, options) {
  if (String(type) in HANDLED) {
    if (typeof listener !== "function") throw new TypeError("a listener must be a function");
    ArrayPrototypePush(listeners[type], listener);
    return;
  }
  globalTarget.addEventListener(type, listener, options);
}

function removeEventListener(type, listener, options) {
  globalTarget.removeEventListener(type, listener, options);
}

function dispatchEvent(event) {
  return globalTarget.dispatchEvent(event);
}

// The script's listeners in the shape of a default export, or null when it registered none.
function entrypointFromListeners() {
  if (listeners.fetch.length === 0 && listeners.scheduled.length === 0) return null;
  const entry = { __proto__: null };
  if (listeners.fetch.length > 0) {
    entry.fetch = (request, _env, ctx) => {
      const event = new FetchEvent(request, ctx);
      for (let i = 0; i < listeners.fetch.length; i++) {
        ReflectApply(listeners.fetch[i], undefined, [event]);
        const response = FetchEvent.responseOf(event);
        if (response !== null) return response;
      }
      throw new TypeError("No fetch listener called event.respondWith().");
    };
  }
  if (listeners.scheduled.length > 0) {
    entry.scheduled = async (controller, _env, ctx) => {
      const event = new ScheduledEvent(controller, ctx);
      for (let i = 0; i < listeners.scheduled.length; i++) {
        await ReflectApply(listeners.scheduled[i], undefined, [event]);
      }
    };
  }
  return entry;
}

return {
  ExtendableEvent,
  FetchEvent,
  ScheduledEvent,
  addEventListener,
  removeEventListener,
  dispatchEvent,
  entrypointFromListeners,
};
})();
