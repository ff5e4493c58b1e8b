//! What most workers never use is loaded on first use: it is not there before, works then like everything else, and
//! no worker can make anything of the moment in between.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use atoll_isolate::{Limits, Outcome};
use bytes::Bytes;
use http::{Request, Response};
use support::{Setup, Worker, body, load, on_isolate_thread, script, text};

const URL: &str = "http://a.test/";

async fn post(worker: &Worker, sent: &'static str) -> String {
    let request = Request::post(URL).header("content-type", "application/json").body(body(sent));
    text(worker.request(request.unwrap()).await.unwrap()).await
}

/// A worker whose handler gives what the expression gives, or what it throws, as text.
fn evaluates(before: &str, expression: &str) -> String {
    format!(
        "{before}; export default {{ async fetch(request, env) {{ let given; \
         try {{ given = `${{await (async () => {{ {expression} }})()}}`; }} catch (e) {{ given = `${{e}}`; }} \
         return new Response(given); }} }};"
    )
}

/// Handlers that most workers are made of.
const COMMON: &[(&str, &str)] = &[
    ("hello", "new Response('hello')"),
    ("json", "Response.json({ a: (await request.json()).a })"),
    ("text", "new Response(await request.text())"),
    ("bytes", "new Response(await request.bytes())"),
    ("a buffer", "new Response(await request.arrayBuffer())"),
    ("a stream", "new Response(request.body)"),
    ("a copy of a request", "new Response(await new Request(request).text())"),
    ("a fetched text", "new Response(await (await fetch('http://b.test/')).text())"),
    ("a fetched answer", "await fetch('http://b.test/')"),
    ("a forwarded request", "await fetch(request)"),
    ("a changed request", "await fetch(new Request(request, { headers: { a: 'b' } }))"),
    ("parameters", "new Response(new URLSearchParams('a=1'))"),
    ("a copy of a text", "(() => { const r = new Response('x'); return r.clone(); })()"),
    ("a kind of body", "new Response(`${request.bodyUsed}${new Response(new Date(0)).bodyUsed}`)"),
    ("other globals", "new Response(`${typeof crypto}${typeof URL}${typeof setTimeout}`)"),
];

/// How many scripts one of `COMMON` loads.
fn loaded_by(name: &str) -> usize {
    match name {
        // Streams, and what bodies do with them.
        "a stream" => 2,
        _ => 0,
    }
}

fn answering() -> support::TestHost {
    let answer = |_: &str| Response::new(Bytes::from_static(b"fetched"));
    support::TestHost { answer: Some(Box::new(answer)), ..support::TestHost::default() }
}

#[test]
fn common_workers_load_nothing() {
    on_isolate_thread(|thread| async move {
        for (name, answer) in COMMON {
            let source =
                format!("export default {{ async fetch(request) {{ return {answer}; }} }};");
            let setup = Setup { host: answering(), ..Setup::new(script(&source)) };
            let worker = setup.load(&thread).await.unwrap();
            assert_eq!(worker.instance.late_scripts(), 0, "{name} before a call");
            post(&worker, "{\"a\":1}").await;
            assert_eq!(worker.instance.late_scripts(), loaded_by(name), "{name}");
        }
    });
}

/// A body that is passed on is no stream on the way, and it arrives, whatever resources the isolate has had before.
#[test]
fn a_forwarded_body_arrives() {
    on_isolate_thread(|thread| async move {
        let forwards = [
            "fetch(request)",
            "fetch('http://b.test/', { method: 'POST', body: request.body })",
            "fetch(new Request(request))",
            "fetch(new Request('http://b.test/', request))",
        ];
        for forward in forwards {
            let source = format!("export default {{ fetch: (request) => {forward} }};");
            let setup = Setup { host: answering(), ..Setup::new(script(&source)) };
            let worker = setup.load(&thread).await.unwrap();
            assert_eq!(post(&worker, "sent").await, "fetched", "{forward}");
            assert_eq!(*worker.host.sent.borrow(), ["sent"], "{forward}");
        }
    });
}

/// The first use of each late global, and what it gives.
const FIRST_USES: &[(&str, &str)] = &[
    (
        "return (await new Response(new ReadableStream({ start(c) { c.enqueue(new Uint8Array(2)); c.close(); } })).bytes()).length;",
        "2",
    ),
    ("return new ReadableStream() instanceof ReadableStream;", "true"),
    ("return ({}) instanceof ReadableStream;", "false"),
    ("return new Response('x').body instanceof ReadableStream;", "true"),
    (
        "const { readable, writable } = new TransformStream(); const w = writable.getWriter(); w.write('a'); w.close(); return (await readable.getReader().read()).value;",
        "a",
    ),
    ("return new WritableStream().getWriter() instanceof WritableStreamDefaultWriter;", "true"),
    ("return new CountQueuingStrategy({ highWaterMark: 3 }).highWaterMark;", "3"),
    ("return new ByteLengthQueuingStrategy({ highWaterMark: 4 }).highWaterMark;", "4"),
    ("return new Response('x').body.getReader() instanceof ReadableStreamDefaultReader;", "true"),
    (
        "return request.body.getReader({ mode: 'byob' }) instanceof ReadableStreamBYOBReader;",
        "true",
    ),
    (
        "return new Response(new Response('zip').body.pipeThrough(new CompressionStream('gzip')).pipeThrough(new DecompressionStream('gzip'))).text();",
        "zip",
    ),
    (
        "return (await Array.fromAsync(new Response('text').body.pipeThrough(new TextDecoderStream()).pipeThrough(new TextEncoderStream()))).length;",
        "1",
    ),
    (
        "return new Response(new Response('abc').body.pipeThrough(new FixedLengthStream(3))).text();",
        "abc",
    ),
    (
        "return new Response(new Response('abc').body.pipeThrough(new IdentityTransformStream())).text();",
        "abc",
    ),
    (
        "const d = new crypto.DigestStream('SHA-256'); await new Response('').body.pipeTo(d); return new Uint8Array(await d.digest)[0];",
        "227",
    ),
    (
        "return new URLPattern({ pathname: '/a/:b' }).exec('http://x.test/a/7').pathname.groups.b;",
        "7",
    ),
    (
        "return typeof performance.now() + performance.timeOrigin + performance.mark('m').name + (performance instanceof Performance);",
        "number0mtrue",
    ),
    ("return new Blob(['ab', 'c'], { type: 'a/b' }).text();", "abc"),
    ("return new Response(new Blob(['abc']).stream()).text();", "abc"),
    ("return new File(['ab'], 'name').name;", "name"),
    (
        "return (await new Response('x', { headers: { 'content-type': 'a/b' } }).blob()).type;",
        "a/b",
    ),
    (
        "const f = new FormData(); f.set('a', 'b'); return (await new Response(f).formData()).get('a');",
        "b",
    ),
    (
        "return (await new Request('http://a.test/', { method: 'POST', body: new URLSearchParams('a=1') }).formData()).get('a');",
        "1",
    ),
    (
        "const { port1, port2 } = new MessageChannel(); const got = new Promise((r) => { port2.onmessage = (e) => r(e.data.a); }); port1.postMessage({ a: 1 }); const a = await got; port1.close(); return a + (port1 instanceof MessagePort);",
        "2",
    ),
    (
        "try { const { port1 } = new MessageChannel(); port1.postMessage(new URL('http://a.test/')); return 'sent'; } catch (e) { return e.name; }",
        "DataCloneError",
    ),
    ("return structuredClone(new Blob(['x'])).text();", "x"),
    ("const c = request.clone(); return await c.text() + await request.text();", "sentsent"),
    (
        "return (await fetch('http://b.test/')).body.getReader().read().then((r) => r.value.length);",
        "7",
    ),
    (
        "const r = await fetch('http://b.test/'); const c = r.clone(); return await r.text() + await c.text();",
        "fetchedfetched",
    ),
    (
        "const [a, b] = request.body.tee(); return await new Response(a).text() + await new Response(b).text();",
        "sentsent",
    ),
    ("request.text(); return request.bodyUsed && request.body.locked;", "true"),
    (
        "request.body; await request.text(); return request.text().catch((e) => e.message);",
        "Body already consumed",
    ),
    ("const s = request.body; return await request.text() + s.locked;", "senttrue"),
    ("return new Response('text').textStream().getReader().read().then((r) => r.value);", "text"),
    (
        "return new Response(new Response('again').body).headers.get('content-type') + await new Response(new Response('again').body).text();",
        "nullagain",
    ),
    (
        "return new Response(async function* () { yield new Uint8Array([104]); yield new Uint8Array([105]); }()).text();",
        "hi",
    ),
    (
        "const c = new AbortController(); const r = await fetch('http://b.test/', { signal: c.signal }); c.abort(new Error('left')); return r.text().catch((e) => e.message);",
        "left",
    ),
    (
        "const c = new AbortController(); const r = await fetch('http://b.test/', { signal: c.signal }); c.abort(new Error('left')); return r.body.getReader().read().catch((e) => e.message);",
        "left",
    ),
    (
        "return new Response(Object.create(ReadableStream.prototype)).text().catch((e) => e.message);",
        "TypeError: Failed to construct 'Response': Argument 1 is not of type ReadableStream",
    ),
    ("return new WebSocketPair()[0] instanceof WebSocket;", "true"),
    (
        "const [a, b] = new WebSocketPair(); a.accept(); b.accept(); const got = new Promise((r) => { b.onmessage = (e) => r(e.data); }); a.send('hi'); return got;",
        "hi",
    ),
    (
        "return new Response(null, { status: 101, webSocket: {} }).status;",
        "TypeError: Failed to construct 'Response': 'webSocket' of 'ResponseInit' is not a WebSocket",
    ),
    ("return env.FLAGS.getBooleanValue('none', true) + Object.keys(env).join();", "true"),
    (
        "return new Promise((r) => { new WebSocket('ws://b.test/').onerror = (e) => r(e.message); });",
        "Failed to establish the WebSocket connection: expected server to reply with HTTP status code 101 (switching protocols), but received 200 instead.",
    ),
];

#[test]
fn the_first_use_works() {
    on_isolate_thread(|thread| async move {
        let mut wrong = Vec::new();
        for (code, expected) in FIRST_USES {
            let worker = Setup { host: answering(), ..Setup::new(script(&evaluates("", code))) };
            let worker = worker.load(&thread).await.unwrap();
            assert_eq!(worker.instance.late_scripts(), 0, "{code}");
            let given = post(&worker, "sent").await;
            if given != *expected {
                wrong.push(format!("{code}\n  gives    {given}\n  expected {expected}"));
            }
            assert_eq!(post(&worker, "sent").await, given, "{code} again");
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}

/// What a worker sees of the properties themselves.
const PROPERTIES: &[(&str, &str)] = &[
    ("'ReadableStream' in globalThis && typeof ReadableStream", "function"),
    ("ReadableStream.name + ReadableStream.length", "ReadableStream0"),
    ("Object.keys(globalThis).includes('Blob')", "false"),
    ("Object.keys(globalThis).includes('performance')", "true"),
    (
        "(ReadableStream, JSON.stringify(Object.getOwnPropertyDescriptor(globalThis, 'ReadableStream')))",
        r#"{"writable":true,"enumerable":false,"configurable":true}"#,
    ),
    (
        "(performance, JSON.stringify(Object.getOwnPropertyDescriptor(globalThis, 'performance')))",
        r#"{"value":{"timeOrigin":0},"writable":true,"enumerable":true,"configurable":true}"#,
    ),
    (
        "ReadableStream === globalThis.ReadableStream && ReadableStream === Object.create(globalThis).ReadableStream",
        "true",
    ),
    (
        "(globalThis.Blob = 7, Blob + JSON.stringify(Object.getOwnPropertyDescriptor(globalThis, 'Blob')))",
        r#"7{"value":7,"writable":true,"enumerable":false,"configurable":true}"#,
    ),
    ("(performance = 7, performance)", "7"),
    ("(delete globalThis.Blob, typeof Blob)", "undefined"),
    (
        "(() => { const o = Object.create(globalThis); o.Blob = 1; return o.Blob + typeof Blob; })()",
        "1function",
    ),
    ("(Object.defineProperty(globalThis, 'Blob', { value: 3 }), Blob)", "3"),
    ("(Object.freeze(globalThis), new Blob(['ab']).size)", "2"),
    (
        "(() => { Object.freeze(globalThis); try { Blob = 1; } catch (e) { return e.name + typeof Blob; } })()",
        "TypeErrorfunction",
    ),
    ("typeof Object.getOwnPropertyDescriptor(Crypto.prototype, 'DigestStream').get", "function"),
    (
        "typeof crypto.DigestStream + typeof Object.getOwnPropertyDescriptor(Crypto.prototype, 'DigestStream').value",
        "functionfunction",
    ),
];

#[test]
fn properties_are_ordinary_ones_in_the_end() {
    on_isolate_thread(|thread| async move {
        for (expression, expected) in PROPERTIES {
            let source = evaluates("", &format!("return {expression};"));
            let worker = load(&thread, &source).await;
            assert_eq!(post(&worker, "").await, *expected, "{expression}");
        }
    });
}

/// What was overwritten before the first use, and must not matter to it.
const TAMPERED: &[&str] = &[
    "for (const k of ['get', 'set', 'value', 'writable', 'enumerable', 'configurable']) Object.prototype[k] = () => 1",
    "Object.defineProperty(Object.prototype, 'ext:deno_web/06_streams.js', { get() { throw 1; }, set() { throw 1; } })",
    "for (const k of ['call', 'apply', 'bind']) Function.prototype[k] = () => { throw new Error('gone'); }",
    "for (const k of Object.getOwnPropertyNames(Array.prototype)) if (k !== 'length') Array.prototype[k] = () => { throw 1; }",
    "Array.prototype[Symbol.iterator] = function* () { throw 1; }",
    "for (const C of [Map, WeakMap, Set, FinalizationRegistry, Symbol]) for (const k of Object.getOwnPropertyNames(C.prototype)) try { C.prototype[k] = () => { throw 1; }; } catch {}",
    "for (const k of Object.getOwnPropertyNames(Object)) try { Object[k] = () => { throw 1; }; } catch {}",
    "for (const k of Object.getOwnPropertyNames(Reflect)) Reflect[k] = () => { throw 1; }",
    "for (const k of Object.getOwnPropertyNames(globalThis)) try { if (!['Response', 'TransformStream', 'globalThis'].includes(k)) delete globalThis[k]; } catch {}",
    "Object.freeze(Object.prototype), Object.freeze(Array.prototype), Object.freeze(Function.prototype)",
    "globalThis.EventTarget = globalThis.URL = null",
    "Object.defineProperty(Object.prototype, '__proto__', { get() { throw 1; }, set() { throw 1; } }), Object.prototype.value = () => 1",
];

#[test]
fn tampering_before_the_first_use_does_not_matter() {
    on_isolate_thread(|thread| async move {
        let code = "return new Response(new Response('whole').body.pipeThrough(new TransformStream())).text();";
        for tampered in TAMPERED {
            let worker = load(&thread, &evaluates(tampered, code)).await;
            assert_eq!(post(&worker, "").await, "whole", "{tampered}");
        }
    });
}

/// Uses up the stack, and asks for streams all the way up again: loading them breaks off in many places.
#[test]
fn loading_that_breaks_off_begins_anew() {
    on_isolate_thread(|thread| async move {
        let code = "let failed = 0; \
            const deep = () => { try { deep(); } finally { try { new ReadableStream(); } catch { failed += 1; } } }; \
            try { deep(); } catch {} \
            return (failed > 0) + await new Response(new Response('whole').body.pipeThrough(new TransformStream())).text();";
        let worker = load(&thread, &evaluates("", code)).await;
        assert_eq!(post(&worker, "").await, "truewhole");
    });
}

/// A worker's own code runs while a script loads, and ends neither it nor anything else.
#[test]
fn loading_may_be_entered_twice() {
    on_isolate_thread(|thread| async move {
        let before = "let times = 0; Object.defineProperty(Object.prototype, 'required', { configurable: true, \
            get() { if (times++ === 3) { new TransformStream(); delete globalThis.ReadableStream; } } })";
        let code = "const first = ReadableStream; delete Object.prototype.required; \
            return `${new Response('x').body instanceof first}${times > 3}`;";
        let worker = load(&thread, &evaluates(before, code)).await;
        assert_eq!(post(&worker, "").await, "truetrue");
    });
}

/// A rule that is ended while a script loads leaves an instance in which it can be loaded.
#[test]
fn loading_that_was_ended_begins_anew() {
    on_isolate_thread(|thread| async move {
        let source = "export default { \
            rule() { Object.defineProperty(Object.prototype, 'required', { configurable: true, get() { for (;;) {} } }); ReadableStream; }, \
            async fetch() { delete Object.prototype.required; \
              return new Response(new Response('whole').body.pipeThrough(new TransformStream())); } };";
        let limits = Limits { rule_cpu: std::time::Duration::from_millis(20), ..Limits::default() };
        let setup = Setup { limits, ..Setup::new(script(source)) };
        let worker = setup.load(&thread).await.unwrap();
        let event = atoll_isolate::FetchEvent {
            id: "0123456789abcdef".into(),
            url: URL.into(),
            request: Request::get("/").body(None).unwrap(),
            facts: None,
        };
        let read = |text: &str| Ok(text.to_owned());
        let decided = worker.instance.rule(event, read, Box::new(|_| ())).await;
        assert_eq!(decided.map_err(|failure| failure.outcome), Err(Outcome::ExceededCpu));
        assert_eq!(worker.instance.late_scripts(), 0);
        assert_eq!(worker.get(URL).await, "whole");
        assert!(worker.instance.late_scripts() > 0);
    });
}

/// What was compiled ahead, or in one isolate, is used in others, whatever it was used for there.
#[test]
fn kept_code_does_the_same() {
    on_isolate_thread(|thread| async move {
        while thread.compile_ahead() {}
        assert!(!thread.has_ahead());
        let zipped = "return new Response(new Response('zip').body.pipeThrough(new CompressionStream('gzip'))\
            .pipeThrough(new DecompressionStream('gzip'))).text();";
        for round in 0..4 {
            let worker = load(&thread, &evaluates("", zipped)).await;
            for _ in 0..4 {
                assert_eq!(post(&worker, "").await, "zip", "round {round}");
            }
            while thread.keep_code() {}
            worker.instance.shrink();
            assert_eq!(post(&worker, "").await, "zip", "round {round}");
        }
    });
}
