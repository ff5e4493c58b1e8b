//! Runs workers in V8 isolates: the Web APIs, the handlers, the limits, and one gate for all I/O.
//!
//! The crate knows no HTTP server, no routes and no KV engine. A process makes one [`Engine`], each isolate
//! thread takes an [`IsolateThread`] from it, and [`Instance::load`] turns a [`Script`] into something that
//! answers events. Whatever a worker reaches outside its isolate goes through the [`Host`] that the
//! instance was given.
#![deny(unsafe_code)]

mod ahead;
mod body;
mod boundary;
mod call;
mod charges;
mod code_cache;
mod codec;
mod connections;
mod exception;
mod extension;
mod host;
mod in_flight;
mod inspector;
mod instance;
mod invocation;
mod limits;
mod loader;
mod logs;
mod memory;
mod native;
mod ops;
mod outcome;
mod script;
mod socket;
mod sockets;
mod spares;
mod start;
mod watchdog;

pub use body::{ResponseBody, StreamBody};
pub use boundary::{CRASH_LABEL_BYTES_MAX, Footprint, Places, SealedMemory, report_crashes};
pub use call::{Failure, FetchEvent, Fetched, Fetching};
pub use code_cache::CodeCache;
pub use codec::wants_large_brotli_window;
pub use deno_core::unsync::JoinHandle;
pub use host::{Body, BoxError, Decode, FetchHop, Host, HostError, KvCall, KvEntry, KvReply, Via};
pub use inspector::{Inspector, InspectorCommands, InspectorMessage, InspectorMessages};
pub use instance::{Engine, EngineOptions, Instance, InstanceOptions, IsolateThread};
pub use invocation::{InvocationRecord, OnEnd, RequestFacts, spawn};
pub use limits::{HEAPS_BYTES_CEILING, Limits};
pub use memory::{InstanceMemory, Memory};
pub use outcome::{Exception, LogLevel, LogLine, Outcome};
pub use script::{Binding, BindingValue, Module, ModuleKind, Script, ScriptFormat};
pub use socket::{
    CLOSE_ABNORMAL, CLOSE_NO_CODE, SOCKET_MESSAGE_BYTES_MAX, Socket, SocketClose, SocketMessage,
    SocketSlot,
};
pub use start::StartError;
pub use watchdog::Pulse;
