//! Prints what idle instances cost, what shrinking gives back and takes, and what dropping gives back.
//!
//! `cargo run -p atoll-isolate --example memory_figures [V8 flag]...`

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

const INSTANCES: usize = 100;

const SOURCE: &str = "export default { fetch() { const kept = []; \
    for (let i = 0; i < 20; i++) kept.push({ i, name: 'item ' + i, tags: ['a', 'b', 'c'] }); \
    return new Response(JSON.stringify(JSON.parse(JSON.stringify(kept)))); } }";

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

fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok()).unwrap_or(0)
}

async fn load(thread: &IsolateThread) -> Instance {
    let modules = vec![Module {
        name: "index.js".to_owned(),
        kind: ModuleKind::EsModule,
        bytes: Bytes::from_static(SOURCE.as_bytes()),
    }];
    let options = InstanceOptions {
        script: Arc::new(Script::new(ScriptFormat::Modules, "index.js", modules)),
        bindings: Vec::new(),
        limits: Limits::default(),
        host: Rc::new(NoHost),
        inspector: false,
        label: "figures".to_owned(),
    };
    Instance::load(thread, options).await.expect("it starts")
}

async fn call(instance: &Instance) {
    let event = FetchEvent {
        id: "0".into(),
        url: "http://a.test/".into(),
        request: Request::get("http://a.test/").body(None).expect("a request"),
        facts: None,
    };
    instance.fetch(event, Box::new(|_| ())).await.expect("it answers");
}

async fn measure(thread: IsolateThread) {
    let one = load(&thread).await;
    call(&one).await;
    let start = resident_kib();
    let mut instances = Vec::new();
    for _ in 0..INSTANCES {
        let instance = load(&thread).await;
        call(&instance).await;
        instances.push(instance);
    }
    let charged = |instances: &[Instance]| {
        (instances.iter().map(Instance::memory_bytes).sum::<usize>() / INSTANCES) >> 10
    };
    let each = |now: usize| now.saturating_sub(start) / INSTANCES;
    println!("idle: {} KiB resident, {} KiB charged", each(resident_kib()), charged(&instances));
    let began = Instant::now();
    for _ in 0..20_000 {
        call(&one).await;
    }
    println!("warm call: {} ns", began.elapsed().as_nanos() / 20_000);
    for instance in &instances {
        for _ in 0..300 {
            call(instance).await;
        }
    }
    println!("used: {} KiB resident, {} KiB charged", each(resident_kib()), charged(&instances));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let began = Instant::now();
    for instance in &instances {
        instance.shrink();
    }
    let took = began.elapsed().as_micros() as usize / INSTANCES;
    println!(
        "shrunk: {} KiB resident, {} KiB charged, {took} us each",
        each(resident_kib()),
        charged(&instances)
    );
    let began = Instant::now();
    drop(instances);
    let took = began.elapsed().as_micros() as usize / INSTANCES;
    println!("dropped: {} KiB resident of each, {took} us each", each(resident_kib()));
    one.shrink();
    println!("with another shrunk: {} KiB", each(resident_kib()));
    for seconds in [1, 9] {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        call(&one).await;
        println!("{seconds} s later: {} KiB", each(resident_kib()));
    }
}

fn main() {
    let flags: Vec<String> = std::env::args().collect();
    deno_core::v8_set_flags(flags);
    let engine = Engine::start(EngineOptions::default()).expect("V8 starts");
    let thread = std::thread::Builder::new().stack_size(8 << 20);
    let measured = thread.spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let local = tokio::task::LocalSet::new();
        let isolates = engine.thread().expect("an isolate thread");
        local.block_on(&runtime.expect("a runtime"), measure(isolates));
    });
    measured.expect("a thread").join().expect("no panic");
}
