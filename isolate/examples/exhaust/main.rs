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

/// Bodies of `fetch` handlers, one a line, each after its name.
const SCRIPTS: &str = include_str!("scripts.txt");

fn scripts() -> impl Iterator<Item = (&'static str, &'static str)> {
    SCRIPTS.lines().filter_map(|line| line.split_once(": "))
}

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
    let (_, body) = scripts().find(|(known, _)| *known == name).expect("a known script");
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
        (Some(flag), Some(name)) if flag == "--in-process" => run(&name),
        (wanted, _) => {
            let exe = std::env::current_exe().expect("a program");
            for (name, _) in scripts() {
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
