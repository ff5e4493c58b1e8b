import assert from "node:assert/strict";
import { createServer } from "node:http";
import { after, before, test } from "node:test";

import { AtollClient, AtollError } from "../src/index.js";

let server;
let client;
const seen = [];

/** A stand-in for a node: notes what it is asked, and answers by path. */
function answer(request, body) {
  const { pathname, searchParams } = new URL(request.url, "http://node");
  seen.push({ method: request.method, url: request.url, headers: request.headers, body });
  const ok = (result, more = {}) => ({ success: true, errors: [], messages: [], result, ...more });
  if (request.headers.authorization !== "Bearer secret") {
    return [403, { success: false, errors: [{ code: 10000, message: "Authentication error" }] }];
  }
  if (pathname.endsWith("/keys")) {
    const second = searchParams.get("cursor") === "next";
    const info = { result_info: { cursor: second ? "" : "next" } };
    return [200, ok([{ name: second ? "b" : "a" }], info)];
  }
  if (pathname.endsWith("/values/missing")) {
    return [404, { success: false, errors: [{ code: 10009, message: "key not found" }] }];
  }
  if (request.method === "GET" && pathname.includes("/values/")) return [200, "the value"];
  if (pathname.endsWith("/namespaces") && request.method === "POST") {
    return [200, ok({ id: "n1", ...JSON.parse(body) })];
  }
  if (pathname.endsWith("/namespaces")) {
    const page = Number(searchParams.get("page"));
    return [200, ok(Array.from({ length: page === 1 ? 100 : 1 }, (_, i) => ({ id: `${page}-${i}` })))];
  }
  return [200, ok({})];
}

before(async () => {
  server = createServer(async (request, response) => {
    let body = "";
    for await (const chunk of request) body += chunk;
    const [status, result] = answer(request, body);
    response.writeHead(status).end(typeof result === "string" ? result : JSON.stringify(result));
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${server.address().port}/client/v4/`;
  client = new AtollClient({ url, token: "secret", account: "acc" });
});

after(() => server.close());

test("namespaces are made and listed over pages", async () => {
  assert.deepEqual(await client.createNamespace("links"), { id: "n1", title: "links" });
  assert.equal(seen.at(-1).headers["content-type"], "application/json");
  assert.equal((await client.namespaces()).length, 101);
});

test("keys are escaped, and options go where the API wants them", async () => {
  const kv = client.kv("n1");
  await kv.put("a/b c", "v", { expirationTtl: 60 });
  const { url, body } = seen.at(-1);
  assert.equal(url, "/client/v4/accounts/acc/storage/kv/namespaces/n1/values/a%2Fb%20c?expiration_ttl=60");
  assert.equal(body, "v");
  await kv.put("k", "v", { metadata: { m: 1 } });
  assert.match(seen.at(-1).headers["content-type"], /^multipart\/form-data/);
  assert.match(seen.at(-1).body, /name="metadata"\r\n\r\n\{"m":1\}/);
});

test("values are read, and a missing key is null", async () => {
  assert.equal(await (await client.kv("n1").get("k")).text(), "the value");
  assert.equal(await client.kv("n1").get("missing"), null);
});

test("lists go on by cursor", async () => {
  const names = [];
  for await (const { name } of client.kv("n1").list({ prefix: "p" })) names.push(name);
  assert.deepEqual(names, ["a", "b"]);
});

test("refusals are errors with the API's code", async () => {
  const { port } = server.address();
  const stranger = new AtollClient({ url: `http://127.0.0.1:${port}/client/v4`, token: "x", account: "a" });
  await assert.rejects(stranger.workers(), (error) => {
    assert.ok(error instanceof AtollError);
    assert.equal(error.code, 10000);
    assert.match(error.message, /Authentication error/);
    return true;
  });
});
