// Scripts that must not start. The upload is refused with the reason, and the node goes on.

//# starts-with-a-loop: refused exceeded-cpu
for (;;);
export default { fetch() {} };

//# starts-with-an-await-of-nothing: refused await
await new Promise(() => {});
export default { fetch() {} };

//# starts-with-microtasks-without-end: refused exceeded-cpu
const again = () => queueMicrotask(again);
again();
await new Promise(() => {});
export default { fetch() {} };

//# starts-with-a-hoard: refused exceeded-
const kept = [];
for (;;) kept.push(new Array(1_000).fill({}).map(() => ({})));
export default { fetch() {} };

//# starts-with-buffers: refused e
const kept = [];
for (;;) kept.push(new Uint8Array(1 << 20).fill(1));
export default { fetch() {} };

//# starts-with-recursion: refused RangeError
const f = () => f() + 1;
f();
export default { fetch() {} };

//# starts-with-a-fetch: refused global scope
await fetch('http://example.com/');
export default { fetch() {} };

//# starts-with-a-timer: refused global scope
setTimeout(() => {}, 1);
export default { fetch() {} };

//# starts-with-a-wait: refused global scope
await scheduler.wait(1);
export default { fetch() {} };

//# starts-with-a-throw: refused Error
throw new Error('not today');
export default { fetch() {} };

//# starts-with-a-throw-of-a-proxy: refused Uncaught
throw new Proxy({}, { get() { throw 1; } });
export default { fetch() {} };

//# starts-with-a-rejection: refused TypeError
await Promise.reject(new TypeError('no'));
export default { fetch() {} };

//# starts-with-a-syntax-error: refused SyntaxError
export default { fetch( { } };

//# starts-with-a-slow-regex: refused exceeded-cpu
/^(a+)+$/.test('a'.repeat(64) + 'b');
export default { fetch() {} };

//# starts-with-a-search-without-end: refused searches
const text = 'a'.repeat(2 ** 21);
(text + text).lastIndexOf(text + 'b');
export default { fetch() {} };

//# starts-with-an-import-of-itself-without-end: refused exceed
for (;;) await import('./index.js?' + Math.random()).catch(() => {});
export default { fetch() {} };

//# starts-with-an-import-of-the-inside: refused ext:
import 'ext:core/ops';
export default { fetch() {} };

//# starts-without-a-handler: refused handler
export default {};

//# starts-with-a-getter-for-its-handlers: refused exceeded-cpu
export default { get fetch() { for (;;); } };

//# starts-with-a-proxy-for-its-handlers: refused exceeded-cpu
export default new Proxy({}, { get() { for (;;); } });

//# starts-with-a-throwing-export: refused no
export default { get fetch() { throw new Error('no'); } };

//# starts-with-then-exported: refused exceeded-cpu
export function then() { for (;;); }
export default { get fetch() { for (;;); } };

//# starts-with-wasm-that-loops: refused exceeded-cpu
new WebAssembly.Instance(new WebAssembly.Module(new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 4, 1, 96, 0, 0, 3, 2, 1, 0, 8, 1, 0, 10, 9, 1, 7, 0, 3, 64, 12, 0, 11, 11,
])));
export default { fetch() {} };

//# starts-by-waiting-for-another-thread: refused not defined
Atomics.wait(new Int32Array(new SharedArrayBuffer(8)), 0, 0);
export default { fetch() {} };
