/** One error of an answer. */
export class AtollError extends Error {
  constructor(status, errors) {
    const text = errors.map(({ code, message }) => `${message} (code ${code})`).join("; ");
    super(text || `the node answered ${status}`);
    this.name = "AtollError";
    this.status = status;
    this.errors = errors;
  }

  get code() {
    return this.errors[0]?.code;
  }
}

const NAMESPACES_PER_PAGE = 100;

/** A client of one account on one node. */
export class AtollClient {
  #base;
  #token;
  #fetch;

  constructor({ url, token, account, fetch = globalThis.fetch }) {
    this.#base = `${url.replace(/\/+$/, "")}/accounts/${encodeURIComponent(account)}`;
    this.#token = token;
    this.#fetch = fetch;
  }

  /** Sends a request below the account and returns the whole answer's envelope. */
  async envelope(method, path, body) {
    const response = await this.request(method, path, body);
    const envelope = await response.json().catch(() => ({ success: false, errors: [] }));
    if (!envelope.success) throw new AtollError(response.status, envelope.errors ?? []);
    return envelope;
  }

  /** Sends a request below the account. Plain objects and arrays go as JSON. */
  request(method, path, body) {
    const headers = { authorization: `Bearer ${this.#token}` };
    const isJson = Array.isArray(body) || Object.getPrototypeOf(body ?? 0) === Object.prototype;
    if (isJson) {
      headers["content-type"] = "application/json";
      body = JSON.stringify(body);
    }
    return this.#fetch(this.#base + path, { method, headers, body });
  }

  async #result(method, path, body) {
    return (await this.envelope(method, path, body)).result;
  }

  workers() {
    return this.#result("GET", "/workers/scripts");
  }

  deployments(worker) {
    const path = `/workers/scripts/${encodeURIComponent(worker)}/deployments`;
    return this.#result("GET", path).then(({ deployments }) => deployments);
  }

  async deleteWorker(worker) {
    const path = `/workers/services/${encodeURIComponent(worker)}?force=true`;
    await this.#result("DELETE", path);
  }

  async namespaces() {
    const all = [];
    for (let page = 1; ; page += 1) {
      const path = `/storage/kv/namespaces?per_page=${NAMESPACES_PER_PAGE}&page=${page}`;
      const found = await this.#result("GET", path);
      all.push(...found);
      if (found.length < NAMESPACES_PER_PAGE) return all;
    }
  }

  createNamespace(title) {
    return this.#result("POST", "/storage/kv/namespaces", { title });
  }

  async deleteNamespace(id) {
    await this.#result("DELETE", `/storage/kv/namespaces/${encodeURIComponent(id)}`);
  }

  /** The keys of one namespace. */
  kv(id) {
    return new KeyValues(this, `/storage/kv/namespaces/${encodeURIComponent(id)}`);
  }
}

class KeyValues {
  #client;
  #path;

  constructor(client, path) {
    this.#client = client;
    this.#path = path;
  }

  #value(key) {
    return `${this.#path}/values/${encodeURIComponent(key)}`;
  }

  /** The value as a response, or null when there is no such key. */
  async get(key) {
    const response = await this.#client.request("GET", this.#value(key));
    if (response.ok) return response;
    const envelope = await response.json().catch(() => ({}));
    if (response.status === 404) return null;
    throw new AtollError(response.status, envelope.errors ?? []);
  }

  async put(key, value, { expiration, expirationTtl, metadata } = {}) {
    const query = new URLSearchParams();
    if (expiration !== undefined) query.set("expiration", expiration);
    if (expirationTtl !== undefined) query.set("expiration_ttl", expirationTtl);
    let body = typeof value === "string" ? new TextEncoder().encode(value) : value;
    if (metadata !== undefined) {
      const form = new FormData();
      form.set("value", new Blob([body]));
      form.set("metadata", JSON.stringify(metadata));
      body = form;
    }
    const search = query.size > 0 ? `?${query}` : "";
    await this.#client.envelope("PUT", this.#value(key) + search, body);
  }

  async delete(key) {
    await this.#client.envelope("DELETE", this.#value(key));
  }

  /** Every key, page by page as they are asked for. */
  async *list({ prefix } = {}) {
    let cursor;
    do {
      const query = new URLSearchParams();
      if (prefix) query.set("prefix", prefix);
      if (cursor) query.set("cursor", cursor);
      const envelope = await this.#client.envelope("GET", `${this.#path}/keys?${query}`);
      yield* envelope.result;
      cursor = envelope.result_info?.cursor;
    } while (cursor);
  }
}
