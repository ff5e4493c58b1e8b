// Reaching for what a worker must not have. A case survives when nothing was found.

//# code-from-strings: ok
for (const make of [() => eval('1'), () => (0, eval)('1'), () => new Function('1')(), () => Function.prototype.constructor('1')(),
  () => (async () => {}).constructor('1')(), () => (function* () {}).constructor('1')(), () => setTimeout('1'), () => setInterval('1')]) {
  try { make(); return new Response(`made by ${make}`); } catch {}
}

//# code-from-wasm-bytes: ok
const bytes = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0]);
for (const make of [() => new WebAssembly.Module(bytes), () => WebAssembly.compile(bytes), () => WebAssembly.instantiate(bytes),
  () => WebAssembly.compileStreaming(new Response(bytes, { headers: { 'content-type': 'application/wasm' } })),
  () => WebAssembly.instantiateStreaming(new Response(bytes, { headers: { 'content-type': 'application/wasm' } }))]) {
  try { await make(); return new Response(`made by ${make}`); } catch {}
}

//# modules: ok
for (const specifier of ['ext:core/mod.js', 'ext:core/ops', 'ext:atoll/main.js', 'ext:deno_web/02_event.js', 'node:fs', 'node:child_process', 'node:process', 'node:vm',
  'file:///etc/passwd', '/etc/passwd', '../../etc/passwd', 'data:text/javascript,export ' + 'default 1', 'blob:null/x', 'http://127.0.0.1/x.js', 'https://example.com/x.js',
  'npm:left-pad', 'jsr:@std/fs', 'cloudflare:sockets', 'atoll-bytes:index.js']) {
  try { await import(specifier); return new Response(`imported ${specifier}`); } catch {}
}

//# modules-of-json-and-bytes: ok
for (const type of ['json', 'text', 'bytes', 'css'])
  try { await import('file:///etc/passwd', { with: { type } }); return new Response(`imported as ${type}`); } catch {}

//# names: ok
for (const name of ['Deno', '__bootstrap', '__atoll', '__infra', '__timers', 'bootstrap', 'ops', 'core', 'process', 'require', 'gc', 'module', 'exports', 'WebSocketStream', 'Worker', 'SharedWorker', 'importScripts', 'localStorage', 'BroadcastChannel', 'EventSource'])
  if (name in globalThis) return new Response(`there is ${name}`);

//# locks: ok
if (navigator.locks) return new Response('there are locks');

//# atomics-wait: ok or exception
const shared = typeof SharedArrayBuffer === 'undefined' ? new ArrayBuffer(8) : new SharedArrayBuffer(8);
try { Atomics.wait(new Int32Array(shared), 0, 0, 1_000); return new Response('it waits'); } catch {}

//# shared-memory-of-wasm: ok
try {
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
  Atomics.wait(new Int32Array(memory.buffer), 0, 0, 1_000);
  return new Response('it waits');
} catch {}

//# stacks-that-show-frames: ok
Error.prepareStackTrace = (_, sites) => sites.map((site) => [site.getThis?.(), site.getFunction?.(), site.getFileName?.()]);
const sites = new Error('x').stack;
delete Error.prepareStackTrace;
for (const [self, fn, file] of Array.isArray(sites) ? sites : [])
  if (/^ext:|^deno:/.test(file ?? '') && (self || fn)) return new Response(`a frame of ${file} is open`);

//# callers: ok
for (const get of [() => (function f() { return f.caller; })(), () => (function () { return arguments.callee.caller; })()])
  try { const caller = get(); if (caller) return new Response(`called by ${caller}`); } catch {}

//# the-network-inside: ok
const refused = ['http://127.0.0.2/', 'http://169.254.169.254/', 'http://[::1]/', 'http://10.0.0.1/', 'http://0.0.0.0/', 'file:///etc/passwd', 'ftp://x/', 'unix:/x'];
for (const url of refused) try { await fetch(url); return new Response(`fetched ${url}`); } catch {}

//# another-workers-resources: ok
let found = 0;
for (let rid = 0; rid < 64; rid++) try { new Response(rid).body; found += typeof (await new Response(rid).text()) !== 'string'; } catch {}
if (found) return new Response('found');

//# blob-urls: ok
const url = URL.createObjectURL?.(new Blob(['x']));
if (url) try { await fetch(url); await import(url); return new Response('imported'); } catch {}

//# time-that-is-fine: ok
const steps = new Set();
for (let i = 0, last = performance.now(); i < 1_000; i++) { const now = performance.now(); if (now !== last) steps.add(now - last); last = now; }
const finest = Math.min(...steps, 1e9);
if (finest < 0.005) return new Response(`the clock shows ${finest} ms`);

//# native-syntax: ok
try { new Function('%SystemBreak()'); return new Response('made'); } catch {}

//# inspection: ok
const shown = [];
for (const key of Reflect.ownKeys(globalThis)) if (typeof key === 'symbol' && !/toStringTag/.test(String(key))) shown.push(String(key));
if (shown.some((name) => /deno|internal|atoll/i.test(name))) return new Response(`symbols ${shown}`);

//# sockets: ok or exception
if (typeof WebSocket === 'function') { try { new WebSocket('ws://127.0.0.2/'); await scheduler.wait(20); } catch {} }
