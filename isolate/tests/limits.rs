//! What goes over a limit ends with its own outcome, and the thread goes on.

mod support;

use std::time::Duration;

use atoll_isolate::{Limits, Outcome, StartError};
use support::{Setup, load, on_isolate_thread, script};

fn tight() -> Limits {
    Limits {
        cpu: Duration::from_millis(400),
        startup_cpu: Duration::from_millis(200),
        wall: Duration::from_millis(1_000),
        memory_bytes_max: 24 << 20,
        ..Limits::default()
    }
}

/// Tight in what ends with `outcome` only: a slow machine must not run out of time before a heap is full.
fn tight_for(outcome: Outcome) -> Limits {
    let ample = Limits { memory_bytes_max: tight().memory_bytes_max, ..Limits::default() };
    match outcome {
        Outcome::ExceededCpu => Limits { cpu: tight().cpu, ..ample },
        Outcome::ExceededWall => Limits { wall: tight().wall, ..ample },
        _ => ample,
    }
}

/// Each source, called once, fails with this outcome; a neighbour on the same thread still answers.
#[test]
fn each_excess_has_its_outcome() {
    let cases = [
        ("loop", "export default { fetch() { while (true) {} } }", Outcome::ExceededCpu),
        (
            "loop after await",
            "export default { async fetch() { await null; for (;;); } }",
            Outcome::ExceededCpu,
        ),
        (
            "loop in a timer",
            "export default { fetch() { return new Promise(() => setTimeout(() => { for (;;); }, 1)); } }",
            Outcome::ExceededCpu,
        ),
        (
            "microtask flood",
            "export default { async fetch() { for (;;) await null; } }",
            Outcome::ExceededCpu,
        ),
        (
            "regex",
            "export default { fetch() { return new Response(String(/^(a+)+$/.test('a'.repeat(40) + 'b'))); } }",
            Outcome::ExceededCpu,
        ),
        (
            "heap",
            "export default { fetch() { const a = []; for (;;) a.push({ x: [1, 2, 3] }); } }",
            Outcome::ExceededMemory,
        ),
        (
            "strings",
            "export default { fetch() { const a = []; for (let i = 0;; i++) a.push(('x' + i).repeat(999) + i); } }",
            Outcome::ExceededMemory,
        ),
        (
            "never settles",
            "export default { fetch() { return new Promise(() => {}); } }",
            Outcome::ExceededWall,
        ),
        (
            "slow",
            "export default { async fetch() { await scheduler.wait(60000); } }",
            Outcome::ExceededWall,
        ),
        (
            "throws",
            "export default { fetch() { throw new RangeError('no'); } }",
            Outcome::Exception,
        ),
        ("no response", "export default { fetch() { return 5; } }", Outcome::Exception),
        (
            "recursion",
            "export default { fetch() { const f = () => f() + 1; return new Response(f()); } }",
            Outcome::Exception,
        ),
        (
            "buffers",
            "export default { fetch() { const a = []; for (;;) a.push(new Uint8Array(1 << 20)); } }",
            Outcome::Exception,
        ),
        (
            "swallowed end",
            "export default { async fetch() { for (;;) { try { for (;;) console.log('x'); } catch {} } } }",
            Outcome::ExceededCpu,
        ),
        (
            "timers",
            "export default { fetch() { for (let i = 0; i < 10001; i++) setTimeout(() => {}, 1e6); } }",
            Outcome::Exception,
        ),
        (
            "response headers",
            "export default { fetch() { const h = new Headers(); \
               for (let i = 0; i < 40; i++) h.append('x' + i, 'y'.repeat(4000)); \
               return new Response('', { headers: h }); } }",
            Outcome::Exception,
        ),
        (
            "request headers",
            "export default { fetch() { const h = new Headers(); \
               for (let i = 0; i < 40; i++) h.append('x' + i, 'y'.repeat(4000)); \
               return fetch('http://b.test/', { headers: h }); } }",
            Outcome::Exception,
        ),
        (
            "long body",
            "export default { fetch() { return new Response('x'.repeat(2 ** 28)); } }",
            Outcome::Exception,
        ),
        (
            "eval",
            "export default { fetch() { return new Response(eval('1')); } }",
            Outcome::Exception,
        ),
        (
            "function",
            "export default { fetch() { return new Response(new Function('return 1')()); } }",
            Outcome::Exception,
        ),
        (
            "fetch refused",
            "export default { fetch() { return fetch('http://10.0.0.1/'); } }",
            Outcome::Exception,
        ),
    ];
    on_isolate_thread(move |thread| async move {
        let neighbour = load(&thread, "export default { fetch: () => new Response('fine') }").await;
        for (name, source, outcome) in cases {
            let setup = Setup { limits: tight_for(outcome), ..Setup::new(script(source)) };
            let worker =
                setup.load(&thread).await.unwrap_or_else(|error| panic!("{name}: {error}"));
            let failure = worker.get_failure("http://a.test/").await;
            assert_eq!(failure.outcome, outcome, "{name}: {failure:?}");
            assert_eq!(neighbour.get("http://b.test/").await, "fine", "{name}");
            let condemned = matches!(outcome, Outcome::ExceededCpu | Outcome::ExceededMemory);
            assert_eq!(worker.instance.condemned().is_some(), condemned, "{name}");
            tokio::time::sleep(Duration::from_millis(60)).await;
            let ended = worker.ended.borrow();
            assert_eq!((ended.len(), ended[0].outcome), (1, outcome), "{name}");
        }
    });
}

#[test]
fn each_start_fails_with_its_error() {
    let cases = [
        ("syntax", "export default {\n  fetch( {\n}", "index.js:"),
        ("throws", "const x = 1;\nthrow new Error('at start');\nexport default {}", "at start"),
        ("import", "import x from './none.js'; export default {}", "No such module \"./none.js\""),
        ("node", "import fs from 'node:fs'; export default {}", "No such module \"node:fs\""),
        ("loop", "for (;;); export default {}", "exceeded-cpu"),
        ("await", "await new Promise(() => {}); export default {}", "await"),
        ("global fetch", "await fetch('http://a.test'); export default {}", "global scope"),
        ("ext", "import x from 'ext:core/ops'; export default {}", "ext:"),
    ];
    on_isolate_thread(move |thread| async move {
        for (name, source, says) in cases {
            let setup = Setup { limits: tight(), ..Setup::new(script(source)) };
            let error = match setup.load(&thread).await {
                Ok(_) => panic!("{name}: started"),
                Err(error) => error,
            };
            let text = error.to_string();
            assert!(text.contains(says), "{name}: {text}");
            assert!(!matches!(error, StartError::Limit(_)) || name == "loop", "{name}");
        }
    });
}

/// Nothing of the machinery below the Web APIs is in reach.
#[test]
fn internals_are_out_of_reach() {
    let source = "export default { async fetch() { \
        const names = ['Deno', '__bootstrap', '__atoll', 'bootstrap', '__infra', '__timers', 'ops', 'process', 'require', 'gc'].filter((n) => n in globalThis); \
        const tried = []; \
        for (const s of ['ext:atoll/main.js', 'ext:core/ops', 'file:///etc/passwd', 'data:text/javascript,export default 1', 'atoll-bytes:index.js', 'http://a.test/x.js', 'node:fs']) { \
          try { await import(s); tried.push(s); } catch {} } \
        let seen; Object.defineProperty(globalThis, '__bootstrap', { configurable: true, set(v) { seen = v; } }); \
        crypto.subtle; new URLPattern({ pathname: '/a' }); new Blob(['x']).stream(); new CompressionStream('gzip'); performance.now(); structuredClone({}); \
        return Response.json({ names, tried, seen: seen !== undefined, nav: navigator.locks === undefined }); } }";
    on_isolate_thread(move |thread| async move {
        let worker = load(&thread, source).await;
        assert_eq!(
            worker.get("http://a.test/").await,
            r#"{"names":[],"tried":[],"seen":false,"nav":true}"#
        );
    });
}

/// A client that goes away aborts `request.signal`, and the invocation ends as canceled.
#[test]
fn client_leaves() {
    on_isolate_thread(|thread| async move {
        let worker = load(
            &thread,
            "export default { async fetch(request) { \
               request.signal.addEventListener('abort', () => console.log('aborted')); \
               for (;;) { await scheduler.wait(5); console.log('tick'); } } }",
        )
        .await;
        let request = http::Request::get("http://a.test/").body(None).unwrap();
        let left = tokio::time::timeout(Duration::from_millis(20), worker.request(request)).await;
        assert!(left.is_err());
        while worker.ended.borrow().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(worker.ended.borrow()[0].outcome, Outcome::Canceled);
        assert!(worker.host.lines.borrow().contains(&"aborted".to_owned()));
        let ticks = worker.host.lines.borrow().len();
        tokio::time::sleep(Duration::from_millis(40)).await;
        assert_eq!(worker.host.lines.borrow().len(), ticks, "timers end with the invocation");
    });
}

/// Stacks of uncaught errors name the source, through its source map.
#[test]
fn stacks_name_the_source() {
    use atoll_isolate::{ModuleKind, Script, ScriptFormat};
    on_isolate_thread(|thread| async move {
        // `throw` of line 3 in src/app.ts stands in line 1 of index.js.
        let map = r#"{"version":3,"sources":["src/app.ts"],"names":[],"mappings":"AAEA,MAAM,IAAI,MAAM,GAAG,CAAC,CAAC"}"#;
        let modules = vec![
            support::module(
                "index.js",
                ModuleKind::EsModule,
                "export default { fetch() { throw new Error('x'); } }",
            ),
            support::module("index.js.map", ModuleKind::SourceMap, map),
        ];
        let worker = Setup::new(Script::new(ScriptFormat::Modules, "index.js", modules))
            .load(&thread)
            .await
            .unwrap();
        let failure = worker.get_failure("http://a.test/").await;
        let stack = failure.exception.stack.unwrap_or_default();
        assert!(stack.contains("src/app.ts:3:"), "{stack}");
    });
}

/// Optimised code whose loop calls only builtins is ended too, whether it was optimised while it ran or
/// before: a tier of V8 that looks for interrupts too seldom let both go on for ever.
#[test]
fn optimised_loops_are_ended() {
    let bomb = "new Array(1000).fill({}).map(() => ({}))";
    let sources = [
        format!("export default {{ fetch() {{ const kept = []; for (;;) kept.push({bomb}); }} }}"),
        format!(
            "function f(n) {{ const kept = []; for (let i = 0; i < n; i++) kept.push({bomb}); return kept.length; }} \
             export default {{ fetch(r) {{ if (r.url.endsWith('/bomb')) f(Infinity); \
               let n = 0; for (let i = 0; i < 40; i++) n += f(2); return new Response(String(n)); }} }}"
        ),
    ];
    on_isolate_thread(move |thread| async move {
        for source in sources {
            let limits =
                Limits { cpu: Duration::from_millis(400), memory_bytes_max: 64 << 20, ..tight() };
            let setup = Setup { limits, ..Setup::new(script(&source)) };
            let worker = setup.load(&thread).await.unwrap();
            if source.contains("/bomb") {
                for _ in 0..60 {
                    assert_eq!(worker.get("http://a.test/").await, "80");
                }
            }
            let failure = worker.get_failure("http://a.test/bomb").await;
            assert!(
                matches!(failure.outcome, Outcome::ExceededMemory | Outcome::ExceededCpu),
                "{failure:?}"
            );
        }
    });
}

/// A worker that writes without end leaves as much as it may, and one note.
#[test]
fn console_output_is_bounded() {
    let source = "export default { fetch() { for (let i = 0; i < 5000; i++) console.log('line', i); \
        return new Response('done'); } }";
    on_isolate_thread(move |thread| async move {
        let limits = Limits { log_bytes_max: 4_000, ..Limits::default() };
        let worker = Setup { limits, ..Setup::new(script(source)) }.load(&thread).await.unwrap();
        for _ in 0..2 {
            assert_eq!(worker.get("http://a.test/").await, "done");
            let lines = worker.host.lines.take();
            assert!(lines.len() < 125, "{}", lines.len());
            assert!(lines.last().unwrap().starts_with("Log truncated"), "{lines:?}");
            let ended = worker.ended.borrow();
            assert_eq!(ended.last().unwrap().logs.len(), lines.len());
        }
    });
}

/// Fetches past the connection limit wait in line; bodies that nobody reads do not hold it up for ever.
#[test]
fn connections_are_bounded() {
    let source = "export default { async fetch(request) { \
        if (request.url.endsWith('/all')) { \
          const all = Array.from({ length: 40 }, (_, i) => fetch('http://b.test/' + i).then((r) => r.text())); \
          return new Response((await Promise.all(all)).join('')); } \
        const kept = []; for (let i = 0; i < 8; i++) kept.push(await fetch('http://b.test/' + i)); \
        const read = await Promise.allSettled(kept.map((r) => r.text())); \
        return new Response(read.map((r) => r.status[0]).join('')); } }";
    on_isolate_thread(move |thread| async move {
        let mut setup = Setup::new(script(source));
        setup.host.answer = Some(Box::new(|_| http::Response::new("x".into())));
        let worker = setup.load(&thread).await.unwrap();
        assert_eq!(worker.get("http://a.test/all").await, "x".repeat(40));
        assert_eq!(worker.host.open.get(), (0, 6));
        assert_eq!(worker.get("http://a.test/unread").await, "rrffffff");
    });
}
