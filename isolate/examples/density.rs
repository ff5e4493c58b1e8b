//! What one isolate costs: time to create, time to load and call, private memory, V8's heap, mappings.
//!
//! `cargo run --release -p atoll-isolate --example density [instances]`
#![allow(clippy::unwrap_used, reason = "a measurement fails by panicking")]

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_isolate::{
    Body, Engine, EngineOptions, FetchEvent, FetchHop, Host, HostError, Instance, InstanceOptions,
    IsolateThread, KvCall, KvReply, Limits, LogLine, Module, ModuleKind, Script, ScriptFormat,
};
use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http::{Request, Response};

const INSTANCES: usize = 200;

struct NoHost;

impl Host for NoHost {
    fn fetch(&self, _: FetchHop) -> LocalBoxFuture<'static, Result<Response<Body>, HostError>> {
        Box::pin(async { Err(HostError::Refused("nothing is reachable".to_owned())) })
    }
    fn kv(&self, _: u32, _: KvCall) -> LocalBoxFuture<'static, Result<KvReply, HostError>> {
        Box::pin(async { Err(HostError::Refused("nothing is stored".to_owned())) })
    }
    fn console(&self, _: Option<&str>, _: &LogLine) {}
}

/// A small worker; each number gives another source, as different tenants have.
fn script(number: usize) -> Script {
    let source = format!(
        "const greeting = 'hello from worker {number}';
         function route(url) {{ return new URL(url).pathname.split('/').filter(Boolean); }}
         export default {{ async fetch(request, env, ctx) {{
           const parts = route(request.url);
           if (parts[0] === 'json') return Response.json({{ greeting, parts }});
           return new Response(greeting + ' ' + request.headers.get('host'));
         }} }};"
    );
    let main = Module {
        name: "index.js".to_owned(),
        kind: ModuleKind::EsModule,
        bytes: Bytes::from(source),
    };
    Script::new(ScriptFormat::Modules, "index.js", vec![main])
}

/// Private and proportional bytes of the process, and how many mappings it has.
fn memory() -> (u64, u64, usize) {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let field = |name: &str| -> u64 {
        let lines = rollup.lines().filter(|line| line.starts_with(name));
        lines.map(|l| l.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024).sum()
    };
    let mappings = std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    (field("Private_"), field("Pss:"), mappings)
}

fn milliseconds(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort();
    let at = |n: usize| times[n.min(times.len() - 1)].as_secs_f64() * 1e3;
    (at(times.len() / 2), at(times.len() * 9 / 10))
}

async fn load(thread: &IsolateThread, number: usize) -> Instance {
    let options = InstanceOptions {
        script: Arc::new(script(number)),
        bindings: Vec::new(),
        limits: Limits::default(),
        host: Rc::new(NoHost),
        inspector: false,
        label: "density".into(),
    };
    Instance::load(thread, options).await.unwrap()
}

async fn call(instance: &Instance) {
    let request = Request::get("http://a.test/").header("host", "a.test").body(None).unwrap();
    let event = FetchEvent {
        id: "0123456789abcdef".into(),
        url: "http://a.test/a/b".into(),
        request,
        facts: None,
    };
    assert_eq!(instance.fetch(event, Box::new(|_| ())).await.unwrap().status(), 200);
}

async fn measure(thread: IsolateThread, instances: usize) {
    // The first ones pay for what is lazily set up once for each process and thread.
    let _warm = [load(&thread, usize::MAX).await, load(&thread, usize::MAX - 1).await];
    call(&_warm[0]).await;
    let (private, pss, mappings) = memory();
    let mut loaded = Vec::with_capacity(instances);
    let (mut creations, mut loads) = (Vec::new(), Vec::new());
    let (mut calls, mut again) = (Vec::new(), Vec::new());
    for number in 0..instances {
        let begun = Instant::now();
        thread.make_spare();
        let started = Instant::now();
        let instance = load(&thread, number).await;
        let ready = Instant::now();
        call(&instance).await;
        let called = Instant::now();
        call(&instance).await;
        creations.push(started - begun);
        loads.push(ready - started);
        calls.push(called - ready);
        again.push(called.elapsed());
        loaded.push(instance);
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (private_after, pss_after, mappings_after) = memory();
    let each = |before: u64, after: u64| (after - before) as f64 / instances as f64 / 1e6;
    let show = |name: &str, times: Vec<Duration>| {
        let (p50, p90) = milliseconds(times);
        println!("{name:28} p50 {p50:7.3} ms   p90 {p90:7.3} ms");
    };
    show("create an isolate", creations);
    show("load into it", loads);
    show("first call", calls);
    show("second call", again);
    let held = |of: fn(&atoll_isolate::InstanceMemory) -> usize| {
        let all: usize = loaded.iter().map(|instance| of(&instance.memory())).sum();
        all as f64 / instances as f64 / 1e6
    };
    println!("{:28} {:.3} MB", "V8 heap committed each", held(|memory| memory.heap));
    println!("{:28} {:.3} MB", "private memory each", each(private, private_after));
    println!("{:28} {:.3} MB", "proportional memory each", each(pss, pss_after));
    println!("{:28} {:.1}", "mappings each", (mappings_after - mappings) as f64 / instances as f64);
}

fn main() {
    let instances = std::env::args().nth(1).map_or(INSTANCES, |n| n.parse().unwrap());
    let engine = Engine::start(EngineOptions::default()).unwrap();
    let thread = std::thread::Builder::new().stack_size(8 << 20);
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async { measure(engine.thread().unwrap(), instances).await });
    };
    thread.spawn(run).unwrap().join().unwrap();
}
