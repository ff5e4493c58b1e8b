// Stacks that never stop growing: each ends as an exception, and the isolate goes on.

//# recursion: exception
const f = () => f() + 1;
f();

//# recursion-caught-and-begun-again: cpu
const f = () => { try { f(); } finally { f(); } };
f();

//# recursion-of-async-functions: exception
const f = async () => await f();
await f();

//# recursion-in-a-getter: exception
const o = { get x() { return this.x; } };
o.x;

//# recursion-in-a-proxy: exception
const p = new Proxy({}, { get: (target, name, receiver) => receiver[name] });
p.x;

//# recursion-through-nested-proxies: exception
let p = {};
for (let i = 0; i < 1e5; i++) p = new Proxy(p, {});
p.x;

//# recursion-in-toString: exception
const o = { toString() { return `${this}`; } };
return new Response(o);

//# recursion-in-toJSON: exception
const o = { toJSON() { return JSON.stringify(o); } };
return Response.json(o);

//# recursion-in-json-text: exception
JSON.parse('['.repeat(1e6));

//# recursion-in-a-value-to-json: ok or exception
let deep = [];
for (let i = 0; i < 1e5; i++) deep = [deep];
JSON.stringify(deep);

//# recursion-in-a-structured-clone: exception
let deep = [];
for (let i = 0; i < 1e5; i++) deep = [deep];
structuredClone(deep);

//# recursion-in-console-log: ok or exception
let deep = {};
for (let i = 0; i < 1e5; i++) deep = { deep };
console.log(deep);

//# recursion-in-a-regexp: exception
new RegExp('('.repeat(1e5) + ')'.repeat(1e5)).test('x');

//# recursion-in-a-regexps-match: ok or exception or cpu
/(?:(?:a)*)*b/.test('a'.repeat(1e6));

//# recursion-in-prepareStackTrace: exception
Error.prepareStackTrace = () => new Error('again').stack;
throw new Error('on purpose');

//# recursion-in-a-causes-chain: exception
let error = new Error('on purpose');
for (let i = 0; i < 2e4; i++) error = new Error('on purpose', { cause: error });
throw error;

//# recursion-in-aggregated-errors: exception or cpu
let error = new Error('on purpose');
for (let i = 0; i < 1e5; i++) error = new AggregateError([error, error], 'on purpose');
throw error;

//# recursion-in-an-error-that-causes-itself: exception
const error = new Error('on purpose');
error.cause = error;
throw error;

//# recursion-in-then: exception or cpu
const thenable = { then(resolve) { thenable.then(resolve); } };
return thenable;

//# recursion-of-dispatched-events: exception or cpu
const target = new EventTarget();
target.addEventListener('x', () => target.dispatchEvent(new Event('x')));
target.dispatchEvent(new Event('x'));
throw new Error('on purpose');

//# recursion-of-teed-streams: ok or cpu or memory
let stream = new ReadableStream({ pull(controller) { controller.enqueue(1); } });
for (let i = 0; i < 5_000; i++) stream = stream.tee()[0];
await stream.getReader().read();

//# recursion-of-piped-streams: ok or cpu or memory or wall
let stream = new ReadableStream({ start(controller) { controller.enqueue(1); controller.close(); } });
for (let i = 0; i < 2_000; i++) stream = stream.pipeThrough(new TransformStream());
await stream.getReader().read();

//# recursion-at-the-edge-of-the-stack: exception or cpu
const edge = () => { try { edge(); } catch { new Response('x', { headers: { a: 'b' } }); console.log('x'); throw new Error('on purpose'); } };
edge();

//# recursion-into-the-service-itself: exception or cpu or overloaded; many
if (request.url.length > 2_000) throw new Error('on purpose');
const response = await env.SELF.fetch(request.url + 'x');
if (!response.ok) throw new Error('on purpose');
return response;

//# recursion-through-the-public-host: exception or wall or ok; many
const response = await fetch(env.OWN);
if (!response.ok) throw new Error('on purpose');
return response;
