//! What a confined process cannot do, and that serving goes on in it.
//!
//! The program starts itself again: the child enters the sandbox as a serving process does, while it has
//! one thread, and then tries things. A refusal that fails the test is told by the child's exit code.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::TcpListener as StdTcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use atoll_edge_node::sandbox::{Measure, SandboxOptions, enter};
use atoll_isolate::{
    Body, Engine, EngineOptions, FetchEvent, FetchHop, Host, HostError, Instance, InstanceOptions,
    KvCall, KvReply, Limits, LogLine, Module, ModuleKind, Script, ScriptFormat, SealedMemory,
};
use futures_util::future::LocalBoxFuture;
use http::{Request, Response};
use http_body_util::BodyExt;
use rustix::fs::{MemfdFlags, SealFlags};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

/// Holds the child's directory; the parent's part is skipped with it.
const PLACE: &str = "ATOLL_SANDBOX_PLACE";
/// V8 wants more than the usual stack.
const STACK_BYTES: usize = 8 << 20;
/// What the child's worker answers with.
const ANSWER: &str = "499999500000 42 64";

/// A hot loop for the compilers, a wasm module made while starting, a timer, and a digest.
const WORKER: &str = r#"
const wasm = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 127, 3, 2, 1, 0, 7, 5, 1, 1, 102, 0, 0, 10, 6, 1, 4, 0,
  65, 42, 11,
]);
const instance = new WebAssembly.Instance(new WebAssembly.Module(wasm));
function add(a, b) { return a + b; }
export default {
  async fetch() {
    let sum = 0;
    for (let i = 0; i < 1_000_000; i++) sum = add(sum, i);
    await new Promise((done) => setTimeout(done, 1));
    const digest = await crypto.subtle.digest("SHA-512", new Uint8Array(1_000_000));
    return new Response(`${sum} ${instance.exports.f()} ${digest.byteLength}`);
  },
};
"#;

fn main() {
    match std::env::var_os(PLACE) {
        Some(place) => confined(Path::new(&place)),
        None => {
            let place = tempfile::tempdir().unwrap();
            fs::write(place.path().join("readable"), "text").unwrap();
            fs::write(place.path().join("secret"), "text").unwrap();
            let program = std::env::current_exe().unwrap();
            let status = Command::new(program).env(PLACE, place.path()).status().unwrap();
            assert!(status.success(), "the confined process ended with {status}");
            assert!(!place.path().join("new").exists());
        }
    }
}

/// What the process has open before it is confined.
struct Before {
    listener: StdTcpListener,
    /// Memory that a supervisor shares.
    shared: OwnedFd,
    place: PathBuf,
    parent: rustix::process::Pid,
}

fn confined(place: &Path) {
    let before = Before {
        listener: StdTcpListener::bind("127.0.0.1:0").unwrap(),
        shared: sealed(b"shared"),
        place: place.to_owned(),
        parent: rustix::process::getppid().unwrap(),
    };
    let report = enter(&SandboxOptions { readable: vec![place.join("readable")] });
    println!("sandbox: {report}");
    let seccomp = report.system_calls == Measure::Applied;
    let landlock = !matches!(report.reach, Measure::NotOffered | Measure::Refused(_));
    assert_ne!(report.capabilities, Measure::NotOffered);
    if seccomp {
        refused_by_system_calls(&before);
    }
    if landlock {
        refused_by_reach(&before);
    }
    assert_eq!(SealedMemory::map(before.shared).unwrap().as_ref(), b"shared");
    serving_goes_on(before.listener);
    println!("sandbox: ok");
}

/// A file in memory that nobody can change any more.
fn sealed(contents: &[u8]) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(rustix::fs::memfd_create("shared", flags).unwrap());
    file.write_all(contents).unwrap();
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW;
    rustix::fs::fcntl_add_seals(&file, seals).unwrap();
    file.into()
}

/// Fails the test unless the kernel said that this is not allowed.
fn refused<T>(what: &str, result: io::Result<T>) {
    match result {
        Ok(_) => panic!("{what} is possible"),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        Err(error) => panic!("{what} fails in another way: {error}"),
    }
}

fn refused_by_system_calls(before: &Before) {
    refused("starting a program", Command::new("/bin/true").status());
    refused("becoming a program", Err::<(), _>(Command::new("/bin/true").exec()));
    refused("writing a file", File::create(before.place.join("new")));
    let append = OpenOptions::new().append(true).open(before.place.join("readable"));
    refused("appending to a file", append);
    refused("removing a file", fs::remove_file(before.place.join("secret")));
    refused("looking at a file", fs::metadata("/etc/passwd"));
    refused("a local socket", StdUnixStream::connect(before.place.join("socket")));
    refused("a new listener", StdTcpListener::bind("127.0.0.1:0"));
    let errno = |result: rustix::io::Result<()>| result.map_err(io::Error::from);
    refused("a signal to the parent", errno(rustix::process::test_kill_process(before.parent)));
    let own = rustix::process::getpid();
    errno(rustix::process::test_kill_process(own)).unwrap();
    let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let set = rustix::process::setrlimit(rustix::process::Resource::Nofile, limits);
    refused("setting a limit", errno(set));
    let memory = rustix::fs::memfd_create("m", rustix::fs::MemfdFlags::CLOEXEC);
    refused("a file in memory", memory.map_err(io::Error::from));
    refused("another root", errno(rustix::process::chroot("/")));
    let packets =
        rustix::net::socket(rustix::net::AddressFamily::PACKET, rustix::net::SocketType::RAW, None);
    refused("a raw socket", packets.map_err(io::Error::from));
}

fn refused_by_reach(before: &Before) {
    refused("reading a file", fs::read("/etc/passwd"));
    refused("reading a neighbour of a readable file", fs::read(before.place.join("secret")));
    refused("listing a directory", fs::read_dir("/etc"));
    let parent = PathBuf::from(format!("/proc/{}/environ", before.parent.as_raw_nonzero()));
    refused("reading what the parent was given", fs::read(parent));
    refused("reading a file by way of the process's own", fs::read("/proc/self/root/etc/passwd"));
    fs::read("/proc/self/statm").unwrap();
    thread::spawn(|| fs::read("/proc/thread-self/stat").unwrap()).join().unwrap();
    assert_eq!(fs::read(before.place.join("readable")).unwrap(), b"text");
    // V8 seeds its hashes from it.
    File::open("/dev/urandom").unwrap();
}

fn serving_goes_on(listener: StdTcpListener) {
    let engine = Arc::new(Engine::start(EngineOptions::default()).unwrap());
    let isolates: Vec<_> = (0..2)
        .map(|_| {
            let engine = engine.clone();
            let run = move || {
                let runtime = runtime();
                LocalSet::new().block_on(&runtime, answer(&engine))
            };
            thread::Builder::new().stack_size(STACK_BYTES).spawn(run).unwrap()
        })
        .collect();
    runtime().block_on(echo(listener));
    for isolate in isolates {
        assert_eq!(isolate.join().unwrap(), ANSWER);
    }
    io::stdout().flush().unwrap();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A listener from before takes connections, new ones go out, and blocking threads start.
async fn echo(listener: StdTcpListener) {
    listener.set_nonblocking(true).unwrap();
    let listener = TcpListener::from_std(listener).unwrap();
    let address = listener.local_addr().unwrap();
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
    };
    let ask = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "hello");
    };
    tokio::join!(serve, ask);
    assert_eq!(tokio::task::spawn_blocking(|| 7).await.unwrap(), 7);
    // As a resolver does it.
    tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
}

/// Loads the worker and asks it once.
async fn answer(engine: &Engine) -> String {
    let module = Module {
        name: "index.js".into(),
        kind: ModuleKind::EsModule,
        bytes: WORKER.as_bytes().into(),
    };
    let options = InstanceOptions {
        script: Arc::new(Script::new(ScriptFormat::Modules, "index.js", vec![module])),
        bindings: Vec::new(),
        limits: Limits::default(),
        host: Rc::new(NoHost),
        inspector: false,
        label: "confined".into(),
    };
    let instance = Instance::load(&engine.thread().unwrap(), options).await.unwrap();
    let event = FetchEvent {
        id: "0123456789abcdef".into(),
        url: "https://confined.test/".into(),
        request: Request::new(None),
        facts: None,
    };
    let response = instance.fetch(event, Box::new(|_| {})).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

struct NoHost;

impl Host for NoHost {
    fn fetch(&self, _: FetchHop) -> LocalBoxFuture<'static, Result<Response<Body>, HostError>> {
        unimplemented!("the worker fetches nothing")
    }

    fn kv(&self, _: u32, _: KvCall) -> LocalBoxFuture<'static, Result<KvReply, HostError>> {
        unimplemented!("the worker has no namespace")
    }

    fn console(&self, _: Option<&str>, _: &LogLine) {}
}
