//! One script in a process of its own.

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

/// Runs a script in this process, given the body of its handler, and prints how it ended.
pub(crate) fn run(body: &str) {
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
                label: "exhaust".to_owned(),
            };
            let instance = Instance::load(&isolates, options).await.expect("it starts");
            let began = Instant::now();
            let event = FetchEvent {
                id: "0".into(),
                url: "http://a.test/".into(),
                request: Request::get("http://a.test/").body(None).expect("a request"),
                facts: None,
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
