//! Scripts that overwrite what JS itself is made of: they may break themselves, but neither the runtime under
//! them nor anyone beside them, and they get hold of nothing internal.

mod support;

use std::time::Duration;

use atoll_isolate::{Limits, Outcome};
use http::Request;
use support::{Setup, Worker, body, load, on_isolate_thread, script, text};

const URL: &str = "http://a.test/";

/// What a worker may overwrite. `spy` is called with whatever falls into its hands.
const POLLUTIONS: &[(&str, &str)] = &[
    (
        "object setters",
        "for (const k of ['id','ended','timers','headers','body','status','inner','url','method','then','rid','cf']) \
        Object.defineProperty(Object.prototype, k, { configurable: true, get() { spy(this); }, set(v) { spy(this); spy(v); } });",
    ),
    (
        "object values",
        "for (const k of ['get','set','value','writable','enumerable','configurable','__proto__x','signal','type','headers','status','body','code','name']) Object.prototype[k] = () => spy(k);",
    ),
    (
        "object statics",
        "for (const k of Object.getOwnPropertyNames(Object)) try { Object[k] = (...a) => { a.forEach(spy); throw new Error('gone'); }; } catch {}",
    ),
    (
        "array prototype",
        "for (const k of Object.getOwnPropertyNames(Array.prototype)) try { if (k !== 'length') Array.prototype[k] = function (...a) { spy(this); a.forEach; throw new Error('gone'); }; } catch {}",
    ),
    (
        "array indices",
        "for (let i = 0; i < 8; i++) Object.defineProperty(Array.prototype, i, { configurable: true, get() { spy(this); }, set(v) { spy(this); spy(v); } });",
    ),
    (
        "array iterator",
        "Array.prototype[Symbol.iterator] = function* () { spy(this); }; Object.getPrototypeOf([].values()).next = function () { spy(this); throw 1; };",
    ),
    (
        "array species",
        "Object.defineProperty(Array, Symbol.species, { get() { spy(this); return function (n) { return new Proxy([], { set(t, k, v) { spy(v); return true; }, defineProperty(t, k, d) { spy(d.value); return true; } }); }; } });",
    ),
    (
        "promise then",
        "Promise.prototype.then = function (...a) { spy(this); a.forEach((f) => { spy(f); }); throw new Error('gone'); };",
    ),
    (
        "promise constructor",
        "Object.defineProperty(Promise.prototype, 'constructor', { get() { spy(this); return function (f) { spy(f); f((v) => spy(v), (v) => spy(v)); }; } });",
    ),
    (
        "promise species",
        "Object.defineProperty(Promise, Symbol.species, { get() { spy(this); return function (f) { spy(f); f((v) => spy(v), (v) => spy(v)); this.then = () => {}; }; } });",
    ),
    (
        "promise statics",
        "Promise.resolve = Promise.reject = Promise.all = Promise.withResolvers = (v) => { spy(v); throw new Error('gone'); };",
    ),
    (
        "function prototype",
        "for (const k of ['call', 'apply', 'bind', 'toString']) Object.defineProperty(Function.prototype, k, { value: function (...a) { spy(this); for (let i = 0; i < a.length; i++) spy(a[i]); throw new Error('gone'); } });",
    ),
    (
        "maps",
        "for (const C of [Map, Set, WeakMap, WeakSet, WeakRef]) for (const k of Object.getOwnPropertyNames(C.prototype)) try { C.prototype[k] = function (...a) { spy(this); spy(a[0]); spy(a[1]); throw new Error('gone'); }; } catch {}",
    ),
    (
        "strings",
        "for (const k of Object.getOwnPropertyNames(String.prototype)) try { String.prototype[k] = function () { spy(this); throw new Error('gone'); }; } catch {}",
    ),
    (
        "regexps",
        "RegExp.prototype.exec = function (s) { spy(this); spy(s); throw new Error('gone'); }; RegExp.prototype[Symbol.replace] = RegExp.prototype.test = RegExp.prototype.exec; Object.defineProperty(RegExp.prototype, 'flags', { get() { spy(this); throw 1; } });",
    ),
    (
        "typed arrays",
        "const T = Object.getPrototypeOf(Uint8Array); for (const k of Object.getOwnPropertyNames(T.prototype)) try { Object.defineProperty(T.prototype, k, { get() { spy(this); throw new Error('gone'); } }); } catch {} ArrayBuffer.prototype.slice = () => { throw 1; }; Object.defineProperty(T, Symbol.species, { get() { spy(this); return Array; } });",
    ),
    (
        "reflect and JSON",
        "for (const o of [Reflect, JSON, Math, Number, Symbol, Atomics]) for (const k of Object.getOwnPropertyNames(o)) try { o[k] = (...a) => { for (let i = 0; i < a.length; i++) spy(a[i]); throw new Error('gone'); }; } catch {}",
    ),
    (
        "toJSON",
        "Object.prototype.toJSON = function () { spy(this); return 'x'; }; String.prototype.toJSON = Object.prototype.toJSON;",
    ),
    (
        "errors",
        "for (const E of [Error, TypeError, RangeError]) { E.prototype.toString = () => { throw 1; }; for (const k of ['message', 'name', 'stack', 'cause']) Object.defineProperty(E.prototype, k, { get() { spy(this); throw new E('gone'); } }); } Error.stackTraceLimit = { valueOf() { throw 1; } };",
    ),
    (
        "prepareStackTrace",
        "Error.prepareStackTrace = (error, sites) => { spy(error); for (const s of sites) { spy(s); for (const m of ['getThis', 'getFunction', 'getTypeName', 'getEvalOrigin', 'getMethodName', 'getFileName']) { try { spy(s[m]()); } catch {} } } return sites; };",
    ),
    ("throwing stack", "Error.prepareStackTrace = () => { throw new Error('gone'); };"),
    (
        "captureStackTrace",
        "Error.captureStackTrace = function (o) { spy(o); throw new Error('gone'); };",
    ),
    (
        "globals",
        "for (const k of Object.getOwnPropertyNames(globalThis)) try { if (!['Response', 'spy', 'globalThis'].includes(k)) globalThis[k] = function (...a) { for (let i = 0; i < a.length; i++) spy(a[i]); spy(this); throw new Error('gone'); }; } catch {}",
    ),
    (
        "deleted globals",
        "for (const k of Reflect.ownKeys(globalThis)) try { if (k !== 'spy') delete globalThis[k]; } catch {}",
    ),
    (
        "response prototype",
        "for (const C of [Response, Request, Headers, ReadableStream, URL, AbortSignal, EventTarget]) for (const k of Reflect.ownKeys(C.prototype)) try { Object.defineProperty(C.prototype, k, { get() { spy(this); throw new Error('gone'); }, set() {} }); } catch {}",
    ),
    (
        "async iteration",
        "const A = Object.getPrototypeOf(Object.getPrototypeOf(Object.getPrototypeOf((async function* () {})()))); A[Symbol.asyncIterator] = function () { spy(this); throw 1; }; Object.getPrototypeOf((async function* () {}).prototype).next = function () { spy(this); throw 1; };",
    ),
    (
        "hooks",
        "Object.defineProperty(Object.prototype, 'invocation', { get() { spy(this); return { id: 1e9, waitUntil: spy }; }, set(v) { spy(v); } });",
    ),
    (
        "symbols",
        "for (const s of [Symbol.toPrimitive, Symbol.toStringTag, Symbol.isConcatSpreadable, Symbol.unscopables, Symbol.hasInstance, Symbol.species]) try { Object.defineProperty(Object.prototype, s, { configurable: true, get() { spy(this); } }); } catch {}",
    ),
    (
        "date and clock",
        "Date.prototype.constructor.now = () => { throw 1; }; Intl.DateTimeFormat = null; Float64Array.prototype[0] = 1;",
    ),
    (
        "members of dictionaries",
        "for (const k of ['required', 'defaultValue', 'send', 'receive', 'transform', 'start', 'pull', 'size']) Object.defineProperty(Object.prototype, k, { configurable: true, get() { spy(this); }, set(v) { spy(this); spy(v); } });",
    ),
    (
        "frozen",
        "Object.freeze(Object.prototype); Object.freeze(Array.prototype); Object.freeze(Function.prototype); Object.freeze(Promise.prototype); Object.freeze(globalThis);",
    ),
    (
        "no prototype",
        "Object.setPrototypeOf(Array.prototype, null); Object.setPrototypeOf(Function.prototype, null); Object.setPrototypeOf(Promise.prototype, null);",
    ),
    (
        "proxied prototype",
        "Object.setPrototypeOf(Array.prototype, new Proxy({}, { get(t, k, r) { spy(r); }, has(t, k) { return true; }, set(t, k, v) { spy(v); return true; } }));",
    ),
];

/// Looks for internals in whatever it is given: ops, `Deno.core`, the entries, the loader, an invocation.
const SPY: &str = "const seen = new Set(); const found = []; \
    const { getOwnPropertyNames, getOwnPropertyDescriptor, getPrototypeOf } = Object; \
    const { has, add } = { has: Set.prototype.has, add: Set.prototype.add }; const apply = Reflect.apply; \
    const INTERNAL = ['op_log', 'op_respond', 'ops', 'loadExtScript', 'setAsyncContext', 'dispatchFetch', 'primordials', 'exposeBindings', 'internals']; \
    const hasOwn = Object.prototype.hasOwnProperty; \
    globalThis.spy = (thing, depth = 2) => { \
      if (thing === null || (typeof thing !== 'object' && typeof thing !== 'function')) return; \
      if (apply(has, seen, [thing])) return; apply(add, seen, [thing]); \
      try { for (let i = 0; i < 9; i++) if (apply(hasOwn, thing, [INTERNAL[i]])) found[found.length] = INTERNAL[i]; } catch {} \
      if (typeof thing === 'function') { const name = getOwnPropertyDescriptor(thing, 'name'); \
        if (name && typeof name.value === 'string' && name.value[0] === 'o' && name.value[1] === 'p' && name.value[2] === '_') found[found.length] = name.value; } \
      if (depth === 0 || seen.size > 3000) return; \
      try { const keys = getOwnPropertyNames(thing); const n = keys.length < 64 ? keys.length : 64; \
        for (let i = 0; i < n; i++) { const own = getOwnPropertyDescriptor(thing, keys[i]); if (own && hasValue(own)) globalThis.spy(own.value, depth - 1); } \
        globalThis.spy(getPrototypeOf(thing), depth - 1); } catch {} \
    }; \
    function hasValue(own) { return apply(hasOwn, own, ['value']); }";

/// Uses much of the runtime, so that it walks through what was overwritten.
const BUSY: &str = "async function busy(request, env, ctx) { \
      const attempts = [ \
        () => console.log('line', { a: [1, new Map([[1, 2]])] }, new Error('e')), \
        () => request.text(), () => request.headers.get('x-test'), () => request.cf, () => [...request.headers], \
        () => new Response(new Blob(['x']).stream().pipeThrough(new TransformStream())).text(), \
        () => new URL('/a?b=c', 'http://a.test/').searchParams.get('b'), \
        () => Response.json({ a: 1 }).json(), () => new Response('a=b', { headers: { 'content-type': 'application/x-www-form-urlencoded' } }).formData(), \
        () => scheduler.wait(1), () => fetch('http://b.test/', { method: 'POST', body: 'x', headers: { a: 'b' } }), \
        () => structuredClone({ a: new Date(0) }), () => crypto.subtle.digest('SHA-256', new Uint8Array(3)), \
        () => ctx.waitUntil(Promise.resolve(1)), () => ctx.waitUntil({ then: 1 }), \
        () => new AbortController().abort(), () => AbortSignal.timeout(5), () => atob(btoa('x')), \
        () => new TextDecoder().decode(new TextEncoder().encode('x')), () => { null.x; }, \
        () => setTimeout(() => { throw new Error('in a timer'); }, 0), () => { Promise.reject(new Error('nobody')); }, \
        () => new Response(new Response('x').body.pipeThrough(new CompressionStream('gzip'))).arrayBuffer(), \
        () => queueMicrotask(() => { throw new Error('in a microtask'); }), () => reportError(new Error('x')), \
        () => { const [a, b] = new WebSocketPair(); a.accept(); b.accept(); b.onmessage = (event) => b.send(event.data); \
          a.addEventListener('message', () => a.close(1000, 'x')); a.onclose = spy; a.send('x'); a.send(new Uint8Array(3)); \
          return scheduler.wait(2); }, \
        () => { new WebSocket('ws://b.test/', ['a', 'b']).onerror = spy; return scheduler.wait(1); }, \
        () => new Response(null, { status: 101, webSocket: new WebSocketPair()[0] }).webSocket, \
      ]; \
      for (let i = 0; i < attempts.length; i++) { try { await attempts[i](); } catch (e) {} } }";

fn polluter(when: &str, pollution: &str) -> String {
    let (at_start, at_request) = if when == "start" { (pollution, "") } else { ("", pollution) };
    format!(
        "{SPY} {BUSY} const Answer = Response; {at_start} \
         export default {{ async fetch(request, env, ctx) {{ \
           {at_request} \
           await busy(request, env, ctx); \
           return new Answer('found:' + (found.length ? `${{found[0]}}` : '')); }} }};"
    )
}

/// The worker's own answer, if the pollution left it able to give one. Any documented end will do.
async fn outcome(worker: &Worker) -> Option<String> {
    let request =
        Request::post(URL).header("x-test", "yes").body(body("body")).expect("a valid request");
    match worker.request(request).await {
        Ok(response) => Some(text(response).await),
        Err(failure) => {
            let ends = [Outcome::Exception, Outcome::ExceededWall, Outcome::ExceededCpu];
            assert!(ends.contains(&failure.outcome), "{failure:?}");
            None
        }
    }
}

#[test]
fn pollution_stays_at_home() {
    on_isolate_thread(|thread| async move {
        let neighbour =
            load(&thread, "export default { fetch: async (r) => new Response(await r.text()) };")
                .await;
        let mut answered = 0;
        for (name, pollution) in POLLUTIONS {
            for when in ["start", "request"] {
                let mut setup = Setup::new(script(&polluter(when, pollution)));
                setup.limits = Limits {
                    wall: Duration::from_secs(5),
                    wait_until: Duration::from_millis(100),
                    cpu: Duration::from_secs(5),
                    ..Limits::default()
                };
                match setup.load(&thread).await {
                    Ok(worker) => {
                        if let Some(found) = outcome(&worker).await {
                            assert_eq!(found, "found:", "{name} at {when}");
                            answered += 1;
                        }
                    }
                    Err(error) => assert_eq!(when, "start", "{name}: {error}"),
                }
                let request = Request::post(URL).body(body("still here")).unwrap();
                assert_eq!(
                    text(neighbour.request(request).await.unwrap()).await,
                    "still here",
                    "{name}"
                );
            }
        }
        // The runtime's own work goes on under most of them.
        assert!(answered > POLLUTIONS.len(), "only {answered} answered");
        let newcomer = load(&thread, "export default { fetch: () => new Response('new') };").await;
        assert_eq!(newcomer.get(URL).await, "new");
    });
}

/// The spy would tell.
#[test]
fn the_spy_knows_internals() {
    on_isolate_thread(|thread| async move {
        let caught = "spy({ op_log: 1 }); spy(function op_respond() {});";
        let worker = load(&thread, &polluter("request", caught)).await;
        assert_eq!(outcome(&worker).await.as_deref(), Some("found:op_log"));
    });
}
