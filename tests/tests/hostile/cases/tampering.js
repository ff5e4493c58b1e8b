// A script that changes what the language or the runtime give it harms itself alone: the runtime's own
// code goes on as if nothing had happened.

//# objects-that-are-thenables: ok or exception or cpu
Object.prototype.then = function (resolve) { delete Object.prototype.then; resolve(new Response('survived')); };
return new Response('survived');

//# objects-with-get-and-set: ok
Object.prototype.get = () => { throw new Error('on purpose'); };
Object.prototype.set = () => { throw new Error('on purpose'); };
try {
  console.log({}); new Headers({ a: 'b' }); new ReadableStream({}); structuredClone({}); new URL('http://x/?a=b').searchParams.get('a');
} catch (error) { if (!/on purpose|Invalid property descriptor|Getter must|Setter must|Cannot both specify/.test(error)) throw error; }
delete Object.prototype.get;
delete Object.prototype.set;

//# objects-that-are-enumerable: ok
Object.prototype.enumerable = true;
Object.prototype.configurable = true;
Object.prototype.writable = false;
Object.prototype.value = 'polluted';
return new Response('survived');

//# objects-with-the-runtimes-names: ok or exception
const names = [];
ctx.waitUntil(new Promise((done) => setTimeout(() => { for (const name of names) delete Object.prototype[name]; done(); })));
for (const name of ['status', 'headers', 'body', 'method', 'url', 'signal', 'id', 'ended', 'timers', 'type', 'urlList', 'headerList', 'redirect', 'stream', 'invocation', 'context', 'kind', 'capability', 'highWaterMark', 'size'])
  names.push(name), Object.defineProperty(Object.prototype, name, { configurable: true, get() { return undefined; }, set() { throw new Error('on purpose'); } });
return new Response('survived');

//# a-polluted-init: ok
Object.prototype.status = 418;
Object.prototype.headers = { x: 'polluted' };
const response = new Response('survived');
delete Object.prototype.status;
delete Object.prototype.headers;
return response.status === 418 || response.status === 200 ? new Response('survived') : response;

//# arrays-that-do-not-iterate: ok
Array.prototype[Symbol.iterator] = () => { throw new Error('on purpose'); };
setTimeout((x) => x, 0, 1);
console.log('x', 1);
await env.KV.get('a');
await fetch(env.ORIGIN);
return new Response('survived', { headers: { a: 'b' } });

//# array-iterators-that-lie: ok
Object.getPrototypeOf([][Symbol.iterator]()).next = () => ({ done: true });
console.log('x', 1);
await env.KV.get('a');
await fetch(env.ORIGIN);
return new Response('survived', { headers: { a: 'b' } });

//# arrays-with-setters: ok or exception
ctx.waitUntil(new Promise((done) => setTimeout(() => { delete Array.prototype[0]; done(); })));
Object.defineProperty(Array.prototype, '0', { configurable: true, set() { throw new Error('on purpose'); } });
await fetch(env.ORIGIN).catch(() => {});
const response = new Response('survived');
return response;

//# array-methods: ok
for (const name of ['push', 'pop', 'shift', 'map', 'filter', 'forEach', 'join', 'slice', 'splice', 'concat', 'includes', 'indexOf', 'some', 'every', 'sort', 'flat', 'entries', 'keys', 'values'])
  Array.prototype[name] = () => { throw new Error('on purpose'); };
console.log({ a: [1, 2] });
await fetch(env.ORIGIN, { headers: { a: 'b' } });
return new Response('survived', { headers: { a: 'b' } });

//# promise-then: ok
const { then } = Promise.prototype;
Promise.prototype.then = () => { throw new Error('on purpose'); };
queueMicrotask(() => { Promise.prototype.then = then; });
return new Response('survived');

//# promise-then-for-ever: ok
export default { fetch(request, env, ctx) {
  if (request.url.endsWith('/ok')) return new Response('ok');
  Promise.prototype.then = function () { return this; };
  Promise.prototype.catch = () => { throw new Error('on purpose'); };
  Promise.resolve = () => { throw new Error('on purpose'); };
  ctx.waitUntil(fetch(env.ORIGIN));
  return new Response('survived');
} };

//# promise-constructor: ok or exception
const { Promise: P } = globalThis;
ctx.waitUntil(new Promise((done) => setTimeout(() => { globalThis.Promise = P; Object.defineProperty(P.prototype, 'constructor', { value: P }); done(); })));
Object.defineProperty(Promise.prototype, 'constructor', { configurable: true, get() { throw new Error('on purpose'); } });
globalThis.Promise = class { constructor() { throw new Error('on purpose'); } };
return new Response('survived');

//# function-call-and-apply: ok or exception
Function.prototype.call = Function.prototype.apply = Function.prototype.bind = () => { throw new Error('on purpose'); };
console.log('x');
setTimeout(() => {}, 0);
await fetch(env.ORIGIN);
await env.KV.get('a');
return new Response(new ReadableStream({ start(c) { c.enqueue(new TextEncoder().encode('survived')); c.close(); } }));

//# has-instance: ok
for (const Type of [Response, Request, Headers, ReadableStream, Promise, Error, URL])
  Object.defineProperty(Type, Symbol.hasInstance, { configurable: true, value() { throw new Error('on purpose'); } });
return new Response('survived');

//# headers-prototype: ok
for (const name of ['get', 'set', 'append', 'has', 'delete', 'entries', Symbol.iterator]) Headers.prototype[name] = () => { throw new Error('on purpose'); };
await fetch(env.ORIGIN, { headers: { a: 'b' } });
return new Response('survived', { headers: { a: 'b' } });

//# response-prototype: ok
for (const name of ['status', 'headers', 'body', 'ok', 'bodyUsed', 'type', 'url'])
  Object.defineProperty(Response.prototype, name, { get() { throw new Error('on purpose'); } });
return new Response('survived');

//# response-without-a-prototype: ok or exception
const response = new Response('survived');
Object.setPrototypeOf(response, null);
return response;

//# json: ok
JSON.parse = JSON.stringify = () => { throw new Error('on purpose'); };
request.cf;
await env.KV.list();
return new Response('survived');

//# reflect: ok
for (const name of Object.getOwnPropertyNames(Reflect)) Reflect[name] = () => { throw new Error('on purpose'); };
for (const name of ['defineProperty', 'getPrototypeOf', 'setPrototypeOf', 'keys', 'entries', 'assign', 'freeze', 'create']) Object[name] = () => { throw new Error('on purpose'); };
await fetch(env.ORIGIN);
return new Response('survived');

//# maps-and-sets: ok
for (const Type of [Map, Set, WeakMap, WeakSet, WeakRef])
  for (const name of ['get', 'set', 'has', 'add', 'delete', 'forEach', 'deref']) Type.prototype[name] = () => { throw new Error('on purpose'); };
setTimeout(() => {}, 0);
await scheduler.wait(1);
return new Response('survived');

//# strings-and-numbers: ok
for (const name of ['startsWith', 'endsWith2', 'toLowerCase', 'replace', 'split', 'slice', 'charCodeAt', 'trim']) String.prototype[name] = () => { throw new Error('on purpose'); };
Number.prototype.toString = () => { throw new Error('on purpose'); };
RegExp.prototype.exec = RegExp.prototype.test = () => { throw new Error('on purpose'); };
await fetch(env.ORIGIN);
return new Response('survived', { headers: { a: 'b' } });

//# typed-arrays: ok
const Typed = Object.getPrototypeOf(Uint8Array.prototype);
for (const name of ['set', 'subarray', 'slice', 'fill']) Typed[name] = () => { throw new Error('on purpose'); };
Object.defineProperty(Typed, 'byteLength', { get() { throw new Error('on purpose'); } });
Object.defineProperty(Typed, 'buffer', { get() { throw new Error('on purpose'); } });
return new Response(new Response('survived').body);

//# streams: ok
for (const Type of [ReadableStream, ReadableStreamDefaultReader, ReadableStreamDefaultController, WritableStream, TransformStream])
  for (const name of ['getReader', 'read', 'pipeTo', 'enqueue', 'close', 'cancel', 'tee', 'releaseLock']) if (name in Type.prototype) Type.prototype[name] = () => { throw new Error('on purpose'); };
return new Response((await fetch(env.ORIGIN)).ok ? 'survived' : 'not');

//# events: ok
for (const name of ['addEventListener', 'dispatchEvent']) EventTarget.prototype[name] = () => { throw new Error('on purpose'); };
Object.defineProperty(AbortSignal.prototype, 'aborted', { get() { throw new Error('on purpose'); } });
await fetch(env.ORIGIN).catch(() => {});
return new Response('survived');

//# errors: exception
Error.captureStackTrace = () => { throw new Error('on purpose'); };
Object.defineProperty(Error, 'stackTraceLimit', { get() { throw new TypeError('on purpose'); } });
Object.defineProperty(Error.prototype, 'name', { get() { throw new TypeError('on purpose'); } });
Error.prepareStackTrace = () => { throw new TypeError('on purpose'); };
throw new TypeError('on purpose');

//# stack-trace-limit: exception
Object.defineProperty(Error, 'stackTraceLimit', { get() { for (let i = 0; i < 10; i++); return { valueOf() { throw 1; } }; } });
null.x;

//# globals-deleted: ok
export default { async fetch(request, env) {
  if (request.url.endsWith('/ok')) return new R('ok');
  for (const name of namesOf(globals)) { try { delete globals[name]; } catch {} }
  await env.KV.get('a');
  return new R('survived');
} };
const R = Response;
const globals = globalThis;
const namesOf = Object.getOwnPropertyNames;

//# globals-replaced: ok
export default { async fetch(request, env, ctx) {
  if (request.url.endsWith('/ok')) return new R('ok');
  for (const name of ['Response', 'Request', 'Headers', 'fetch', 'console', 'queueMicrotask', 'setTimeout', 'clearTimeout', 'Promise', 'Error', 'TypeError', 'Array', 'Object', 'Map', 'Symbol', 'Reflect', 'URL', 'ReadableStream', 'AbortSignal'])
    globalThis[name] = class { constructor() { throw new E('on purpose'); } };
  ctx.waitUntil(f(env.ORIGIN));
  return new R('survived');
} };
const [R, E, f] = [Response, Error, fetch];

//# globals-frozen: ok
for (const name of Object.getOwnPropertyNames(globalThis)) { try { Object.freeze(globalThis[name]); Object.freeze(globalThis[name].prototype); } catch {} }
Object.freeze(Object.prototype);
Object.freeze(Array.prototype);
await fetch(env.ORIGIN);
console.log('x');
return new Response('survived');

//# the-global-object-itself: ok
try { Object.setPrototypeOf(globalThis, new Proxy({}, { get() { throw new Error('on purpose'); }, has() { throw new Error('on purpose'); } })); } catch {}
Object.preventExtensions(globalThis);
return new Response('survived');

//# the-console: ok
console.log = null;
Object.defineProperty(console, Symbol.toStringTag, { get() { throw new Error('on purpose'); } });
console.error(console);
return new Response('survived');

//# env-and-ctx: ok
try { env.KV = null; delete env.ORIGIN; Object.setPrototypeOf(ctx, null); } catch {}
return new Response('survived');

//# symbols-that-reach-inside: ok
const found = [];
for (const at of [request, ctx, env.KV, env.SELF, new Response(), request.headers, request.signal, crypto, console, navigator])
  for (const symbol of Object.getOwnPropertySymbols(at)) {
    const value = at[symbol];
    if (value && typeof value === 'object' && Object.keys(value).some((key) => /^(ops|core|primordials)$/.test(key))) found.push(String(symbol));
  }
return new Response(found.length ? `found ${found}` : 'survived');
