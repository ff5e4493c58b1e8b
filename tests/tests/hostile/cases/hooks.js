// Failing in every place where a script may fail, with everything that can be thrown.

//# throw-an-error: exception
throw new Error('on purpose');

//# throw-undefined: exception
throw undefined;

//# throw-null: exception
throw null;

//# throw-a-symbol: exception
throw Symbol('on purpose');

//# throw-a-bigint: exception
throw 10n;

//# throw-a-proxy: exception
throw new Proxy({}, { get() { throw new Error('on purpose'); }, getPrototypeOf() { throw 1; }, ownKeys() { throw 2; }, has() { throw 3; } });

//# throw-a-revoked-proxy: exception
const { proxy, revoke } = Proxy.revocable({}, {});
revoke();
throw proxy;

//# reject-with-a-proxy: exception
await Promise.reject(new Proxy(function () {}, { get() { throw new Error('on purpose'); }, apply() { throw 1; } }));

//# throw-what-throws-when-shown: exception
throw { toString() { throw new Error('on purpose'); }, get message() { throw 1; }, get name() { throw 2; }, get stack() { throw 3; } };

//# throw-an-object-without-a-prototype: exception
throw Object.create(null);

//# throw-a-huge-message: exception or memory or cpu
throw new Error('on purpose '.repeat(1e5));

//# throw-an-error-with-odd-parts: exception
throw Object.assign(new Error('on purpose'), { name: {}, message: 5n, stack: Symbol('x'), cause: new Proxy({}, {}) });

//# throw-a-response: exception
throw new Response('no');

//# throw-from-a-timer: exception or ok
setTimeout(() => { throw new Error('on purpose'); });
await scheduler.wait(5);

//# throw-from-a-microtask: exception or ok
queueMicrotask(() => { throw new Error('on purpose'); });
await scheduler.wait(5);

//# throw-from-a-listener: ok or exception
const target = new EventTarget();
target.addEventListener('x', () => { throw new Error('on purpose'); });
target.dispatchEvent(new Event('x'));

//# throw-in-waitUntil: ok or late exception
ctx.waitUntil(Promise.reject(new Error('on purpose')));

//# throw-in-waitUntil-at-once: exception
ctx.waitUntil({ get then() { throw new Error('on purpose'); } });
throw new Error('on purpose');

//# throw-in-start: exception
return new Response(new ReadableStream({ start() { throw new Error('on purpose'); } }));

//# throw-in-start-later: late exception
return new Response(new ReadableStream({ async start() { throw new Error('on purpose'); } }));

//# throw-in-pull: late exception
return new Response(new ReadableStream({ pull() { throw new Error('on purpose'); } }));

//# throw-in-cancel: late canceled; leave=1
return new Response(new ReadableStream({
  pull(controller) { controller.enqueue(new Uint8Array(8)); return scheduler.wait(5); },
  cancel() { throw new Error('on purpose'); },
}));

//# throw-in-transform: late exception
return new Response(new Response('x').body.pipeThrough(new TransformStream({ transform() { throw new Error('on purpose'); } })));

//# throw-in-flush: late exception
return new Response(new Response('x').body.pipeThrough(new TransformStream({ flush() { throw new Error('on purpose'); } })));

//# a-stream-of-anything-but-bytes: late exception
return new Response(new ReadableStream({ pull(controller) { controller.enqueue({ not: 'bytes' }); } }));

//# no-response: exception
export default { fetch(request) { if (request.url.endsWith('/ok')) return new Response('ok'); } };

//# no-response-but-null: exception
return null;

//# no-response-but-a-lookalike: exception
return { status: 200, headers: new Headers(), body: 'x', __proto__: Response.prototype };

//# no-response-but-a-proxy-of-one: ok or exception
return new Proxy(new Response('survived'), {});

//# a-response-of-bad-status: exception
return new Response('x', { status: 1 });

//# a-response-of-status-101: exception
return new Response(null, { status: 101 });

//# a-response-of-an-error: exception
return Response.error();

//# a-response-twice: ok or exception
export default { fetch(request) {
  if (request.url.endsWith('/ok')) return new Response('ok');
  const response = new Response('survived');
  response.text();
  return response;
} };

//# a-response-whose-body-is-locked: exception
const response = new Response(new ReadableStream({}));
response.body.getReader();
return response;

//# a-response-kept-for-the-next-request: ok or exception
export default { fetch(request) {
  if (request.url.endsWith('/ok')) return new Response('ok');
  return kept ??= new Response('survived');
} };
let kept;

//# a-subclass-that-lies: ok or exception
class Liar extends Response { get status() { throw new Error('on purpose'); } get headers() { throw new Error('on purpose'); } get body() { throw new Error('on purpose'); } }
return new Liar('survived');

//# a-getter-for-a-handler: ok
export default { get fetch() { return (request) => new Response(request.url.endsWith('/ok') ? 'ok' : 'survived'); } };

//# a-class-whose-constructor-throws: exception
export default class {
  constructor() { if (made++ % 2 === 0) throw new Error('on purpose'); }
  fetch() { return new Response('ok'); }
}
let made = 0;

//# a-listener-that-does-not-answer: exception
addEventListener('fetch', (event) => {
  if (event.request.url.endsWith('/ok')) event.respondWith(new Response('ok'));
});

//# a-listener-that-answers-twice: exception
addEventListener('fetch', (event) => {
  if (event.request.url.endsWith('/ok')) return event.respondWith(new Response('ok'));
  event.respondWith(new Response('x'));
  event.respondWith(new Response('y'));
});

//# never-settles: wall
await new Promise(() => {});

//# never-settles-though-busy: wall
setInterval(() => {}, 10);
await new Promise(() => {});

//# waits-too-long: wall
await scheduler.wait(600_000);
