//! Runs scripts that try to exhaust V8's memory, each in a process of its own, and says how each one ends:
//! with an outcome, or with the signal that killed the process.
//!
//! `cargo run -p atoll-isolate --example exhaust [name]`

use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_isolate::{
    Body, Engine, EngineOptions, FetchEvent, FetchHop, Host, HostError, Instance, InstanceOptions,
    KvCall, KvReply, Limits, LogLine, Module, ModuleKind, Script, ScriptFormat,
};
use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http::{Request, Response};

/// Each body of a `fetch` handler, by name.
const SCRIPTS: &[(&str, &str)] = &[
    ("objects", "const a = []; for (;;) a.push({ x: [1, 2, 3] });"),
    ("array fill", "return new Response(String(new Array(1e9).fill(1).length));"),
    ("array fill 3e7", "return new Response(String(new Array(3e7).fill({}).length));"),
    ("array fill 1.2e8", "return new Response(String(new Array(1.2e8).fill({}).length));"),
    ("doubles", "const a = new Array(6e7); a.fill(1.5); return new Response(String(a.length));"),
    ("double push", "const a = []; for (;;) a.push(1.5);"),
    ("smi push", "const a = []; for (;;) a.push(1);"),
    ("array from", "return new Response(String(Array.from({ length: 2 ** 28 }).length));"),
    (
        "array from map",
        "return new Response(String(Array.from({ length: 2 ** 27 }, () => ({})).length));",
    ),
    ("spread", "let a = [1, 2, 3, 4]; for (;;) a = [...a, ...a];"),
    ("concat", "let a = [{}, {}, {}, {}]; for (;;) a = a.concat(a);"),
    ("string doubling", "let s = 'x'; for (;;) { s += s; }"),
    (
        "string flatten",
        "let s = 'x'.repeat(2 ** 29 - 24); return new Response(String(s.charCodeAt(77) + s.indexOf('y')));",
    ),
    (
        "string flatten twice",
        "let s = 'x'.repeat(2 ** 29 - 24), t = 'é'.repeat(2 ** 29 - 24); return new Response(String(s.indexOf('y') + t.indexOf('y')));",
    ),
    (
        "two byte flatten",
        "let t = '\\u4e2d'.repeat(2 ** 29 - 24); return new Response(String(t.indexOf('y')));",
    ),
    (
        "strings kept",
        "const a = []; for (let i = 0; ; i++) { const s = 'x'.repeat(2 ** 24) + i; s.indexOf('y'); a.push(s); }",
    ),
    ("upper case", "return new Response('x'.repeat(2 ** 29 - 24).toUpperCase());"),
    ("respond huge", "return new Response('x'.repeat(2 ** 29 - 24));"),
    ("log huge", "console.log('x'.repeat(2 ** 28)); return new Response('ok');"),
    ("join", "return new Response(String(new Array(2 ** 26).join('abcdefg').length));"),
    ("split", "return new Response(String('a,'.repeat(2 ** 27).split(',').length));"),
    (
        "replace",
        "return new Response(String('a'.repeat(2 ** 26).replace(/a/g, 'bbbbbbbb').length));",
    ),
    ("pad", "return new Response('x'.padEnd(2 ** 29 - 24, 'ab').toLowerCase());"),
    ("template", "let s = 'abc'; for (;;) s = `${s}${s}x`;"),
    ("map", "const m = new Map(); for (let i = 0; ; i++) m.set(i, i);"),
    ("set", "const m = new Set(); for (let i = 0; ; i++) m.add(i);"),
    (
        "weak map",
        "const m = new WeakMap(), k = []; for (;;) { const o = {}; k.push(o); m.set(o, o); }",
    ),
    (
        "map of set",
        "return new Response(String(new Set(new Uint8Array(64 << 20).map((_, i) => i)).size + new Set(Array.from({ length: 1 << 24 }, (_, i) => i)).size));",
    ),
    ("properties", "const o = {}; for (let i = 0; ; i++) o['p' + i] = i;"),
    ("sparse", "const o = []; for (let i = 0; ; i += 1000) o[i] = i;"),
    (
        "element far",
        "const o = []; for (let i = 0; i < 6e7; i++) o[i] = i; return new Response('ok');",
    ),
    ("symbols", "const a = []; for (;;) a.push(Symbol('x'));"),
    ("bigint", "let a = 2n; for (;;) a = a * a;"),
    ("bigint shift", "return new Response(String((1n << (2n ** 30n - 1n)) & 1n));"),
    ("bigint kept", "const a = []; for (let i = 0n; ; i++) a.push((1n << 8000000n) + i);"),
    (
        "json parse",
        "return new Response(String(JSON.parse('[' + '{},'.repeat(2e7) + '{}]').length));",
    ),
    (
        "json parse deep",
        "return new Response(String(JSON.parse('['.repeat(1e7) + ']'.repeat(1e7)).length));",
    ),
    (
        "json parse numbers",
        "return new Response(String(JSON.parse('[' + '1.5,'.repeat(4e7) + '1]').length));",
    ),
    (
        "json stringify",
        "const a = new Array(1e6).fill('x'.repeat(600)); return new Response(String(JSON.stringify(a).length));",
    ),
    (
        "structured clone",
        "const a = new Array(5e6).fill('abcdefgh'); const k = []; for (;;) k.push(structuredClone(a));",
    ),
    ("typed arrays", "const a = []; for (;;) a.push(new Uint8Array(1 << 20));"),
    ("typed array 1g", "return new Response(String(new Float64Array(2 ** 27).length));"),
    (
        "array buffers caught",
        "const a = []; for (;;) { try { a.push(new ArrayBuffer(1 << 20)); } catch { a.push({}); } }",
    ),
    (
        "resizable",
        "const a = []; for (;;) { const b = new ArrayBuffer(1, { maxByteLength: 2 ** 28 }); b.resize(2 ** 28); a.push(b); }",
    ),
    (
        "resizable small",
        "const a = []; for (;;) { const b = new ArrayBuffer(1, { maxByteLength: 2 ** 20 }); b.resize(2 ** 20); new Uint8Array(b).fill(1); a.push(b); }",
    ),
    ("shared buffers", "const a = []; for (;;) a.push(new SharedArrayBuffer(1 << 20));"),
    (
        "shared growable",
        "const a = []; for (;;) { const b = new SharedArrayBuffer(1, { maxByteLength: 2 ** 26 }); b.grow(2 ** 26); new Uint8Array(b).fill(1); a.push(b); }",
    ),
    (
        "wasm memory",
        "const a = []; for (;;) { const m = new WebAssembly.Memory({ initial: 2000 }); new Uint8Array(m.buffer).fill(1); a.push(m); }",
    ),
    (
        "wasm grow",
        "const a = []; for (;;) { const m = new WebAssembly.Memory({ initial: 1 }); for (let i = 0; i < 1500; i++) m.grow(1); new Uint8Array(m.buffer).fill(1); a.push(m); }",
    ),
    (
        "wasm shared",
        "const a = []; for (;;) { const m = new WebAssembly.Memory({ initial: 1000, maximum: 1000, shared: true }); new Uint8Array(m.buffer).fill(1); a.push(m); }",
    ),
    (
        "wasm small memories",
        "const a = []; for (;;) a.push(new WebAssembly.Memory({ initial: 1 }));",
    ),
    (
        "wasm table",
        "const a = []; for (;;) { const t = new WebAssembly.Table({ element: 'externref', initial: 1 }); t.grow(9999990, {}); a.push(t); }",
    ),
    ("regexp", "return new Response(String(/(x+x+)+y/.test('x'.repeat(1e6))));"),
    (
        "regexp captures",
        "const s = 'ab'.repeat(2e7); return new Response(String(s.match(/a/g).length));",
    ),
    ("regexp backtrack", "return new Response(String(/(?:a|b)*c/.test('ab'.repeat(5e7))));"),
    (
        "regexp compile",
        "const a = []; for (let i = 0; ; i++) { const r = new RegExp('(' + 'ab|'.repeat(20000) + i + ')'); r.test('abc'); a.push(r); }",
    ),
    ("arguments", "return new Response(String(Math.max(...new Array(1e7).fill(1))));"),
    (
        "apply",
        "return new Response(String(String.fromCharCode.apply(null, new Array(3e7).fill(65)).length));",
    ),
    ("closures", "let f = () => 1; for (;;) { const g = f; f = () => g; }"),
    ("promises", "const a = []; for (;;) a.push(new Promise(() => {}).then(() => {}));"),
    (
        "promise chain",
        "for (;;) await Promise.all(new Array(1e6).fill(0).map(async () => { await null; return {}; }));",
    ),
    (
        "microtasks",
        "const f = () => { queueMicrotask(f); queueMicrotask(f); }; f(); await new Promise(() => {});",
    ),
    (
        "then flood",
        "const f = () => { Promise.resolve().then(f); Promise.resolve().then(f); }; f(); await new Promise(() => {});",
    ),
    ("timers", "for (;;) setTimeout(() => {}, 1e6);"),
    (
        "streams",
        "const s = new ReadableStream({ start(c) { for (;;) c.enqueue(new Uint8Array(65536)); } }); return new Response(s);",
    ),
    (
        "stream of strings",
        "const s = new ReadableStream({ pull(c) { for (let i = 0; i < 1e9; i++) c.enqueue('x' + i); } }, { highWaterMark: 1e9 }); return new Response(s);",
    ),
    (
        "tee",
        "let s = new ReadableStream({ pull(c) { c.enqueue(new Uint8Array(65536)); } }); const [a, b] = s.tee(); const r = a.getReader(); for (;;) await r.read();",
    ),
    ("blob", "const a = []; for (;;) a.push(new Blob(['x'.repeat(1 << 20)]));"),
    ("blob of itself", "let b = new Blob(['x'.repeat(1 << 20)]); for (;;) b = new Blob([b, b]);"),
    (
        "text encode",
        "const a = []; for (;;) a.push(new TextEncoder().encode('x'.repeat(1 << 20)));",
    ),
    (
        "text decode",
        "const a = []; const b = new Uint8Array(1 << 24); for (;;) a.push(new TextDecoder('utf-16le').decode(b));",
    ),
    ("base64", "const a = []; for (;;) a.push(btoa('x'.repeat(1 << 24)));"),
    (
        "headers",
        "const h = new Headers(); for (let i = 0; ; i++) h.append('x' + i, 'y'.repeat(1000));",
    ),
    (
        "url params",
        "const h = new URLSearchParams(); for (let i = 0; ; i++) h.append('x' + i, 'y'.repeat(1000));",
    ),
    (
        "form data",
        "const h = new FormData(); for (let i = 0; ; i++) h.append('x' + i, 'y'.repeat(1000));",
    ),
    (
        "url",
        "return new Response(new URL('http://a.test/' + 'x'.repeat(2 ** 28)).href.length + '');",
    ),
    (
        "events",
        "const t = new EventTarget(); for (let i = 0; ; i++) t.addEventListener('x' + i, () => {});",
    ),
    ("abort signals", "const a = []; for (;;) a.push(AbortSignal.timeout(1e6));"),
    (
        "message channel",
        "const { port1, port2 } = new MessageChannel(); const a = new Array(1e5).fill('abcdefgh'); for (;;) port1.postMessage(a);",
    ),
    (
        "digest",
        "const a = []; for (;;) a.push(crypto.subtle.digest('SHA-256', new Uint8Array(1 << 20)));",
    ),
    ("random", "const a = []; for (;;) a.push(crypto.getRandomValues(new Uint8Array(65536)));"),
    (
        "compression",
        "const s = new CompressionStream('gzip'); const w = s.writable.getWriter(); for (;;) w.write(new Uint8Array(1 << 20));",
    ),
    ("log flood", "for (let i = 0; ; i++) console.log('x'.repeat(1000) + i);"),
    ("errors", "const a = []; for (;;) a.push(new Error('x'.repeat(10)));"),
    ("stack strings", "const a = []; for (;;) a.push(new Error('x').stack);"),
    ("intl", "const a = []; for (;;) a.push(new Intl.DateTimeFormat('de'));"),
    (
        "intl segmenter",
        "const a = []; for (const s of new Intl.Segmenter('en').segment('ab '.repeat(1e7))) a.push(s);",
    ),
    ("proxies", "let p = {}; for (;;) p = new Proxy(p, {});"),
    (
        "deep proxies",
        "let p = {}; for (let i = 0; i < 1e5; i++) p = new Proxy(p, {}); return new Response(String(p.x));",
    ),
    (
        "generators",
        "const a = []; function* g() { yield 1; } for (;;) { const x = g(); x.next(); a.push(x); }",
    ),
    ("weak refs", "const a = []; for (;;) a.push(new WeakRef({}));"),
    ("finalizers", "const f = new FinalizationRegistry(() => {}); for (;;) f.register({}, {});"),
    (
        "sort",
        "return new Response(String(new Array(3e7).fill(0).map((_, i) => -i).sort().length));",
    ),
    (
        "flat",
        "let a = [1]; for (let i = 0; i < 40; i++) a = [a, a]; return new Response(String(a.flat(Infinity).length));",
    ),
    (
        "copy within",
        "const a = new Array(3e7).fill({}); return new Response(String([a.slice(), a.slice(), a.toReversed(), a.with(0, 1)].length));",
    ),
    (
        "entries",
        "const o = Object.fromEntries(Array.from({ length: 3e6 }, (_, i) => ['k' + i, i])); return new Response(String(Object.entries(o).length + Object.keys(o).length));",
    ),
    ("assign", "let o = {}; for (let i = 0; ; i++) { o = { ...o, ['k' + i]: i }; }"),
    ("import", "for (let i = 0; ; i++) await import('./none' + i).catch(() => {});"),
    (
        "clone request",
        "const a = []; const r = new Request('http://a.test/', { method: 'POST', body: 'x'.repeat(1 << 24) }); for (;;) a.push(await r.clone().text());",
    ),
    ("wait until", "for (;;) ctx.waitUntil(new Promise(() => {}));"),
    (
        "fetches",
        "const a = []; for (let i = 0; i < 1e6; i++) a.push(fetch('http://b.test/').catch(() => {})); await Promise.all(a);",
    ),
    ("async context", "for (;;) await new Promise((r) => queueMicrotask(r));"),
];

struct NoHost;

impl Host for NoHost {
    fn fetch(&self, _: FetchHop) -> LocalBoxFuture<'static, Result<Response<Body>, HostError>> {
        Box::pin(async { Err(HostError::Refused("no".to_owned())) })
    }

    fn kv(&self, _: u32, _: KvCall) -> LocalBoxFuture<'static, Result<KvReply, HostError>> {
        Box::pin(async { Err(HostError::Refused("no".to_owned())) })
    }

    fn console(&self, _: Option<&str>, _: &LogLine) {}
}

/// Runs one script in this process and prints how it ended.
fn run(name: &str) {
    let (_, body) = SCRIPTS.iter().find(|(known, _)| *known == name).expect("a known script");
    let engine = Engine::start(EngineOptions::default()).expect("V8 starts");
    let worker = format!("export default {{ async fetch(request, env, ctx) {{ {body} }} }}");
    let modules = vec![Module {
        name: "index.js".to_owned(),
        kind: ModuleKind::EsModule,
        bytes: Bytes::from(worker),
    }];
    let limits =
        Limits { cpu: Duration::from_secs(3), wall: Duration::from_secs(30), ..Limits::default() };
    let thread = std::thread::Builder::new().stack_size(8 << 20);
    let ended = thread.spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            let isolates = engine.thread().expect("an isolate thread");
            let options = InstanceOptions {
                script: Arc::new(Script::new(ScriptFormat::Modules, "index.js", modules)),
                bindings: Vec::new(),
                limits,
                host: Rc::new(NoHost),
                inspector: false,
            };
            let instance = Instance::load(&isolates, options).await.expect("it starts");
            let began = Instant::now();
            let event = FetchEvent {
                id: "0".into(),
                url: "http://a.test/".into(),
                request: Request::get("http://a.test/").body(None).expect("a request"),
                finish_headers: None,
                cf: "{}".into(),
            };
            let fetched = instance.fetch(event, Box::new(|_| ())).await;
            let how = match fetched {
                Ok(response) => format!("{}", response.status()),
                Err(failure) => {
                    let message: String = failure.exception.message.chars().take(60).collect();
                    format!("{} ({message})", failure.outcome.as_str())
                }
            };
            tokio::time::sleep(Duration::from_millis(100)).await;
            let memory = instance.memory();
            drop(instance);
            println!(
                "{how}; {} ms; heap {} MiB, buffers {} MiB, wasm {} MiB; peak RSS {} MiB; left {} KiB",
                began.elapsed().as_millis(),
                memory.heap >> 20,
                memory.buffers >> 20,
                memory.wasm >> 20,
                peak_rss_bytes() >> 20,
                engine.memory().used() >> 10,
            );
        });
    });
    ended.expect("a thread").join().expect("no panic");
}

fn peak_rss_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.trim().parse::<usize>().ok()).unwrap_or(0) << 10
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next(), arguments.next()) {
        (Some(flag), Some(name)) if flag == "--in-process" => return run(&name),
        (wanted, _) => {
            let exe = std::env::current_exe().expect("a program");
            for (name, _) in SCRIPTS {
                if wanted.as_ref().is_some_and(|wanted| wanted != name) {
                    continue;
                }
                let child = Command::new(&exe).arg("--in-process").arg(name).output();
                let child = child.expect("the program starts again");
                let said = String::from_utf8_lossy(&child.stdout);
                let end = if child.status.success() {
                    said.trim().to_owned()
                } else {
                    let errors = String::from_utf8_lossy(&child.stderr);
                    let fatal = errors.lines().find(|line| line.contains("Fatal"));
                    format!("KILLED {}; {}", child.status, fatal.unwrap_or_default())
                };
                println!("{name:22} {end}");
            }
        }
    }
}
