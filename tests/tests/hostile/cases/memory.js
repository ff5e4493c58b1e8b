// Everything that can be made to grow.

//# arrays: memory
for (;;) kept.push(new Array(1_000).fill({}).map(() => ({})));

//# array-that-doubles: memory
let list = [1];
for (;;) list = list.concat(list);

//# array-that-is-sparse: memory or exception or cpu
const sparse = [];
for (let i = 0;; i += 1_000_003) sparse[i % 4_294_967_295] = i;

//# array-filled: memory or exception
for (;;) kept.push(new Array(3e7).fill(1.5));

//# array-from-a-length: memory or exception or cpu
kept.push(Array.from({ length: 2 ** 31 }, (_, i) => ({ i })));

//# strings-that-double: memory or exception
let text = 'x';
for (;;) { text += text; kept.push(text); text.charCodeAt(0); kept.push(text.toUpperCase()); }

//# string-repeated: memory or exception
for (let i = 0;; i++) kept.push(('x' + i).repeat(2 ** 20).toUpperCase());

//# string-padded: memory or exception
for (;;) kept.push('x'.padStart(2 ** 26, 'ab').toUpperCase());

//# strings-joined: memory or cpu or exception
for (;;) kept.push(new Array(1e7).join('ab'));

//# strings-replaced: memory or exception
let text = 'x'.repeat(1e6);
for (;;) kept.push(text = text.replaceAll('x', 'xx').slice(0, 4e6));

//# strings-interned: memory or cpu
const o = {};
for (let i = 0;; i++) o['key-' + i + '-'.repeat(100)] = 1;

//# symbols: memory or cpu
for (let i = 0;; i++) kept.push(Symbol.for('s' + i));

//# closures: memory
for (let i = 0;; i++) { const held = new Array(100).fill(i); kept.push(() => held); }

//# bigints: memory or cpu or exception
for (let i = 1n;; i++) kept.push(1n << (i * 10_000n));

//# map: memory or exception or cpu
const map = new Map();
for (let i = 0;; i++) map.set(i, { i });

//# set: memory or exception or cpu
const set = new Set();
for (let i = 0;; i++) set.add('v' + i);

//# weak-map: memory or cpu
const map = new WeakMap();
for (;;) { const key = {}; kept.push(key); map.set(key, new Array(10).fill(0)); }

//# buffers: memory or exception
for (;;) kept.push(new Uint8Array(1 << 20).fill(1));

//# buffer-that-is-huge: exception or memory
kept.push(new ArrayBuffer(2 ** 33));

//# buffers-that-grow: memory or exception or cpu
const buffer = new ArrayBuffer(1, { maxByteLength: 2 ** 32 });
for (let size = 1;; size *= 2) { buffer.resize(size); new Uint8Array(buffer).fill(1); }

//# buffers-beside-heap: memory or exception
for (;;) { kept.push(new Uint8Array(1 << 19).fill(1)); kept.push(new Array(1 << 16).fill(1.5)); }

//# typed-array-from-an-iterator: memory or cpu or exception
new Float64Array({ *[Symbol.iterator]() { for (;;) yield 1; } });

//# wasm-memory: memory or exception
const memory = new WebAssembly.Memory({ initial: 1, maximum: 65_536 });
for (;;) { memory.grow(64); new Uint8Array(memory.buffer).fill(1); }

//# wasm-memories: memory or exception or cpu or ok
for (let i = 0; i < 10_000; i++) kept.push(new WebAssembly.Memory({ initial: 256 }));

//# wasm-table: memory or exception
const table = new WebAssembly.Table({ element: 'externref', initial: 1 });
for (;;) table.grow(1_000_000, {});

//# blobs: memory or exception or cpu
const piece = new Uint8Array(1 << 20);
for (;;) kept.push(new Blob([piece]));

//# blobs-of-blobs: memory or exception or cpu
let blob = new Blob(['x'.repeat(1_024)]);
for (let i = 0; i < 40; i++) blob = new Blob([blob, blob]);
await blob.arrayBuffer();

//# files-in-a-form: memory or exception or cpu
const form = new FormData();
for (let i = 0;; i++) form.append('f' + i, new File([new Uint8Array(1 << 18)], 'f'));

//# form-as-a-body: memory or exception or cpu
const form = new FormData();
for (let i = 0;; i++) { form.append('f' + i, 'x'.repeat(1e5)); if (i % 500 === 0) kept.push(await new Response(form).arrayBuffer()); }

//# headers: memory or cpu
const headers = new Headers();
for (let i = 0;; i++) headers.append('x-' + i, 'v'.repeat(1_000) + i);

//# header-appended: memory or cpu or exception
const headers = new Headers();
for (let i = 0;; i++) { headers.append('x', 'v'.repeat(10_000) + i); if (i % 1_000 === 0) kept.push(headers.get('x')); }

//# search-params: memory or cpu or exception
const params = new URLSearchParams();
for (let i = 0;; i++) params.append('k' + i, 'v'.repeat(1_000) + i);

//# url-that-grows: memory or cpu or exception
const url = new URL('http://x/');
for (;;) { url.search += 'x'.repeat(1e5); kept.push(url.href); }

//# structured-clones: memory or exception or cpu
const big = { text: 'x'.repeat(1e5), list: new Array(1e4).fill({}).map(() => ({})) };
for (;;) kept.push(structuredClone(big));

//# encoded-text: memory or exception or cpu
const text = 'ä'.repeat(1e6);
for (;;) kept.push(new TextEncoder().encode(text));

//# decoded-text: memory or exception
const bytes = new Uint8Array(1 << 20).fill(65);
for (;;) kept.push(new TextDecoder().decode(bytes));

//# base64: memory or exception or cpu
let text = 'x'.repeat(1e6);
for (;;) kept.push(text = btoa(text));

//# streams: cpu or memory
for (;;) kept.push(new ReadableStream({ pull() {} }).getReader().read());

//# stream-queue: memory or exception or cpu
const stream = new ReadableStream({ start(controller) { for (;;) controller.enqueue(new Uint8Array(1 << 16)); } });
kept.push(stream);

//# stream-queue-of-a-response: memory or exception or cpu
return new Response(new ReadableStream({ start(controller) { for (;;) controller.enqueue(new Uint8Array(1 << 16)); } }));

//# transform-queue: memory or exception or cpu
const { writable, readable } = new TransformStream({}, { highWaterMark: Infinity }, { highWaterMark: Infinity });
const writer = writable.getWriter();
kept.push(readable);
for (;;) { await writer.ready; writer.write(new Uint8Array(1 << 16)); }

//# tee-with-one-reader: memory or exception or cpu
const [one] = new ReadableStream({ pull(controller) { controller.enqueue(new Uint8Array(1 << 16)); } }).tee();
for await (const _ of one);

//# request-bodies: memory or exception or cpu
for (;;) kept.push(new Request('http://x/', { method: 'POST', body: new Uint8Array(1 << 20) }));

//# responses-cloned: memory or exception or cpu
const response = new Response('x'.repeat(1e6));
for (;;) { const clone = response.clone(); kept.push(await clone.text(), clone); }

//# digests: memory or exception or cpu or wall
const data = new Uint8Array(30 << 20);
for (;;) kept.push(await crypto.subtle.digest('SHA-512', data));

//# random-values: memory or exception or cpu
for (;;) kept.push(crypto.getRandomValues(new Uint8Array(65_536)));

//# random-values-too-many: exception
crypto.getRandomValues(new Uint8Array(1 << 20));

//# promises: memory or cpu
for (;;) kept.push(new Promise(() => {}));

//# errors: memory or cpu
for (;;) kept.push(new Error('x'.repeat(1_000)));

//# stacks: memory or cpu or exception
Error.stackTraceLimit = Infinity;
const deep = (n) => { if (n) return deep(n - 1); for (;;) kept.push(new Error('x').stack); };
deep(1_000);

//# regexps: memory or cpu or exception
for (let i = 0;; i++) { const r = new RegExp('a' + i + '|b'.repeat(1_000)); r.test('x' + i); kept.push(r); }

//# abort-listeners: memory or cpu
for (;;) request.signal.addEventListener('abort', () => kept);

//# abort-signals: memory or cpu or exception
for (;;) kept.push(AbortSignal.any([request.signal]));

//# message-ports: memory or cpu or exception
for (;;) kept.push(new MessageChannel());

//# bomb-decompressed: memory or exception or cpu
const bomb = await fetch(env.ORIGIN + 'bomb.gz');
await new Response(bomb.body.pipeThrough(new DecompressionStream('gzip'))).arrayBuffer();

//# bomb-decompressed-at-once: memory or exception or cpu
// A gigabyte of zeros in 809 bytes.
const bomb = Uint8Array.from(atob(`z///fwAkAOKxQHLv//n//w+ABEAcFoDu/T////8BkACIwwLQvf/n//8/ABIAcVgAuvf//P//B0ACIA4LQPf+n////wBIAMRhAeje//P//x8ACY
A4LADd+3/+//8DIAEQhwWge//P//9/ACQA4rAAdO//+f//D4AEQBwWgO79P////wGQAIjDAtC9/+f//z8AEgBxWAC69//8//8HQAIgDgtA9/6f
////AEgAxGEB6N7/8///HwAJgDgsAN37f/7//wMgARCHBaB7/8///38AJADisAB07//5//8PgARAHBaA7v0/////AZAAiMMC0L3/5///PwASAH
FYALr3//z//wdAAiAOC0D3/p////8ASADEYQHo3v/z//8fAAmAOCwA3ft//v//AyABEIcFoHv/z///fwAkAOKwAHTv//n//w+ABEAcFoDu/T//
//8BkACIwwLQvf/n//8/ABIAcVgAuvf//P//B0ACIA4LQPf+n////wBIAMRhAeje//P//x8ACYA4LADd+3/+//8DIAEQhwWge//P//9/ACQA4r
AAdO//+f//D4AEQBwWgO79P////wGQAIjDAtC9/+f//z8AEgBxWAC69//8//8HQAIgDgtA9/6f////AEgAxGEB6N7/8///HwAJgDgsAN37f/7/
/wMgARCHBaB7/8///38AJADisAB07//5//8PgARAHBaA7v0/////AZAAiMMC0L3/5///PwASAHFYALr3//z//wdAAiAOC0D3/p////8ASADEYQ
Ho3v/z//8fAAmAOCwA3ft//v//AyABEIcFoHv/z///fwAkAOKwAHTv//n//w+ABEAcFoDu/T////8BkACIwwLQvf/n//8/ABIAcVgAuvf//P//
B0ACIA4LQPf+n////wBIAMRhAeje//P//x8ACYA4LADd+3/+//8DIAEQhwWge//P//9/ACQA4rAAdO//+f//D4AEQBwWgO79P////wGQAIjDAt
C9/+f//z8AEgBxWAC69//8//8HQAIgDgtA9/6f////AEgAxGEB6N7/8///HwAJgDgsAN37//z//wcgARCHBaB7/w8=`), (letter) => letter.charCodeAt(0));
const writer = new DecompressionStream('brotli');
new Response(bomb).body.pipeTo(writer.writable).catch(() => {});
kept.push(await new Response(writer.readable).arrayBuffer());

//# bomb-fetched: memory or exception or cpu
kept.push(await (await fetch(env.ORIGIN + 'bomb')).arrayBuffer());

//# bomb-fetched-as-text: memory or exception or cpu
kept.push(await (await fetch(env.ORIGIN + 'bomb')).text());

//# body-fetched-without-end: memory or exception or cpu or wall
kept.push(await (await fetch(env.ORIGIN + 'endless')).arrayBuffer());

//# memory-kept-from-call-to-call: memory or exception or ok
export default { async fetch(request) {
  if (request.url.endsWith('/ok')) return new Response('ok');
  kept.push(new Uint8Array(20 << 20).fill(1));
  return new Response('survived');
} };
const kept = [];
