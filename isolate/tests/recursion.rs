//! Too deep a recursion is an exception of the script that recurses, wherever the stack is used up: in its own
//! code, in V8's, or in the runtime's.

mod support;

use support::{load, on_isolate_thread};

const URL: &str = "http://a.test/";

/// Each is a function body that may throw a `RangeError` and nothing worse. What it returns does not matter.
const DEEP: &[(&str, &str)] = &[
    ("function", "const f = () => f() + 1; f();"),
    ("method", "const o = { f() { return o.f() + 1; } }; o.f();"),
    ("getter", "const o = { get x() { return o.x; } }; o.x;"),
    ("setter", "const o = { set x(v) { o.x = v; } }; o.x = 1;"),
    ("proxy", "const p = new Proxy({}, { get: (t, k, r) => r[k] }); p.x;"),
    ("proxy chain", "let p = {}; for (let i = 0; i < 1e5; i++) p = new Proxy(p, {}); p.x;"),
    ("toString", "const o = { toString() { return `${o}`; } }; `${o}`;"),
    ("constructor", "class C { constructor() { new C(); } } new C();"),
    ("bound", "let f = () => 1; for (let i = 0; i < 1e5; i++) f = f.bind(null); f();"),
    ("apply", "const f = () => Reflect.apply(f, null, []); f();"),
    ("generator", "function* g() { yield* g(); } g().next();"),
    ("async", "const f = async () => { await f(); }; await f();"),
    (
        "promise chain",
        "let p = Promise.resolve(); for (let i = 0; i < 1e5; i++) p = p.then((x) => x); await p;",
    ),
    (
        "nested promises",
        "let p = Promise.resolve(); for (let i = 0; i < 1e5; i++) { const q = p; p = (async () => q)(); } await p;",
    ),
    ("thenables", "const t = (n) => ({ then(r) { r(n ? t(n - 1) : 1); } }); await t(1e4);"),
    ("JSON.parse", "JSON.parse('['.repeat(1e6) + ']'.repeat(1e6));"),
    ("JSON.parse reviver", "JSON.parse('['.repeat(1e5) + ']'.repeat(1e5), (k, v) => v);"),
    ("JSON.stringify", "let o = []; for (let i = 0; i < 1e6; i++) o = [o]; JSON.stringify(o);"),
    ("toJSON", "const o = { toJSON: () => ({ o }) }; JSON.stringify(o);"),
    ("structuredClone", "let o = {}; for (let i = 0; i < 1e6; i++) o = { o }; structuredClone(o);"),
    (
        "regexp",
        "/(a?){50000}/.test('a'.repeat(5e4)) || new RegExp('('.repeat(1e5) + ')'.repeat(1e5));",
    ),
    ("regexp backtracking", "/^(?:(a)|(b)|.)*$/.test('ab'.repeat(1e6));"),
    ("array join", "const a = []; for (let b = a, i = 0; i < 1e5; i++) b = b[0] = []; a.join();"),
    ("array flat", "let a = []; for (let i = 0; i < 1e5; i++) a = [a]; a.flat(Infinity);"),
    ("sort", "const f = () => [2, 1].sort(f); f();"),
    ("replace", "const f = () => 'a'.replace(/a/, f); f();"),
    ("prepareStackTrace", "Error.prepareStackTrace = () => new Error().stack; new Error().stack;"),
    (
        "stack getter",
        "const e = {}; Object.defineProperty(e, 'stack', { get() { return this.stack; } }); e.stack;",
    ),
    (
        "console",
        "let o = {}; for (let i = 0; i < 1e5; i++) o = { o }; console.log(o); console.log(new Proxy(o, {}));",
    ),
    (
        "console inspect",
        "const o = { get x() { console.log(o); return o.x; } }; console.log(o); o.x;",
    ),
    (
        "event",
        "const t = new EventTarget(); t.addEventListener('x', () => t.dispatchEvent(new Event('x'))); t.dispatchEvent(new Event('x'));",
    ),
    (
        "abort",
        "const s = []; const f = () => { const c = new AbortController(); c.signal.onabort = f; c.abort(); }; f();",
    ),
    (
        "signals",
        "let s = new AbortController().signal; for (let i = 0; i < 1e4; i++) s = AbortSignal.any([s]);",
    ),
    (
        "tee",
        "let s = new Blob(['x']).stream(); for (let i = 0; i < 1e3; i++) s = s.tee()[0]; await new Response(s).text();",
    ),
    (
        "pipes",
        "let s = new Blob(['x']).stream(); for (let i = 0; i < 300; i++) s = s.pipeThrough(new TransformStream()); await new Response(s).text();",
    ),
    (
        "headers",
        "new Headers([['x-json', '['.repeat(1e6)]]); const h = { *[Symbol.iterator]() { yield* h; } }; new Headers(h);",
    ),
    (
        "request",
        "let r = new Request('http://a.test/'); for (let i = 0; i < 1e4; i++) r = new Request(r);",
    ),
    ("params", "const p = { *[Symbol.iterator]() { yield* p; } }; new URLSearchParams(p);"),
    (
        "error cause",
        "let e = new Error(); for (let i = 0; i < 1e5; i++) e = new Error('x', { cause: e }); throw e;",
    ),
    ("error cycle", "const e = new Error('x'); e.cause = e; throw e;"),
    ("thrown proxy", "throw new Proxy(new Error('x'), { get(t, k, r) { return r[k]; } });"),
    (
        "class chain",
        "let C = class {}; for (let i = 0; i < 1e4; i++) C = class extends C {}; new C();",
    ),
    (
        "prototype chain",
        "let o = {}; for (let i = 0; i < 1e5; i++) o = Object.create(o); o.nothing;",
    ),
    ("rope", "let s = 'a'; for (let i = 0; i < 24; i++) s = s + 'b' + s; s.length; /z/.test(s);"),
    ("source text", "try { new Function('('.repeat(1e6)); } catch (e) { throw new RangeError(); }"),
    ("bigint", "(1n << 1000000n).toString().length;"),
    ("weak", "const f = () => { new FinalizationRegistry(f); return f(); }; f();"),
    (
        "microtasks",
        "let n = 0; await new Promise((r) => { const f = () => ++n < 1e5 ? queueMicrotask(f) : r(); f(); });",
    ),
    ("respond", "const h = () => h(); ctx.waitUntil({ then: h }); ctx.waitUntil(new Promise(h));"),
];

/// Whatever the body does, the same instance answers afterwards, and so does its neighbour.
#[test]
fn each_deep_recursion_is_survived() {
    on_isolate_thread(|thread| async move {
        let neighbour =
            load(&thread, "export default { fetch: () => new Response('here') };").await;
        for (name, body) in DEEP {
            let source = format!(
                "export default {{ async fetch(request, env, ctx) {{ \
                   if (request.url.endsWith('ok')) return new Response('ok'); \
                   {body} \
                   return new Response('done'); }} }};"
            );
            let worker = load(&thread, &source).await;
            let request = http::Request::get(URL).body(None).unwrap();
            match worker.request(request).await {
                Ok(response) => assert_eq!(response.status(), 200, "{name}"),
                Err(failure) => {
                    let error = &failure.exception;
                    let expected = matches!(
                        error.name.as_str(),
                        "RangeError" | "Error" | "DataCloneError" | "SyntaxError" | "InternalError"
                    ) || error.message.contains("Maximum call stack");
                    assert!(expected, "{name}: {error:?}");
                }
            }
            assert_eq!(worker.get("http://a.test/ok").await, "ok", "{name}");
            assert_eq!(neighbour.get(URL).await, "here", "{name}");
        }
    });
}

/// Recursion at start-up refuses the script and no more.
#[test]
fn deep_start_ups_fail_alone() {
    on_isolate_thread(|thread| async move {
        for (name, body) in
            DEEP.iter().filter(|(_, body)| !body.contains("ctx") && !body.contains("await"))
        {
            let source = format!(
                "(() => {{ {body} }})(); export default {{ fetch: () => new Response('ok') }};"
            );
            let setup = support::Setup::new(support::script(&source));
            if let Ok(worker) = setup.load(&thread).await {
                assert_eq!(worker.get(URL).await, "ok", "{name}");
            }
        }
        let worker = load(&thread, "export default { fetch: () => new Response('here') };").await;
        assert_eq!(worker.get(URL).await, "here");
    });
}
