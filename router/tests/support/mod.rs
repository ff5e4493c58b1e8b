//! A node's front door in miniature: one thread, one listener, a service with a few routes.

// Each test binary uses its own part of this.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use atoll_router::{
    Connection, DrainSignal, DrainTrigger, Drained, ErrorPage, Refusal, RequestBody, Security,
    ServeOptions, Service, TimedBody, Tls, Upgrade, UpgradeKind, bind_reuse_port, drain_channel,
    serve,
};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

pub type Body = Pin<Box<dyn http_body::Body<Data = Bytes, Error = Infallible>>>;

/// How long anything in a test may take before it is a failure.
pub const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
pub struct App {
    /// Requests whose future or body was dropped unfinished.
    pub abandoned: Cell<usize>,
    pub waiting: Cell<usize>,
    /// Chunks of the endless body that were asked for.
    pub chunks: Cell<usize>,
}

/// The length of a chunk of the endless body.
pub const CHUNK_BYTES: usize = 64 * 1024;
/// Where the endless body ends after all, should nobody hold it back.
pub const CHUNKS_MAX: usize = 2048;

pub fn full(text: impl Into<Bytes>) -> Body {
    Box::pin(Full::new(text.into()))
}

struct Abandoned(Rc<App>);

impl Drop for Abandoned {
    fn drop(&mut self) {
        self.0.abandoned.set(self.0.abandoned.get() + 1);
    }
}

impl Service for Handle {
    type Body = Body;

    fn call(
        &self,
        request: Request<RequestBody>,
        connection: &Rc<Connection>,
    ) -> impl Future<Output = Response<Body>> + use<> + 'static {
        let app = Rc::clone(&self.0);
        let connection = Rc::clone(connection);
        async move { answer(app, request, connection).await }
    }

    fn challenge(&self, answer: String) -> Response<Body> {
        Response::new(full(answer))
    }

    fn refuse(
        &self,
        request: &Request<RequestBody>,
        refusal: Refusal,
        _connection: &Rc<Connection>,
    ) -> Response<Body> {
        let status = match refusal {
            Refusal::UrlTooLong => StatusCode::URI_TOO_LONG,
            Refusal::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Refusal::HostsDiffer | Refusal::BadHost | Refusal::BadTarget => StatusCode::BAD_REQUEST,
            Refusal::BadMethod => StatusCode::METHOD_NOT_ALLOWED,
            Refusal::BadCoding => StatusCode::NOT_IMPLEMENTED,
            Refusal::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Refusal::NoClientCertificate => StatusCode::FORBIDDEN,
            Refusal::TooEarly => StatusCode::TOO_EARLY,
        };
        let page = ErrorPage {
            status,
            code: 1000,
            title: "refused",
            message: "a limit",
            advice: "send less",
            id: "id-1",
        };
        page.respond(request.headers()).map(full)
    }
}

/// The service: a handle to the app that the test looks into.
pub struct Handle(Rc<App>);

async fn answer(
    app: Rc<App>,
    request: Request<RequestBody>,
    connection: Rc<Connection>,
) -> Response<Body> {
    match request.uri().path() {
        "/connection" => Response::new(full(format!("{:?}", connection.tls))),
        "/client" => {
            let client = connection.tls.as_ref().and_then(|tls| tls.client.as_deref());
            Response::new(full(serde_json::to_string(&client).unwrap()))
        }
        "/headers" => Response::new(full(format!("{:?}", request.headers()))),
        "/peer" => Response::new(full(connection.peer.to_string())),
        "/wait" => {
            let _abandoned = Abandoned(Rc::clone(&app));
            app.waiting.set(app.waiting.get() + 1);
            std::future::pending().await
        }
        "/slow" => {
            app.waiting.set(app.waiting.get() + 1);
            tokio::time::sleep(Duration::from_millis(300)).await;
            Response::new(full("slow"))
        }
        "/endless" => {
            let abandoned = Abandoned(Rc::clone(&app));
            let chunk = Bytes::from(vec![b'x'; CHUNK_BYTES]);
            let frames = futures_util::stream::iter((0..CHUNKS_MAX).map(move |_| {
                let app = &abandoned.0;
                app.chunks.set(app.chunks.get() + 1);
                Ok(Frame::data(chunk.clone()))
            }));
            app.waiting.set(app.waiting.get() + 1);
            Response::new(Box::pin(StreamBody::new(frames)))
        }
        "/echo" => {
            match TimedBody::new(request.into_body(), Duration::from_millis(200)).collect().await {
                Ok(body) => Response::new(full(body.to_bytes())),
                Err(error) => {
                    let mut response = Response::new(full(error.to_string()));
                    *response.status_mut() = StatusCode::REQUEST_TIMEOUT;
                    response
                }
            }
        }
        "/upgrade" => {
            let upgrade = Upgrade::take(&request).unwrap();
            assert_eq!(upgrade.kind(), UpgradeKind::Http1);
            let accepted = upgrade.accept();
            tokio::task::spawn_local(async move {
                let (mut read, mut write) = tokio::io::split(accepted.await.unwrap());
                // It fails when the listener closes the connection.
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
            let mut response = Response::new(full(""));
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert("connection", "upgrade".parse().unwrap());
            response.headers_mut().insert("upgrade", "websocket".parse().unwrap());
            response
        }
        path => Response::new(full(format!("hello {path}"))),
    }
}

/// A running listener.
pub struct Server {
    pub address: SocketAddr,
    pub app: Rc<App>,
    pub drain: DrainTrigger,
    pub served: JoinHandle<Drained>,
}

/// Options with limits that a test can wait for.
pub fn hasty() -> ServeOptions {
    ServeOptions {
        header_read_timeout: Duration::from_millis(200),
        idle_timeout: Duration::from_millis(300),
        tls_handshake_timeout: Duration::from_millis(200),
        write_stall_timeout: Duration::from_millis(300),
        ..ServeOptions::default()
    }
}

pub fn start(options: ServeOptions, tls: Option<Arc<Tls>>) -> Server {
    start_secured(options, tls.map_or(Security::Plain(None), Security::Tls))
}

pub fn start_secured(options: ServeOptions, security: Security) -> Server {
    let listener = bind_reuse_port("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    start_with(address, |service, signal| async move {
        serve(listener, security, options, service, signal).await.unwrap()
    })
}

/// A server that some future serves.
pub fn start_with<F: Future<Output = Drained> + 'static>(
    address: SocketAddr,
    serve: impl FnOnce(Rc<Handle>, DrainSignal) -> F,
) -> Server {
    let app = Rc::new(App::default());
    let (drain, signal) = drain_channel();
    let service = Rc::new(Handle(Rc::clone(&app)));
    let served = tokio::task::spawn_local(serve(service, signal));
    Server { address, app, drain, served }
}

/// Runs a test as a data-plane thread runs: one thread, local tasks.
pub fn local<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, async {
        tokio::time::timeout(PATIENCE, test).await.expect("the test takes too long")
    })
}

/// Lets the other tasks run until something becomes true.
pub async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Reads until the server closes; a reset counts as a close.
pub async fn read_to_close(socket: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = socket.read_to_end(&mut bytes).await;
    String::from_utf8_lossy(&bytes).into_owned()
}
