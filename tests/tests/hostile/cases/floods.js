// Too much of what is allowed.

//# promises-that-settle: ok or cpu or memory
await Promise.all(Array.from({ length: 100_000 }, async () => await null));

//# promises-that-reject: ok or cpu or memory or exception
for (let i = 0; i < 10_000; i++) Promise.reject(new Error('on purpose'));
await scheduler.wait(1);

//# timers: cpu or memory or exception
for (;;) setTimeout(() => {}, 1e6);

//# timers-that-fire: ok or cpu or memory or exception
for (let i = 0; i < 5_000; i++) setTimeout(() => {}, i % 50);
await scheduler.wait(60);

//# intervals: cpu or memory or ok or wall
for (let i = 0; i < 1_000; i++) setInterval(() => {}, 0);
await scheduler.wait(1_000);

//# timers-that-never-end: ok
setInterval(() => {}, 1);
setTimeout(() => {}, 2 ** 31 - 1);

//# console-lines: cpu or memory or exception
for (;;) console.log('x'.repeat(1_000));

//# console-of-a-huge-string: ok or cpu or memory
console.log('x'.repeat(5e6));

//# console-of-a-huge-list: ok or cpu or memory
console.log(new Array(1e6).fill({ a: { b: 1 } }));

//# console-counters: cpu or memory
for (let i = 0;; i++) { console.count('c' + i); console.time('t' + i); console.group(); }

//# fetches: exception
await Promise.all(Array.from({ length: 200 }, () => fetch(env.ORIGIN)));

//# fetches-one-after-the-other: exception
for (;;) await (await fetch(env.ORIGIN)).text();

//# fetches-caught: cpu or wall or memory
for (;;) await fetch(env.ORIGIN).catch(() => {});

//# fetches-whose-bodies-are-not-read: exception or wall
for (;;) kept.push(await fetch(env.ORIGIN + 'endless'));

//# fetch-without-an-answer: wall
await fetch(env.ORIGIN + 'silence');

//# fetch-of-a-redirect-loop: exception
await fetch(env.ORIGIN + 'loop');

//# fetch-of-redirects-that-grow: ok or exception
await fetch(env.ORIGIN + 'longer');

//# fetch-of-endless-headers: exception
await fetch(env.ORIGIN + 'headers');

//# fetch-with-an-endless-body: wall or cpu or exception
await fetch(env.ORIGIN + 'silence', { method: 'POST', body: new ReadableStream({ pull(c) { c.enqueue(new Uint8Array(1 << 16)); } }), duplex: 'half' });

//# fetch-with-huge-headers: exception or cpu
const headers = new Headers();
for (let i = 0; i < 2_000; i++) headers.append('x-' + i, 'v'.repeat(8_000));
await fetch(env.ORIGIN, { headers });
throw new Error('on purpose');

//# fetch-of-itself-without-end: exception or wall or ok; many
const answers = await Promise.all([fetch(env.OWN), fetch(env.OWN)]);
if (answers.some((answer) => !answer.ok)) throw new Error('on purpose');

//# fetch-of-the-service-itself-without-end: exception or wall or overloaded or cpu or ok; many
const answers = await Promise.all([env.SELF.fetch(request.url), env.SELF.fetch(request.url)]);
if (answers.some((answer) => !answer.ok)) throw new Error('on purpose');

//# kv-reads: exception
await Promise.all(Array.from({ length: 200 }, (_, i) => env.KV.get('k' + i)));

//# kv-writes: exception
await Promise.all(Array.from({ length: 200 }, (_, i) => env.KV.put('k' + i, 'v')));

//# kv-writes-of-large-values: exception or memory or cpu
const value = new Uint8Array(20 << 20);
await Promise.all(Array.from({ length: 200 }, (_, i) => env.KV.put('k' + i, value)));

//# kv-key-too-long: exception
await env.KV.put('k'.repeat(513), 'v');

//# kv-value-too-large: exception or memory
await env.KV.put('k', new ReadableStream({ pull(c) { c.enqueue(new Uint8Array(1 << 20)); } }));

//# streams-of-tiny-pieces: late cpu
return new Response(new ReadableStream({ pull(controller) { controller.enqueue(new Uint8Array(1)); } }));

//# streams-without-end: late canceled or late cpu; leave=3
return new Response(new ReadableStream({
  async pull(controller) { controller.enqueue(new Uint8Array(1_024)); await scheduler.wait(5); },
}));

//# stream-that-never-yields: late canceled or late wall; idle=200
return new Response(new ReadableStream({ pull: () => new Promise(() => {}) }));

//# stream-to-a-client-that-does-not-read: late canceled or late cpu; idle=500
return new Response(new ReadableStream({ pull(controller) { controller.enqueue(new Uint8Array(1 << 16)); } }));

//# whole-body-to-a-client-that-does-not-read: late ok or late canceled; idle=500
return new Response(new Uint8Array(20 << 20));

//# response-headers-many: ok or exception or cpu or memory or late ok
const headers = new Headers();
for (let i = 0; i < 5_000; i++) headers.append('x-' + i, 'v');
return new Response('survived', { headers });

//# response-headers-too-many: ok or exception or cpu or memory or late ok
const headers = new Headers();
for (let i = 0; i < 40_000; i++) headers.append('x-' + i, 'v');
return new Response('survived', { headers });

//# response-header-huge: ok or exception or cpu or memory or late ok
return new Response('survived', { headers: { x: 'v'.repeat(10e6) } });

//# response-header-of-controls: exception
return new Response('', { headers: { x: 'a\u0000b' } });

//# response-header-that-splits: exception
return new Response('', { headers: { x: 'a\r\nset-cookie: b=c' } });

//# response-header-of-the-connection: ok
return new Response('survived', { headers: { 'connection': 'close', 'transfer-encoding': 'chunked', 'upgrade': 'x', 'keep-alive': '1' } });

//# response-header-with-a-false-length: ok or exception or late exception or late ok
return new Response('survived', { headers: { 'content-length': '1000000' } });

//# response-cookies: ok or exception or cpu or memory or late ok
const headers = new Headers();
for (let i = 0; i < 3_000; i++) headers.append('set-cookie', `c${i}=${'v'.repeat(100)}`);
return new Response('survived', { headers });

//# request-body-not-read: ok; post=5000000

//# request-body-half-read: ok; post=5000000
await request.body.getReader().read();

//# request-body-that-stops-coming: wall; half=100000
await request.text();

//# request-body-that-stops-coming-and-is-not-read: ok; half=100000

//# request-body-teed-without-end: ok or memory or exception; post=5000000
for (let i = 0; i < 100; i++) kept.push(request.clone());

//# key-derivation-without-end: exception or cpu or wall
const key = await crypto.subtle.importKey('raw', new Uint8Array(8), 'PBKDF2', false, ['deriveBits']);
await crypto.subtle.deriveBits({ name: 'PBKDF2', hash: 'SHA-512', salt: new Uint8Array(8), iterations: 1e9 }, key, 256);

//# keys-of-giant-size: exception or cpu or wall
await crypto.subtle.generateKey({ name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256', modulusLength: 16_384, publicExponent: new Uint8Array([1, 0, 1]) }, false, ['sign', 'verify']);

//# keys-without-end: cpu or wall or memory
for (;;) kept.push(await crypto.subtle.generateKey({ name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256', modulusLength: 2_048, publicExponent: new Uint8Array([1, 0, 1]) }, false, ['sign', 'verify']));

//# digests-in-parallel: cpu or wall or memory or exception
const data = new Uint8Array(10 << 20);
await Promise.all(Array.from({ length: 2_000 }, () => crypto.subtle.digest('SHA-512', data)));

//# compression-without-end: cpu or wall or memory
const zip = new CompressionStream('gzip');
const writer = zip.writable.getWriter();
zip.readable.pipeTo(new WritableStream());
const data = crypto.getRandomValues(new Uint8Array(65_536));
for (;;) await writer.write(data);

//# compression-of-one-huge-piece: cpu or memory
const piece = new Uint8Array(50_000_000);
for (let at = 0; at < piece.length; at += 50_000) crypto.getRandomValues(piece.subarray(at, at + 50_000));
const zip = new CompressionStream('brotli');
zip.readable.pipeTo(new WritableStream());
const writer = zip.writable.getWriter();
for (;;) await writer.write(piece);
