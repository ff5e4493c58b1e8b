//! Handlers are called as the Workers platform calls them.

mod support;

use atoll_isolate::{Binding, BindingValue, ModuleKind, Outcome, Script, ScriptFormat};
use http::Request;
use support::{Setup, body, load, module, on_isolate_thread, text};

#[test]
fn says_hello() {
    on_isolate_thread(|thread| async move {
        let worker = load(
            &thread,
            "export default { async fetch(request, env, ctx) { \
               console.log('hi', { a: 1 }); \
               return new Response(`${request.method} ${request.url} ${request.headers.get('x-test')} ${request.headers.get('x-finished')} ${request.cf.country}`); } }",
        )
        .await;
        assert_eq!(worker.instance.handlers(), ["fetch"]);
        assert_eq!(worker.get("http://a.test/x?y=1").await, "GET http://a.test/x?y=1 yes once DE");
        assert_eq!(*worker.host.lines.borrow(), ["hi { a: 1 }"]);
        let ended = worker.ended.borrow();
        assert_eq!((ended.len(), ended[0].outcome), (1, Outcome::Ok));
        assert_eq!(ended[0].logs[0].message, "hi { a: 1 }");
    });
}

#[test]
fn a_response_is_told_by_what_it_is() {
    on_isolate_thread(|thread| async move {
        let lies = |says: bool, result: &str| {
            format!(
                "fetch() {{ Object.defineProperty(Response, Symbol.hasInstance, {{ value: () => {says} }}); return {result}; }}"
            )
        };
        for (handler, text) in [
            ("fetch() { return new Response('x'); }", Some("x")),
            (
                "fetch() { return new Response('é'.repeat(2 << 20)).clone(); }",
                Some(&*"é".repeat(2 << 20)),
            ),
            ("fetch() { return new Response('é'.repeat(2 << 20)); }", Some(&*"é".repeat(2 << 20))),
            ("fetch() { return new (class extends Response {})('x'); }", Some("x")),
            ("fetch() { return Object.setPrototypeOf(new Response('x'), null); }", Some("x")),
            ("async fetch() { return Object.setPrototypeOf(new Response('x'), null); }", Some("x")),
            (&lies(false, "new Response('x')"), Some("x")),
            (&lies(true, "{}"), None),
            ("fetch() { return Object.create(Response.prototype); }", None),
            ("async fetch() { return Object.create(Response.prototype); }", None),
            ("fetch() { return { text: 'x', typed: 1, used: false, status: 200 }; }", None),
            ("fetch() { return 'x'; }", None),
            (
                "async fetch() { const used = new Response('x'); await used.text(); return used; }",
                None,
            ),
        ] {
            let worker = load(&thread, &format!("export default {{ {handler} }}")).await;
            match text {
                Some(text) => assert_eq!(worker.get("http://a.test/").await, text, "{handler}"),
                None => {
                    let failure = worker.get_failure("http://a.test/").await;
                    assert_eq!(failure.outcome, Outcome::Exception, "{handler}");
                }
            }
        }
        let source = "const kept = new Response('x'); export default { fetch: () => kept }";
        let worker = load(&thread, source).await;
        assert_eq!(worker.get("http://a.test/").await, "x");
        assert_eq!(worker.get_failure("http://a.test/").await.outcome, Outcome::Exception);
    });
}

#[test]
fn echoes_a_body() {
    on_isolate_thread(|thread| async move {
        let worker = load(
            &thread,
            "export default { fetch: async (r) => new Response((await r.text()).toUpperCase()) }",
        )
        .await;
        let request = Request::post("http://a.test/").body(body("hello")).unwrap();
        assert_eq!(text(worker.request(request).await.unwrap()).await, "HELLO");
    });
}

#[test]
fn streams_through() {
    on_isolate_thread(|thread| async move {
        let worker = load(&thread, "export default { fetch: (r) => new Response(r.body.pipeThrough(new TransformStream({ transform(c, k) { k.enqueue(c); } }))) }").await;
        let bytes = vec![7u8; 3 << 20];
        let request = Request::post("http://a.test/").body(body(bytes.clone())).unwrap();
        let response = worker.request(request).await.unwrap();
        use http_body_util::BodyExt;
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), bytes);
        assert_eq!(worker.ended.borrow().len(), 1);
    });
}

#[test]
fn waits_for_timers_and_wait_until() {
    on_isolate_thread(|thread| async move {
        let worker = load(
            &thread,
            "export default { async fetch(request, env, ctx) { \
               ctx.waitUntil(new Promise((r) => setTimeout(r, 20)).then(() => console.log('late'))); \
               await scheduler.wait(5); \
               setInterval(() => console.log('never after the end'), 1000); \
               return new Response('ok'); } }",
        )
        .await;
        assert_eq!(worker.get("http://a.test/").await, "ok");
        assert!(worker.ended.borrow().is_empty());
        while worker.ended.borrow().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert_eq!(worker.ended.borrow()[0].logs[0].message, "late");
        assert_eq!(worker.instance.in_flight(), 0);
    });
}

#[test]
fn every_module_kind() {
    on_isolate_thread(|thread| async move {
        let wasm = b"\0asm\x01\0\0\0\x01\x07\x01\x60\x02\x7f\x7f\x01\x7f\x03\x02\x01\0\x07\x07\x01\x03add\0\0\x0a\x09\x01\x07\0\x20\0\x20\x01\x6a\x0b";
        let main = "import { env } from 'cloudflare:workers'; import { AsyncLocalStorage } from 'node:async_hooks'; \
            import text from './a.txt'; import data from 'b.bin'; import config from './c.json'; \
            import wasm from './d.wasm'; import { deep } from './sub/e.js'; import cjs from './f.cjs'; \
            export default { async fetch() { \
              const add = new WebAssembly.Instance(wasm).exports.add; const als = new AsyncLocalStorage(); \
              const store = await als.run('als', async () => { await null; return als.getStore(); }); \
              return new Response([text, new Uint8Array(data).join(), config.n, add(2, 3), deep, cjs.x, env.NAME, store].join(' ')); } }";
        let modules = vec![
            module("index.js", ModuleKind::EsModule, main),
            module("./a.txt", ModuleKind::Text, "text"),
            module("b.bin", ModuleKind::Data, [1, 2]),
            module("c.json", ModuleKind::Json, "{\"n\":7}"),
            module("./d.wasm", ModuleKind::Wasm, wasm),
            module(
                "sub/e.js",
                ModuleKind::EsModule,
                "import t from '../a.txt'; export const deep = t.length;",
            ),
            module(
                "f.cjs",
                ModuleKind::CommonJs,
                "const t = require('./a.txt'); exports.x = t + '!';",
            ),
        ];
        let mut setup = Setup::new(Script::new(ScriptFormat::Modules, "index.js", modules));
        setup
            .bindings
            .push(Binding { name: "NAME".into(), value: BindingValue::Text { value: "v".into() } });
        let worker = setup.load(&thread).await.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(worker.get("http://a.test/").await, "text 1,2 7 5 4 text! v als");
    });
}

#[test]
fn service_worker_syntax() {
    on_isolate_thread(|thread| async move {
        let source = "addEventListener('fetch', (event) => event.respondWith(new Response(GREETING + ' ' + new URL(event.request.url).pathname)));";
        let script = Script::new(
            ScriptFormat::ServiceWorker,
            "index.js",
            vec![module("index.js", ModuleKind::CommonJs, source)],
        );
        let mut setup = Setup::new(script);
        setup.bindings.push(Binding {
            name: "GREETING".into(),
            value: BindingValue::Text { value: "hi".into() },
        });
        let worker = setup.load(&thread).await.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(worker.get("http://a.test/p").await, "hi /p");
    });
}

#[test]
fn kv_in_every_type() {
    on_isolate_thread(|thread| async move {
        let mut setup = Setup::new(support::script(
            "export default { async fetch(request, { KV }) { \
               await KV.put('a', 'text', { metadata: { m: 1 } }); await KV.put('b', new Uint8Array([1, 2, 3])); \
               await KV.put('j', new Blob(['{\"x\":[1]}']).stream()); await KV.put('gone', 'x'); await KV.delete('gone'); \
               const both = await KV.get(['a', 'none']); \
               const s = await new Response(await KV.get('a', 'stream')).text(); \
               return Response.json([await KV.get('a'), (await KV.getWithMetadata('a')).metadata, \
                 new Uint8Array(await KV.get('b', 'arrayBuffer')).length, await KV.get('j', { type: 'json' }), \
                 await KV.get('gone'), both.get('a'), both.get('none'), s, (await KV.list()).keys.length]); } }",
        ));
        setup
            .bindings
            .push(Binding { name: "KV".into(), value: BindingValue::Kv { capability: 0 } });
        let worker = setup.load(&thread).await.unwrap();
        assert_eq!(
            worker.get("http://a.test/").await,
            r#"["text",{"m":1},3,{"x":[1]},null,"text",null,"text",3]"#
        );
    });
}

#[test]
fn scheduled() {
    on_isolate_thread(|thread| async move {
        let worker = load(&thread, "export default { async scheduled(c, env, ctx) { ctx.waitUntil((async () => console.log(c.cron, c.scheduledTime))()); } }").await;
        worker.instance.scheduled("1".into(), "* * * * *", 5000, Box::new(|_| ())).await.unwrap();
        assert_eq!(*worker.host.lines.borrow(), ["* * * * * 5000"]);
    });
}

/// Requests that are in flight together keep their own bodies, headers, timers and async contexts.
#[test]
fn concurrent_requests_keep_apart() {
    on_isolate_thread(|thread| async move {
        let worker = load(
            &thread,
            "import { AsyncLocalStorage } from 'node:async_hooks'; const als = new AsyncLocalStorage(); \
             export default { fetch: (request) => als.run(request.url, async () => { \
               const wait = Number(new URL(request.url).searchParams.get('n')) % 7; \
               await scheduler.wait(wait); const body = await request.text(); \
               await new Promise((r) => setTimeout(r, 6 - wait)); console.log(body); \
               return new Response([als.getStore(), request.headers.get('x-n'), body].join(' ')); }) }",
        )
        .await;
        let calls = (0..40).map(|n| {
            let worker = &worker;
            async move {
                let url = format!("http://a.test/?n={n}");
                let request =
                    Request::post(&url).header("x-n", n).body(body(format!("body {n}"))).unwrap();
                let response = worker.request(request).await.unwrap();
                assert_eq!(text(response).await, format!("{url} {n} body {n}"));
            }
        });
        futures_util::future::join_all(calls).await;
        for record in worker.ended.borrow().iter() {
            assert_eq!(record.logs.len(), 1, "each invocation has its own log");
        }
        assert_eq!(worker.ended.borrow().len(), 40);
    });
}
