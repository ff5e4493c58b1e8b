//! Memory is measured, granted from a budget of the process, refused past it, and given back.

mod support;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use atoll_isolate::{Body, EngineOptions, IsolateThread, Limits, Outcome};
use bytes::Bytes;
use futures_util::stream;
use http::Request;
use http_body::Frame;
use http_body_util::StreamBody;
use support::{BUDGETS, Setup, Worker, load, on_isolate_thread, script, text};

const MIB: usize = 1 << 20;

/// The budget for all heaps of this file's process.
const HEAPS_MAX: usize = 600 * MIB;

/// Every test needs the budget for itself.
static ALONE: Mutex<()> = Mutex::new(());

fn alone<F, Fut>(test: F)
where
    F: FnOnce(IsolateThread) -> Fut + Send + 'static,
    Fut: Future<Output = ()>,
{
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    BUDGETS.get_or_init(|| EngineOptions {
        heap_bytes_max: HEAPS_MAX,
        memory_bytes_max: 2 * HEAPS_MAX,
        ..EngineOptions::default()
    });
    on_isolate_thread(test);
}

async fn limited(thread: &IsolateThread, source: &str, memory_bytes_max: usize) -> Worker {
    let cpu = Duration::from_secs(20);
    let limits = Limits { memory_bytes_max, cpu, wall: cpu, ..Limits::default() };
    let setup = Setup { limits, ..Setup::new(script(source)) };
    setup.load(thread).await.unwrap_or_else(|error| panic!("{error}"))
}

/// Each kind of memory, taken past the isolate's limit, ends with this outcome; a neighbour still answers.
#[test]
fn each_kind_of_memory_is_limited() {
    use Outcome::{ExceededMemory, Exception};
    let cases = [
        ("objects", "const a = []; for (;;) a.push({ x: [1] })", ExceededMemory),
        ("one array", "globalThis.kept = new Array(3e7).fill(0); for (;;);", ExceededMemory),
        (
            "array of any length",
            "globalThis.kept = Array.from({ length: 2 ** 26 })",
            ExceededMemory,
        ),
        ("doubling", "let a = [1, 2]; for (;;) a = a.concat(a)", ExceededMemory),
        (
            "one string",
            "globalThis.kept = 'x'.repeat(2 ** 28); kept.indexOf('y'); for (;;);",
            ExceededMemory,
        ),
        ("map", "const m = new Map(); for (let i = 0;; i++) m.set(i, i)", ExceededMemory),
        (
            "table",
            "const a = []; for (;;) a.push(new WebAssembly.Table({ element: 'externref', initial: 9999999 }))",
            ExceededMemory,
        ),
        (
            "linear memory",
            "const a = []; for (;;) a.push(new WebAssembly.Memory({ initial: 100 }))",
            ExceededMemory,
        ),
        (
            "grown memory",
            "globalThis.kept = new WebAssembly.Memory({ initial: 1 }); kept.grow(2000); for (;;);",
            ExceededMemory,
        ),
        (
            "resizable",
            "const a = []; for (;;) { const b = new ArrayBuffer(1, { maxByteLength: 1 << 24 }); b.resize(1 << 24); a.push(b); }",
            ExceededMemory,
        ),
        (
            "encoded",
            "const a = []; for (;;) a.push(new TextEncoder().encode('x'.repeat(1 << 20)))",
            ExceededMemory,
        ),
        ("buffers", "const a = []; for (;;) a.push(new Uint8Array(1 << 20))", Exception),
        ("one buffer", "new Float64Array(2 ** 27)", Exception),
        (
            "buffers and heap",
            "const b = new Uint8Array(30 << 20), a = []; for (let i = 0; i < 1e6; i++) a.push({ x: [i], b }); ",
            ExceededMemory,
        ),
    ];
    alone(move |thread| async move {
        let neighbour = load(&thread, "export default { fetch: () => new Response('fine') }").await;
        for (name, body, outcome) in cases {
            let source =
                format!("export default {{ fetch() {{ {body}; return new Response('kept'); }} }}");
            let worker = limited(&thread, &source, 48 * MIB).await;
            let failure = worker.get_failure("http://a.test/").await;
            assert_eq!(failure.outcome, outcome, "{name}: {failure:?}");
            let refused = outcome == Outcome::ExceededMemory;
            assert_eq!(worker.instance.condemned().is_some(), refused, "{name}");
            assert_eq!(neighbour.get("http://b.test/").await, "fine", "{name}");
        }
    });
}

/// What fits into the limit is granted, in one piece or many, though the heap starts small.
#[test]
fn what_fits_is_granted() {
    let source = "let kept = []; export default { fetch(r) { \
        if (r.url.endsWith('/array')) kept = new Array(2e7).fill(kept); \
        if (r.url.endsWith('/many')) { kept = []; for (let i = 0; i < 2e4; i++) kept.push(new Array(1000).fill(i)); } \
        if (r.url.endsWith('/buffer')) { kept = null; kept = new Uint8Array(100 << 20); } \
        return new Response(String(kept.length)); } }";
    alone(move |thread| async move {
        let worker = limited(&thread, source, 128 * MIB).await;
        assert_eq!(worker.get("http://a.test/array").await, "20000000");
        assert!(worker.instance.memory().heap >= 76 * MIB, "{:?}", worker.instance.memory());
        assert_eq!(worker.get("http://a.test/many").await, "20000");
        assert_eq!(worker.get("http://a.test/buffer").await, (100 << 20).to_string());
        assert!(worker.instance.memory().buffers >= 100 * MIB);
        assert_eq!(worker.instance.condemned(), None);
    });
}

/// Garbage beyond the limit is collected, however little room what is kept leaves, and refuses nobody.
#[test]
fn garbage_is_collected_before_it_is_refused() {
    let source = "const kept = new Array(1000).fill().map((_, i) => new Array(5000).fill(i)); \
        export default { fetch() { const old = []; \
        for (let i = 0; i < 20_000; i++) old[i % 300] = new Array(5000).fill(i); \
        return new Response(String(kept.length)); } }";
    alone(move |thread| async move {
        for memory_bytes_max in [36 * MIB, 50 * MIB] {
            let worker = limited(&thread, source, memory_bytes_max).await;
            for _ in 0..3 {
                assert_eq!(worker.get("http://a.test/").await, "1000");
            }
            let held = worker.instance.memory();
            assert!(held.heap >= 19 * MIB && held.heap <= memory_bytes_max, "{held:?}");
        }
    });
}

/// Forty tenants that grow towards their limit together end in refusals, and the process and a neighbour go on.
#[test]
fn growth_past_the_budget_is_refused() {
    let source = "const kept = []; export default { fetch() { \
        for (let i = 0; i < 2000; i++) kept.push(new Array(1000).fill(i)); \
        return new Response('more'); } }";
    alone(move |thread| async move {
        let neighbour = load(&thread, "export default { fetch: () => new Response('fine') }").await;
        let mut growing = Vec::new();
        for _ in 0..40 {
            growing.push(limited(&thread, source, 128 * MIB).await);
        }
        let mut overloaded = 0;
        let mut pressed = false;
        for _ in 0..12 {
            let mut left = Vec::new();
            for worker in growing {
                let request = http::Request::get("http://a.test/").body(None).unwrap();
                match worker.request(request).await {
                    Ok(_) => left.push(worker),
                    Err(failure) if failure.outcome == Outcome::Overloaded => overloaded += 1,
                    Err(failure) => {
                        assert_eq!(failure.outcome, Outcome::ExceededMemory, "{failure:?}");
                    }
                }
                // What the one thread grew by in a slice may go past it before it is seen, up to what one
                // isolate may hold.
                let used = thread.memory().heap_used();
                assert!(used <= HEAPS_MAX + 160 * MIB, "{used}");
            }
            growing = left;
            pressed |= thread.memory().pressed();
            assert_eq!(neighbour.get("http://b.test/").await, "fine");
        }
        assert!(overloaded > 0 && !growing.is_empty(), "{overloaded} {}", growing.len());
        assert!(pressed);
        drop(growing);
        assert!(!thread.memory().pressed());
        assert_eq!(neighbour.instance.condemned(), None);
    });
}

/// Whoever read a body without an end took the memory of the whole process, and the thread for as long.
#[test]
fn a_body_is_read_within_the_limit_and_in_turns() {
    let source = "export default { async fetch(request) { \
        try { return new Response(await request.arrayBuffer()); } \
        catch (error) { return new Response(error.name); } } }";
    alone(move |thread| async move {
        let worker = limited(&thread, source, 64 * MIB).await;
        let before = thread.memory().used();
        let turns = Rc::new(Cell::new(0));
        let counted = turns.clone();
        let others = tokio::task::spawn_local(async move {
            loop {
                counted.set(counted.get() + 1);
                tokio::task::yield_now().await;
            }
        });
        let piece = Bytes::from(vec![0; 64 << 10]);
        let endless = stream::repeat_with(move || Ok(Frame::data(piece.clone())));
        let body: Body = Box::pin(StreamBody::new(endless));
        let request = Request::post("http://a.test/").body(Some(body)).unwrap();
        assert_eq!(text(worker.request(request).await.unwrap()).await, "RangeError");
        assert!(turns.get() > 30, "{}", turns.get());
        assert!(thread.memory().used() < before + 8 * MIB, "what was read is given back");
        let request = Request::post("http://a.test/").body(support::body("all of it")).unwrap();
        assert_eq!(text(worker.request(request).await.unwrap()).await, "all of it");
        others.abort();
    });
}

/// Figures follow an instance: up when it holds more, down when it shrinks, and to nothing when it goes.
#[test]
fn memory_is_given_back() {
    let source = "export default { fetch() { let kept = []; \
        for (let i = 0; i < 2500; i++) kept.push(new Array(1000).fill(i)); \
        return new Response(String(kept.length)); } }";
    alone(move |thread| async move {
        let before = thread.memory().used();
        let worker = limited(&thread, source, 128 * MIB).await;
        let idle = worker.instance.memory_bytes();
        assert!(idle > MIB, "{idle}");
        assert!(thread.memory().used() >= before + idle);
        worker.get("http://a.test/").await;
        let grown = worker.instance.memory_bytes();
        assert!(grown > idle + 2 * MIB, "{grown}");
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(worker.instance.in_flight(), 0);
        assert_eq!(worker.instance.grown_bytes(), worker.instance.memory_bytes());
        for (thoroughly, more) in [(false, 4 * MIB), (true, MIB)] {
            worker.get("http://a.test/").await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            match thoroughly {
                true => worker.instance.shrink(),
                false => worker.instance.collect(),
            }
            let shrunk = worker.instance.memory_bytes();
            assert!(shrunk < idle + more, "{shrunk} after {grown}");
            assert_eq!(worker.instance.grown_bytes(), 0);
        }
        assert_eq!(worker.get("http://a.test/").await, "2500");
        drop(worker);
        for _ in 0..100 {
            if thread.memory().used() == before {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} bytes are still charged", thread.memory().used() - before);
    });
}
