//! The gate: what an instance asks of the world, checked against the capabilities of its own version.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use atoll_isolate::{
    Body, Decode, FetchHop, Host, HostError, KvCall, KvEntry, KvReply, LogLine, Socket, SocketSlot,
    Via,
};
use atoll_kv::{Key, KvError, KvStore, ListOptions, NamespaceId, Operation, PutOptions};
use futures_util::future::LocalBoxFuture;
use http::{Request, Response};
use tokio::sync::broadcast;

use super::admission::Arrival;
use super::body::{AnswerBody, PumpedBody};
use super::call::{Call, Unanswered};
use super::cf::NodeFacts;
use super::depth::{Depth, SERVICES_MAX};
use super::events::Subject;
use super::origins;
use super::peer::ServingPeering;
use super::placer::Placer;
use super::quarantine::Quarantined;
use super::service::new_id;
use super::targets::Targets;
use crate::inspect::Debuggees;
use crate::observe::{KvOperation, ReportHub};
use crate::origins::{OriginClients, Whence};
use crate::outbound::{DecodeBody, Outbound, ReqBody, ServerSocket};
use crate::registry::{WorkerName, WorkerRef};
use crate::websocket;

/// A console line with the worker that wrote it.
pub type ConsoleLine = Arc<(WorkerRef, LogLine)>;

/// What all instances of one thread share.
pub(super) struct ThreadHost {
    pub(super) outbound: Outbound,
    pub(super) kv: Arc<dyn KvStore>,
    pub(super) node: NodeFacts,
    pub(super) hub: ReportHub,
    pub(super) targets: Arc<Targets>,
    pub(super) console: broadcast::Sender<ConsoleLine>,
    /// Where instances are shown to debuggers.
    pub(super) debuggees: Option<Debuggees>,
    /// Versions that get no instance.
    pub(super) quarantined: Arc<Quarantined>,
    pub(super) placer: RefCell<Weak<Placer>>,
    /// The other nodes, in a cluster.
    pub(super) peering: Option<Arc<ServingPeering>>,
    /// Connections to origins of workers' pools.
    pub(super) origins: Rc<OriginClients>,
    /// Of the invocations of which something has to be.
    pub(super) remembered: RefCell<HashMap<Arc<str>, Remembered>>,
}

/// What is remembered of an invocation.
#[derive(Default)]
pub(super) struct Remembered {
    /// How deep in a chain of calls it is.
    pub(super) depth: Depth,
    /// Where its client is, for workers whose requests depend on that.
    pub(super) whence: Option<Whence>,
}

impl ThreadHost {
    pub(super) fn depth(&self, invocation: &Arc<str>) -> Depth {
        self.remembered.borrow().get(invocation).map(|known| known.depth).unwrap_or_default()
    }

    /// Where an invocation's client is, if its worker's requests depend on that.
    pub(super) fn whence(&self, invocation: &Arc<str>) -> Whence {
        let remembered = self.remembered.borrow();
        remembered.get(invocation).and_then(|known| known.whence.clone()).unwrap_or_default()
    }
}

/// What a version's bindings grant, by number.
#[derive(Default)]
pub(super) struct Capabilities {
    namespaces: Vec<NamespaceId>,
    services: Vec<WorkerName>,
}

impl Capabilities {
    pub(super) fn add_namespace(&mut self, namespace: NamespaceId) -> u32 {
        self.namespaces.push(namespace);
        u32::try_from(self.namespaces.len() - 1).expect("a version has at most 128 bindings")
    }

    pub(super) fn add_service(&mut self, service: WorkerName) -> u32 {
        self.services.push(service);
        u32::try_from(self.services.len() - 1).expect("a version has at most 128 bindings")
    }
}

/// The host of one instance.
pub(super) struct InstanceHost {
    thread: Rc<ThreadHost>,
    worker: WorkerRef,
    capabilities: Capabilities,
}

impl InstanceHost {
    pub(super) fn new(
        thread: Rc<ThreadHost>,
        worker: WorkerRef,
        capabilities: Capabilities,
    ) -> Self {
        Self { thread, worker, capabilities }
    }

    /// Connects to a server's WebSocket.
    fn websocket(
        &self,
        hop: FetchHop,
    ) -> LocalBoxFuture<'static, Result<Response<Body>, HostError>> {
        let (outbound, depth) = (self.thread.outbound.clone(), self.thread.depth(&hop.invocation));
        Box::pin(async move {
            let mut request = hop.request.map(drop);
            depth.stamp(request.headers_mut());
            let failed = |error| HostError::Refused(format!("Fetch failed: {error}"));
            let (response, wire) = outbound.websocket(request).await.map_err(failed)?;
            let mut response = response.map(|body| Box::pin(body) as Body);
            if let Some(wire) = wire {
                open(&mut response, wire, ());
            }
            Ok(response)
        })
    }

    fn service(
        &self,
        capability: u32,
        hop: FetchHop,
    ) -> LocalBoxFuture<'static, Result<Response<Body>, HostError>> {
        let Some(name) = self.capabilities.services.get(capability as usize) else {
            return Box::pin(async { Err(no_capability()) });
        };
        let callee = WorkerRef { account: self.worker.account.clone(), worker: name.clone() };
        // In a task of its own: the callee may be the very isolate whose ops are being polled here.
        let call = call_service(self.thread.clone(), callee, hop);
        let mut call = CalledService(atoll_isolate::spawn(call));
        Box::pin(async move {
            let ended = (&mut call.0).await;
            ended.unwrap_or_else(|_| {
                Err(HostError::Failed("the service binding broke off".to_owned()))
            })
        })
    }
}

/// Lets a worker go on with a server's socket. What is held is dropped with it.
pub(super) fn open(response: &mut Response<Body>, wire: ServerSocket, held: impl Sized + 'static) {
    let (theirs, ours) = Socket::pair();
    SocketSlot::put(response, theirs);
    // It ends with the worker's end, which no invocation outlives.
    atoll_isolate::spawn(async move {
        websocket::relay(wire, ours, std::future::pending()).await;
        drop(held);
    });
}

/// A call of a service, ended with whoever waits for it.
struct CalledService(atoll_isolate::JoinHandle<Result<Response<Body>, HostError>>);

impl Drop for CalledService {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn no_capability() -> HostError {
    HostError::Refused("the binding does not grant this".to_owned())
}

async fn call_service(
    thread: Rc<ThreadHost>,
    callee: WorkerRef,
    hop: FetchHop,
) -> Result<Response<Body>, HostError> {
    let mut depth = thread.depth(&hop.invocation);
    depth.services += 1;
    if depth.services > SERVICES_MAX {
        return Err(HostError::Refused(format!(
            "service bindings call each other more than {SERVICES_MAX} deep: is there a loop?"
        )));
    }
    let name = callee.worker.clone();
    let failed =
        |why: String| HostError::Failed(format!("the service binding to {name:?} failed: {why}"));
    let target = thread
        .targets
        .worker(&callee)
        .ok_or_else(|| failed("there is no such worker".to_owned()))?;
    if let (Some(peering), Some(policy)) = (&thread.peering, target.regions())
        && let here = peering.neighbours.known()
        && !policy.permits(&here.region)
    {
        return Err(failed(format!(
            "it runs in certain regions only ({policy}), and this node is in {}: fetch its address instead",
            here.region
        )));
    }
    let version = target
        .version(rand::random_range(0.0..100.0))
        .ok_or_else(|| failed("it has no version".to_owned()))?;
    let placer = thread.placer.borrow().upgrade();
    let placer = placer.ok_or_else(|| failed("the node is stopping".to_owned()))?;
    let id = new_id();
    let url: Arc<str> = hop.request.uri().to_string().into();
    let worker = target.worker.clone();
    let mut subject =
        Subject::fetch(&thread.hub, worker, version.clone(), &hop.request, url.clone(), None);
    if let Err(refusal) = subject.admit(target.gate(&placer.placement.admission), Arrival::Fresh) {
        let why = subject.unanswered(&thread.hub, id, refusal.into());
        return Err(failed(why.message));
    }
    let request = hop.request;
    let call = Call { id, subject, request, url, client: None, depth, decided: None };
    // What a socket brings may run long, at any time: not on a front thread.
    let live = match websocket::is_asked(call.request.headers()) {
        true => None,
        false => placer.live(version),
    };
    let answered = match live {
        Some(instance) => {
            let fetched = call.start(&instance, &thread).await;
            fetched.map(|response| response.map(AnswerBody::Here)).map_err(Unanswered::from)
        }
        None => placer.fetch(call.sendable()).await,
    };
    let response = answered.map_err(|why| failed(why.message))?;
    Ok(response.map(AnswerBody::boxed))
}

impl Host for InstanceHost {
    fn fetch(&self, hop: FetchHop) -> LocalBoxFuture<'static, Result<Response<Body>, HostError>> {
        if let Via::Service(capability) = hop.via {
            return self.service(capability, hop);
        }
        let pools = self.thread.targets.pools(&self.worker);
        if let Some(pool) = pools.and_then(|pools| pools.find(hop.request.uri())) {
            return origins::fetch(&self.thread, pool, hop);
        }
        if websocket::is_asked(hop.request.headers()) {
            return self.websocket(hop);
        }
        let (outbound, depth) = (self.thread.outbound.clone(), self.thread.depth(&hop.invocation));
        Box::pin(async move {
            let response = outbound
                .send(outgoing(hop, depth))
                .await
                .map_err(|error| HostError::Refused(format!("Fetch failed: {error}")))?;
            Ok(response.map(|body| Box::pin(body) as Body))
        })
    }

    fn kv(
        &self,
        capability: u32,
        call: KvCall,
    ) -> LocalBoxFuture<'static, Result<KvReply, HostError>> {
        let Some(namespace) = self.capabilities.namespaces.get(capability as usize) else {
            return Box::pin(async { Err(no_capability()) });
        };
        let (kv, hub, namespace) =
            (self.thread.kv.clone(), self.thread.hub.clone(), namespace.clone());
        Box::pin(async move {
            let (operation, metric) = match &call {
                KvCall::Get { keys } if keys.len() == 1 => (Operation::Get, KvOperation::Get),
                KvCall::Get { .. } => (Operation::GetBulk, KvOperation::Get),
                KvCall::Put { .. } => (Operation::Put, KvOperation::Put),
                KvCall::Delete { .. } => (Operation::Delete, KvOperation::Delete),
                KvCall::List { .. } => (Operation::List, KvOperation::List),
            };
            let result = kv_call(&*kv, &namespace, call).await;
            hub.metrics().observe_kv(metric, &result);
            result.map_err(|error| kv_thrown(&error, operation))
        })
    }

    fn console(&self, _invocation: Option<&str>, line: &LogLine) {
        if self.thread.console.receiver_count() > 0 {
            // No receiver is left: the listener went away meanwhile.
            let _ = self.thread.console.send(Arc::new((self.worker.clone(), line.clone())));
        }
    }
}

fn kv_thrown(error: &KvError, operation: Operation) -> HostError {
    let message = error.thrown_by(operation);
    if error.is_type_error() { HostError::Refused(message) } else { HostError::Failed(message) }
}

fn whole(number: f64) -> i64 {
    // Saturates, so that what is out of range is refused as out of range.
    number as i64
}

async fn kv_call(
    kv: &dyn KvStore,
    namespace: &NamespaceId,
    call: KvCall,
) -> Result<KvReply, KvError> {
    match call {
        KvCall::Get { keys } if keys.len() == 1 => {
            let key = Key::parse(&keys[0])?;
            Ok(KvReply::Entries(vec![kv.get(namespace, &key).await?.map(entry)]))
        }
        KvCall::Get { keys } => {
            let keys = keys.iter().map(|key| Key::parse(key)).collect::<Result<Vec<_>, _>>()?;
            let entries = kv.get_many(namespace, keys).await?;
            Ok(KvReply::Entries(entries.into_iter().map(|found| found.map(entry)).collect()))
        }
        KvCall::Put { key, value, expiration, expiration_ttl, metadata } => {
            let options = PutOptions {
                expiration: expiration.map(whole),
                expiration_ttl: expiration_ttl.map(whole),
                metadata: metadata.map(Arc::from),
            };
            kv.put(namespace, &Key::parse(&key)?, value, options).await?;
            Ok(KvReply::Done)
        }
        KvCall::Delete { key } => {
            kv.delete(namespace, &Key::parse(&key)?).await?;
            Ok(KvReply::Done)
        }
        KvCall::List { prefix, limit, cursor } => {
            let options = ListOptions { prefix, limit: limit.map(whole), cursor };
            let page = kv.list(namespace, options).await?;
            Ok(KvReply::Page(serde_json::to_string(&page).expect("a page of keys is plain data")))
        }
    }
}

fn entry(entry: atoll_kv::Entry) -> KvEntry {
    KvEntry { value: entry.value, metadata: entry.metadata }
}

/// A request as it goes out.
pub(super) fn outgoing(hop: FetchHop, depth: Depth) -> Request<ReqBody> {
    let decode = if hop.decode == Decode::Yes { DecodeBody::Yes } else { DecodeBody::No };
    let (parts, body) = hop.request.into_parts();
    let mut request = Request::from_parts(parts, sendable(body));
    request.extensions_mut().insert(decode);
    depth.stamp(request.headers_mut());
    request
}

/// The client's connections are not tied to the isolate's futures.
fn sendable(body: Option<Body>) -> ReqBody {
    use http_body_util::BodyExt;
    match body {
        Some(body) => PumpedBody::of(body).boxed_unsync(),
        None => http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync(),
    }
}
