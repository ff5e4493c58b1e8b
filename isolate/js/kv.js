// env.NAME of a KV namespace: Workers KV's own shapes, defaults and error texts, over the host's gate.
(function () {
const { core, primordials } = __bootstrap;
const { op_kv_get, op_kv_put, op_kv_delete, op_kv_list } = core.ops;
const {
  ArrayIsArray,
  JSONParse,
  JSONStringify,
  MapPrototypeSet,
  Number,
  String,
  TypeError,
  TypedArrayPrototypeGetBuffer,
  TypedArrayPrototypeGetByteLength,
} = primordials;
const { Map } = globalThis;
const { isOfLate } = core.loadExtScript("ext:atoll/late.js");
const { bytesOf, isBytes } = core.loadExtScript("ext:atoll/bytes.js");
const { requireInvocation } = core.loadExtScript("ext:atoll/invocation.js");

const STREAMS = "ext:deno_web/06_streams.js";
const TYPES = { __proto__: null, text: 1, json: 1, arrayBuffer: 1, stream: 1 };
const CACHE_TTL_MIN_S = 30;
const KEYS_AT_ONCE_MAX = 100;

function readOptions(options, batch) {
  const type = typeof options === "string" ? options : options?.type ?? "text";
  if (!(type in TYPES) || (batch && type !== "text" && type !== "json")) {
    throw new TypeError(
      batch
        ? `KV GET_BULK failed: 400 "${type}" is not a valid type. Use "json" or "text"`
        : 'Unknown response type. Possible types are "text", "arrayBuffer", "json", and "stream".',
    );
  }
  const ttl = typeof options === "object" ? options?.cacheTtl : undefined;
  if (ttl !== undefined && ttl !== null && !(ttl >= CACHE_TTL_MIN_S)) {
    throw new TypeError(`KV GET failed: 400 Invalid cache_ttl of ${ttl}. Cache TTL must be at least ${CACHE_TTL_MIN_S}.`);
  }
  return type;
}

function valueAs(bytes, type) {
  if (bytes === null) return null;
  switch (type) {
    case "text":
      return core.decode(bytes);
    case "json":
      return JSONParse(core.decode(bytes));
    case "arrayBuffer":
      return TypedArrayPrototypeGetBuffer(bytes);
    default: {
      const { ReadableStream } = core.loadExtScript(STREAMS);
      return new ReadableStream({
        type: "bytes",
        start(controller) {
          if (TypedArrayPrototypeGetByteLength(bytes) > 0) controller.enqueue(bytes);
          controller.close();
        },
      });
    }
  }
}

async function valueBytes(value) {
  if (typeof value === "string") return core.encode(value);
  if (isBytes(value)) return bytesOf(value);
  if (isOfLate(STREAMS, "ReadableStreamPrototype", value)) {
    return await core.loadExtScript(STREAMS).readableStreamCollectIntoUint8Array(value);
  }
  throw new TypeError(
    "KV put() accepts only strings, ArrayBuffers, ArrayBufferViews, and ReadableStreams as values.",
  );
}

// Ops take NaN for a number that was not given.
function optionalNumber(value) {
  return value === undefined || value === null ? NaN : Number(value);
}

function metadataOf(text) {
  return text === null ? null : JSONParse(text);
}

class KvNamespace {
  #capability;

  constructor(capability) {
    this.#capability = capability;
  }

  async #read(keys) {
    return await op_kv_get(requireInvocation("KV"), this.#capability, keys);
  }

  async get(key, options = undefined) {
    if (ArrayIsArray(key)) {
      const found = await this.#readMany(key, options);
      return found((entry, type) => valueAs(entry.value, type));
    }
    const type = readOptions(options, false);
    const { 0: entry } = await this.#read([String(key)]);
    return entry === null ? null : valueAs(entry.value, type);
  }

  async getWithMetadata(key, options = undefined) {
    if (ArrayIsArray(key)) {
      const found = await this.#readMany(key, options);
      return found((entry, type) => ({ value: valueAs(entry.value, type), metadata: metadataOf(entry.metadata) }));
    }
    const type = readOptions(options, false);
    const { 0: entry } = await this.#read([String(key)]);
    if (entry === null) return { value: null, metadata: null, cacheStatus: null };
    return { value: valueAs(entry.value, type), metadata: metadataOf(entry.metadata), cacheStatus: null };
  }

  async #readMany(keys, options) {
    const type = readOptions(options, true);
    if (keys.length > KEYS_AT_ONCE_MAX) {
      throw new TypeError(`KV GET_BULK failed: 400 You can request a maximum of ${KEYS_AT_ONCE_MAX} keys`);
    }
    const list = [];
    for (let i = 0; i < keys.length; i++) list[i] = String(keys[i]);
    const entries = list.length === 0 ? [] : await this.#read(list);
    return (shape) => {
      const result = new Map();
      for (let i = 0; i < list.length; i++) {
        MapPrototypeSet(result, list[i], entries[i] === null ? null : shape(entries[i], type));
      }
      return result;
    };
  }

  async put(key, value, options = undefined) {
    const invocation = requireInvocation("KV");
    const bytes = await valueBytes(value);
    const metadata = options?.metadata;
    await op_kv_put(
      invocation,
      this.#capability,
      String(key),
      bytes,
      optionalNumber(options?.expiration),
      optionalNumber(options?.expirationTtl),
      metadata === undefined || metadata === null ? null : JSONStringify(metadata),
    );
  }

  async delete(key) {
    await op_kv_delete(requireInvocation("KV"), this.#capability, String(key));
  }

  async list(options = undefined) {
    const page = await op_kv_list(
      requireInvocation("KV"),
      this.#capability,
      options?.prefix ?? null,
      optionalNumber(options?.limit),
      options?.cursor ?? null,
    );
    const result = JSONParse(page);
    result.cacheStatus = null;
    return result;
  }
}

return { KvNamespace };
})();
