//! Runs a worker's script on an isolate thread, with a host that records and answers from tables.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, LazyLock, Mutex, OnceLock};

use atoll_isolate::{
    Binding, Body, Engine, EngineOptions, FetchEvent, FetchHop, Host, HostError, Instance,
    InstanceOptions, InvocationRecord, IsolateThread, KvCall, KvEntry, KvReply, Limits, LogLine,
    Module, ModuleKind, RequestFacts, ResponseBody, Script, ScriptFormat, StartError,
};
use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http::header::{HeaderMap, HeaderValue};
use http::{Request, Response};
use http_body_util::BodyExt;

/// The budgets of the process, for a test file that sets them before its first test.
pub(crate) static BUDGETS: OnceLock<EngineOptions> = OnceLock::new();

/// The process's engine, once a test has begun.
static ENGINE: OnceLock<&'static Engine> = OnceLock::new();

type Job = Box<dyn FnOnce(&'static Engine) + Send>;

/// V8 must start before any thread that uses it: this thread starts it and begets all the others.
static RUNNER: LazyLock<Mutex<Sender<Job>>> = LazyLock::new(|| {
    let (jobs, inbox) = channel::<Job>();
    std::thread::spawn(move || {
        let options = BUDGETS.get().cloned().unwrap_or_default();
        let engine: &'static Engine = Box::leak(Box::new(Engine::start(options).unwrap()));
        let _ = ENGINE.set(engine);
        for job in inbox {
            std::thread::Builder::new().stack_size(8 << 20).spawn(move || job(engine)).unwrap();
        }
    });
    Mutex::new(jobs)
});

/// What all isolate threads have in common.
pub(crate) fn engine() -> &'static Engine {
    ENGINE.get().expect("a test runs on an isolate thread")
}

/// Runs `test` on an isolate thread of its own and passes its panic on.
pub(crate) fn on_isolate_thread<F, Fut>(test: F)
where
    F: FnOnce(IsolateThread) -> Fut + Send + 'static,
    Fut: Future<Output = ()>,
{
    let (done, wait) = channel();
    let job: Job = Box::new(move |engine| {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, async { test(engine.thread().unwrap()).await });
        }));
        done.send(outcome).unwrap();
    });
    RUNNER.lock().unwrap().send(job).unwrap();
    if let Err(panic) = wait.recv().unwrap() {
        std::panic::resume_unwind(panic);
    }
}

/// A value and its metadata.
type Stored = (Bytes, Option<Arc<str>>);

/// A host with a map for KV, a function for `fetch`, and a list of console lines.
#[derive(Default)]
pub(crate) struct TestHost {
    pub(crate) kv: Rc<RefCell<HashMap<String, Stored>>>,
    pub(crate) lines: RefCell<Vec<String>>,
    pub(crate) fetched: RefCell<Vec<String>>,
    /// The bodies that were sent with them.
    pub(crate) sent: Rc<RefCell<Vec<String>>>,
    #[allow(clippy::type_complexity)]
    pub(crate) answer: Option<Box<dyn Fn(&str) -> Response<Bytes>>>,
    /// Fetches whose response has not come yet, and the most there ever were.
    pub(crate) open: Rc<Cell<(usize, usize)>>,
}

impl Host for TestHost {
    fn fetch(&self, hop: FetchHop) -> LocalBoxFuture<'static, Result<Response<Body>, HostError>> {
        let url = hop.request.uri().to_string();
        self.fetched.borrow_mut().push(format!("{} {url}", hop.request.method()));
        let Some(answer) = &self.answer else {
            return Box::pin(async move { Err(HostError::Refused(format!("no route to {url}"))) });
        };
        let (parts, bytes) = answer(&url).into_parts();
        let body: Body = Box::pin(ResponseBody::Full(Some(bytes)));
        let open = self.open.clone();
        let sent = self.sent.clone();
        let outgoing = hop.request.into_body();
        Box::pin(async move {
            if let Some(outgoing) = outgoing {
                let bytes = outgoing.collect().await.unwrap().to_bytes();
                sent.borrow_mut().push(String::from_utf8(bytes.to_vec()).unwrap());
            }
            let (now, most) = open.get();
            open.set((now + 1, most.max(now + 1)));
            tokio::task::yield_now().await;
            open.set((open.get().0 - 1, open.get().1));
            Ok(Response::from_parts(parts, body))
        })
    }

    fn kv(&self, _: u32, call: KvCall) -> LocalBoxFuture<'static, Result<KvReply, HostError>> {
        let kv = self.kv.clone();
        Box::pin(async move {
            let mut kv = kv.borrow_mut();
            Ok(match call {
                KvCall::Get { keys } => KvReply::Entries(
                    keys.iter()
                        .map(|key| {
                            let (value, metadata) = kv.get(key)?.clone();
                            Some(KvEntry { value, metadata })
                        })
                        .collect(),
                ),
                KvCall::Put { key, value, metadata, .. } => {
                    kv.insert(key, (value, metadata.map(Arc::from)));
                    KvReply::Done
                }
                KvCall::Delete { key } => {
                    kv.remove(&key);
                    KvReply::Done
                }
                KvCall::List { .. } => {
                    let mut names: Vec<_> = kv.keys().cloned().collect();
                    names.sort();
                    let keys: Vec<_> =
                        names.iter().map(|name| format!("{{\"name\":{name:?}}}")).collect();
                    KvReply::Page(format!(
                        "{{\"keys\":[{}],\"list_complete\":true}}",
                        keys.join(",")
                    ))
                }
            })
        })
    }

    fn console(&self, _: Option<&str>, line: &LogLine) {
        self.lines.borrow_mut().push(line.message.clone());
    }
}

pub(crate) fn module(name: &str, kind: ModuleKind, bytes: impl AsRef<[u8]>) -> Module {
    Module { name: name.to_owned(), kind, bytes: Bytes::copy_from_slice(bytes.as_ref()) }
}

/// A script of one ES module.
pub(crate) fn script(source: &str) -> Script {
    Script::new(
        ScriptFormat::Modules,
        "index.js",
        vec![module("index.js", ModuleKind::EsModule, source)],
    )
}

pub(crate) struct Worker {
    pub(crate) instance: Instance,
    pub(crate) host: Rc<TestHost>,
    pub(crate) ended: Rc<RefCell<Vec<InvocationRecord>>>,
}

pub(crate) struct Setup {
    pub(crate) script: Script,
    pub(crate) bindings: Vec<Binding>,
    pub(crate) limits: Limits,
    pub(crate) host: TestHost,
    pub(crate) inspector: bool,
}

impl Setup {
    pub(crate) fn new(script: Script) -> Self {
        Self {
            script,
            bindings: Vec::new(),
            limits: Limits::default(),
            host: TestHost::default(),
            inspector: false,
        }
    }

    pub(crate) async fn load(self, thread: &IsolateThread) -> Result<Worker, StartError> {
        let host = Rc::new(self.host);
        let options = InstanceOptions {
            label: "test".to_owned(),
            script: Arc::new(self.script),
            bindings: self.bindings,
            limits: self.limits,
            host: host.clone(),
            inspector: self.inspector,
        };
        let instance = Instance::load(thread, options).await?;
        Ok(Worker { instance, host, ended: Rc::default() })
    }
}

/// What a client's request says of it.
struct Facts;

impl RequestFacts for Facts {
    fn finish_headers(&self, headers: &mut HeaderMap) {
        headers.insert("x-finished", HeaderValue::from_static("once"));
    }

    fn cf(&self, _: &HeaderMap) -> String {
        r#"{"country":"DE","colo":"TST"}"#.to_owned()
    }
}

/// Loads a script of one ES module without bindings.
pub(crate) async fn load(thread: &IsolateThread, source: &str) -> Worker {
    Setup::new(script(source)).load(thread).await.unwrap_or_else(|error| panic!("{error}"))
}

impl Worker {
    pub(crate) async fn request(
        &self,
        request: Request<Option<Body>>,
    ) -> Result<Response<ResponseBody>, atoll_isolate::Failure> {
        let ended = self.ended.clone();
        let event = FetchEvent {
            id: "0123456789abcdef".into(),
            url: request.uri().to_string().into(),
            request,
            facts: Some(Box::new(Facts)),
        };
        self.instance.fetch(event, Box::new(move |record| ended.borrow_mut().push(record))).await
    }

    pub(crate) async fn get(&self, url: &str) -> String {
        let request = Request::get(url).header("x-test", "yes").body(None).unwrap();
        let response = self.request(request).await.unwrap_or_else(|failure| panic!("{failure:?}"));
        text(response).await
    }

    pub(crate) async fn get_failure(&self, url: &str) -> atoll_isolate::Failure {
        let request = Request::get(url).body(None).unwrap();
        match self.request(request).await {
            Ok(response) => panic!("unexpected response {}", response.status()),
            Err(failure) => failure,
        }
    }
}

pub(crate) async fn text(response: Response<ResponseBody>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub(crate) fn body(bytes: impl Into<Bytes>) -> Option<Body> {
    Some(Box::pin(ResponseBody::Full(Some(bytes.into()))))
}
