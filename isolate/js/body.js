// Bodies of requests and responses: a text, bytes, or a resource that Rust reads from. None of them is a stream until
// somebody asks for one, and most are never asked (body_streams.js).
// https://fetch.spec.whatwg.org/#bodies
(function () {
const { core, primordials } = __bootstrap;
const { op_body_bytes } = core.ops;
const {
  ArrayBufferIsView,
  ObjectPrototypeIsPrototypeOf,
  SafeFinalizationRegistry,
  TypeError,
  TypedArrayPrototypeGetByteLength,
  TypedArrayPrototypeSlice,
} = primordials;
const webidl = core.loadExtScript("ext:deno_webidl/00_webidl.js");
const { isOfLate } = core.loadExtScript("ext:atoll/late.js");
const { URLSearchParamsPrototype } = core.loadExtScript("ext:deno_web/00_url.js");
const { bytesOf } = core.loadExtScript("ext:atoll/bytes.js");

const inStreams = () => core.loadExtScript("ext:atoll/body_streams.js");

// Closes what came with a body that nobody has taken.
const forgotten = new SafeFinalizationRegistry((rid) => core.tryClose(rid));

const NO_RESOURCE = -1;

class Body {
  // A string or a Uint8Array, or null.
  data = null;
  // The number of the resource that the bytes come from, or NO_RESOURCE.
  rid = NO_RESOURCE;
  // What somebody has asked for, or was given with.
  made = null;
  // The stream that reads the resource: an end before the end comes in here.
  reader = null;
  // Whether it was read without a stream.
  used = false;
  // What an end before the end is to throw, in an object.
  failure = null;
  // What the body can be made of again, or null.
  source = null;
  length = null;

  // https://fetch.spec.whatwg.org/#body-unusable
  unusable() {
    return this.made === null ? this.used : inStreams().isUnusable(this.made);
  }

  consumed() {
    return this.made === null ? this.used : inStreams().isDisturbed(this.made);
  }

  // Gives a string, bytes, or a promise for bytes.
  // https://fetch.spec.whatwg.org/#concept-body-consume-body
  consume() {
    if (this.unusable()) throw new TypeError("Body already consumed");
    if (this.made !== null) return inStreams().collect(this.made);
    this.used = true;
    return this.rid === NO_RESOURCE ? this.data : readAll(this);
  }

  get stream() {
    return this.made ??= inStreams().streamOf(this);
  }

  // Ends a body that comes from a resource, before it has come to its end.
  fail(reason) {
    if (this.reader !== null) inStreams().fail(this.reader, reason);
    else this.failure ??= { __proto__: null, reason };
    core.tryClose(this.rid);
  }

  clone() {
    const copy = new Body();
    if (this.data !== null && this.made === null) copy.data = this.data;
    else copy.made = inStreams().tee(this);
    copy.source = this.source;
    copy.length = this.length;
    return copy;
  }

  // Another body in place of this one, which is used then.
  createProxy() {
    const proxy = new Body();
    if (this.made !== null) {
      proxy.made = inStreams().proxyOf(this.made);
    } else {
      proxy.data = this.data;
      if (this.rid !== NO_RESOURCE) {
        this.release();
        proxy.adopt(this.rid);
      }
      this.used = true;
    }
    proxy.source = this.source;
    proxy.length = this.length;
    return proxy;
  }

  // The resource is closed when the body is forgotten, unless it is released before.
  adopt(rid) {
    this.rid = rid;
    forgotten.register(this, rid, this);
  }

  release() {
    forgotten.unregister(this);
  }
}

async function readAll(body) {
  try {
    if (body.failure !== null) throw body.failure;
    const bytes = await op_body_bytes(body.rid);
    if (body.failure !== null) throw body.failure;
    return bytes;
  } catch (error) {
    throw body.failure === null ? legible(error) : body.failure.reason;
  } finally {
    body.release();
    core.tryClose(body.rid);
  }
}

// What reading failed with, in words that say something about a body.
function legible(error) {
  if (!ObjectPrototypeIsPrototypeOf(core.BadResourcePrototype, error)) return error;
  return new core.BadResource("Cannot read body as underlying resource unavailable");
}

function bodyFromRid(rid) {
  const body = new Body();
  body.adopt(rid);
  return body;
}

function bodyFromData(data, used) {
  const body = new Body();
  body.data = data;
  body.source = data;
  body.used = used;
  if (typeof data !== "string") body.length = TypedArrayPrototypeGetByteLength(data);
  return body;
}

// Takes a body for sending. The result is null, a string, a Uint8Array, or a resource id.
function takeBody(body) {
  if (body === null) return null;
  if (body.unusable()) {
    throw new TypeError("Body has already been used. It can only be used once. Use tee() first if you need to read it twice.");
  }
  if (body.made !== null) return inStreams().take(body);
  body.used = true;
  return body.rid === NO_RESOURCE ? body.data : body.rid;
}

// The class of a body that is of a script that is loaded late, or null.
function lateKindOf(value) {
  if (isOfLate("ext:deno_web/06_streams.js", "ReadableStreamPrototype", value)) return "ReadableStream";
  if (isOfLate("ext:deno_web/09_file.js", "BlobPrototype", value)) return "Blob";
  if (isOfLate("ext:deno_fetch/21_formdata.js", "FormDataPrototype", value)) return "FormData";
  return null;
}

// https://fetch.spec.whatwg.org/#concept-bodyinit-extract
function extractBody(object) {
  if (typeof object === "string") {
    return { body: bodyFromData(object, false), contentType: "text/plain;charset=UTF-8" };
  }
  if (ArrayBufferIsView(object) || core.isArrayBuffer(object)) {
    return { body: bodyFromData(TypedArrayPrototypeSlice(bytesOf(object)), false), contentType: null };
  }
  if (ObjectPrototypeIsPrototypeOf(URLSearchParamsPrototype, object)) {
    return {
      body: bodyFromData(object.toString(), false),
      contentType: "application/x-www-form-urlencoded;charset=UTF-8",
    };
  }
  return inStreams().extract(object);
}

const { converters } = webidl;
converters["async_sequence<Uint8Array>"] = webidl.createAsyncSequenceConverter(converters.Uint8Array);

// Strings are no USVStrings yet: they are encoded later, with replacement.
converters["BodyInit_DOMString"] = (V, prefix, context, opts) => {
  if (typeof V === "string") return V;
  const kind = lateKindOf(V);
  if (kind !== null) return converters[kind](V, prefix, context, opts);
  if (ObjectPrototypeIsPrototypeOf(URLSearchParamsPrototype, V)) {
    return converters["URLSearchParams"](V, prefix, context, opts);
  }
  if (typeof V === "object") {
    if (core.isAnyArrayBuffer(V)) return converters["ArrayBuffer"](V, prefix, context, opts);
    if (ArrayBufferIsView(V)) return converters["ArrayBufferView"](V, prefix, context, opts);
    if (webidl.isAsyncSequence(V) && !core.isStringObject(V)) {
      return converters["async_sequence<Uint8Array>"](V, prefix, context, opts);
    }
  }
  return converters["DOMString"](V, prefix, context, opts);
};
converters["BodyInit_DOMString?"] = webidl.createNullableConverter(converters["BodyInit_DOMString"]);

// What was read as bytes, whatever it was kept as; and as a text.
function toBytes(data) {
  return typeof data === "string" ? core.encode(data) : data;
}

function toText(data) {
  return typeof data === "string" ? data : core.decode(data);
}

return { Body, bodyFromData, bodyFromRid, extractBody, lateKindOf, legible, NO_RESOURCE, takeBody, toBytes, toText };
})();
