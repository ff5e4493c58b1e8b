// Code that does not come to an end, in every place from which the runtime calls into a script.

//# loop: cpu
while (true) {}

//# loop-of-awaits: cpu
for (;;) await null;

//# loop-of-microtasks: cpu
const again = () => queueMicrotask(again);
again();
await new Promise(() => {});

//# loop-in-a-timer: cpu
await new Promise(() => setTimeout(() => { for (;;); }));

//# loop-in-an-interval: cpu
await new Promise(() => setInterval(() => { for (let i = 0; i < 1e7; i++); }));

//# loop-in-an-async-generator: cpu
async function* endless() { for (;;) yield 1; }
for await (const _ of endless());

//# loop-in-a-generator-that-is-spread: cpu or memory
function* endless() { for (;;) yield 1; }
Math.max(...endless());

//# loop-in-a-getter-of-the-init: cpu
new Response('', { get status() { for (;;); } });

//# loop-in-a-headers-iterator: cpu
new Headers({ [Symbol.iterator]() { for (;;); } });

//# loop-in-a-headers-iterator-that-never-ends: cpu or memory
new Headers({ *[Symbol.iterator]() { for (let i = 0;; i++) yield ['x-' + i % 100, '1']; } });

//# loop-in-a-proxys-ownKeys: cpu
new Headers(new Proxy({}, { ownKeys() { for (;;); } }));

//# loop-in-toString: cpu
return new Response({ toString() { for (;;); } });

//# loop-in-valueOf: cpu
new Response('', { status: { valueOf() { for (;;); } } });

//# loop-in-toPrimitive: cpu
await fetch({ [Symbol.toPrimitive]() { for (;;); } });

//# loop-in-toJSON: cpu
return Response.json({ toJSON() { for (;;); } });

//# loop-in-then: cpu
return { then() { for (;;); } };

//# loop-in-the-getter-of-then: cpu
return { get then() { for (;;); } };

//# loop-in-a-then-that-resolves-to-itself: cpu
const thenable = { then: (resolve) => resolve(thenable) };
return thenable;

//# loop-in-console-log: cpu or exception
console.log({ get [Symbol.toStringTag]() { for (;;); } }, new Proxy({}, { get() { for (;;); } }));
for (;;);

//# loop-in-the-message-of-an-error: cpu or exception
throw { get message() { for (;;); }, get stack() { for (;;); }, toString() { for (;;); } };

//# loop-in-the-stack-of-an-error: cpu or exception
const error = new Error('x');
Object.defineProperty(error, 'stack', { get() { for (;;); } });
throw error;

//# loop-in-prepareStackTrace: cpu or exception
Error.prepareStackTrace = () => { for (;;); };
throw new Error('x');

//# loop-in-a-finalizer: cpu
const registry = new FinalizationRegistry(() => { for (;;); });
for (let i = 0; i < 100; i++) registry.register({}, i);
for (;;) { new Array(10_000).fill({}); await scheduler.wait(1); }

//# loop-in-start: cpu
new ReadableStream({ start() { for (;;); } });

//# loop-in-pull: cpu or late cpu
return new Response(new ReadableStream({ pull() { for (;;); } }));

//# loop-in-pull-after-a-piece: late cpu
let pieces = 0;
return new Response(new ReadableStream({
  pull(controller) {
    if (pieces++ > 0) for (;;);
    controller.enqueue(new Uint8Array(8));
  },
}));

//# loop-in-cancel: late cpu; leave=1
return new Response(new ReadableStream({
  pull(controller) { controller.enqueue(new Uint8Array(8)); return scheduler.wait(5); },
  cancel() { for (;;); },
}));

//# loop-in-transform: cpu
const loop = new TransformStream({ transform() { for (;;); } });
loop.writable.getWriter().write('x');
await loop.readable.getReader().read();

//# loop-in-a-queuing-strategy: cpu
new ReadableStream({ start(controller) { controller.enqueue(1); } }, { size() { for (;;); } });

//# loop-in-an-abort-listener: late cpu; leave=1
request.signal.addEventListener('abort', () => { for (;;); });
return new Response(new ReadableStream({
  pull(controller) { controller.enqueue(new Uint8Array(8)); return scheduler.wait(5); },
}));

//# loop-in-an-own-abort-listener: cpu
const own = new AbortController();
own.signal.addEventListener('abort', () => { for (;;); });
own.abort();

//# loop-in-an-event-listener: cpu
const target = new EventTarget();
target.addEventListener('x', { get handleEvent() { for (;;); } });
target.dispatchEvent(new Event('x'));

//# loop-in-waitUntil: late cpu
ctx.waitUntil((async () => { await scheduler.wait(1); for (;;); })());

//# loop-after-the-response: late cpu
ctx.waitUntil(new Promise(() => setTimeout(() => { for (;;); }, 5)));

//# loop-in-a-structured-clone: cpu
structuredClone({ get x() { for (;;); } });

//# loop-in-a-comparator: cpu
[3, 2, 1].sort(() => { for (;;); });

//# loop-in-a-replacer: cpu
'x'.replace(/x/, () => { for (;;); });

//# loop-in-hasInstance: cpu
class Looped { static [Symbol.hasInstance]() { for (;;); } }
({}) instanceof Looped;

//# loop-in-a-message-port: cpu
const { port1, port2 } = new MessageChannel();
port1.onmessage = () => { for (;;); };
port2.postMessage(1);
await new Promise(() => {});

//# loop-in-many-short-timers: cpu or wall
const spin = () => { const end = performance.now() + 1; for (let i = 0; i < 1e6; i++); setTimeout(spin); };
spin();
await new Promise(() => {});

//# loop-that-catches-its-end: cpu
for (;;) { try { for (;;); } catch {} finally { for (;;); } }

//# slow-regex: cpu
/^(a+)+$/.test('a'.repeat(64) + 'b');

//# slow-regex-in-a-URLPattern: cpu
new URLPattern({ pathname: '/((?:a+)+)b' }).test('http://x/' + 'a'.repeat(64));

//# slow-bigint: cpu
let big = 3n;
for (;;) big = big ** 3n;

//# slow-sort: cpu or memory
for (;;) Array.from({ length: 1e5 }, (_, i) => -i).sort();

//# slow-json: cpu or memory
const text = '[' + '1,'.repeat(1e6) + '1]';
for (;;) JSON.stringify(JSON.parse(text));

//# slow-loop-in-wasm: cpu
export default { async fetch(request) {
  if (request.url.endsWith('/ok')) return new Response('ok');
  loop.exports.run();
} };
// (module (func (export "run") (loop (br 0))))
const loop = new WebAssembly.Instance(new WebAssembly.Module(new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 4, 1, 96, 0, 0, 3, 2, 1, 0, 7, 7, 1, 3, 114, 117, 110, 0, 0,
  10, 9, 1, 7, 0, 3, 64, 12, 0, 11, 11,
])));
