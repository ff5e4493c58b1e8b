//! Two nodes on loopback, and strangers.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::ready;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio_rustls::TlsConnector;

use super::*;
use crate::drain::{DrainTrigger, drain_channel};
use crate::listener::bind_reuse_port;
use crate::upgrade::Upgrade;

const SEED: [u8; AUTHORITY_SEED_BYTES] = [7; AUTHORITY_SEED_BYTES];

/// Answers with the caller's name and what it sent, and writes down who called.
#[derive(Default)]
struct Echo {
    called: RefCell<Vec<String>>,
}

impl PeerService for Echo {
    type Body = Full<Bytes>;

    fn call(
        &self,
        request: Request<Incoming>,
        node: &Rc<str>,
    ) -> impl Future<Output = Response<Full<Bytes>>> + use<> + 'static {
        self.called.borrow_mut().push(node.to_string());
        let node = node.clone();
        async move {
            let sent = request.into_body().collect().await.unwrap().to_bytes();
            let text = format!("{node}: {}", String::from_utf8_lossy(&sent));
            Response::new(Full::new(text.into()))
        }
    }
}

fn authority() -> PeerAuthority {
    PeerAuthority::from_seed(&SEED).unwrap()
}

fn tls(credentials: &PeerCredentials) -> Arc<ArcSwap<PeerTls>> {
    Arc::new(ArcSwap::from_pointee(PeerTls::new(credentials).unwrap()))
}

fn pool(credentials: &PeerCredentials) -> PeerPool {
    PeerPool::new(tls(credentials), PeerLink::Network)
}

type PeerBodyError = Box<dyn std::error::Error + Send + Sync>;

/// A node `b` that listens.
struct Listening<S = Echo> {
    node: PeerNode,
    echo: Rc<S>,
    drain: DrainTrigger,
    serving: tokio::task::JoinHandle<()>,
}

fn listen(credentials: &PeerCredentials) -> Listening {
    listen_with(credentials, PeerLink::Network, Rc::default())
}

fn listen_with<S: PeerService>(
    credentials: &PeerCredentials,
    link: PeerLink,
    echo: Rc<S>,
) -> Listening<S> {
    let listener = bind_reuse_port("127.0.0.1:0".parse().unwrap()).unwrap();
    let node = PeerNode { name: "b".into(), address: listener.local_addr().unwrap() };
    let (drain, signal) = drain_channel();
    let serving = serve_peers(listener, tls(credentials), link, echo.clone(), signal);
    let serving = tokio::task::spawn_local(async move {
        serving.await.unwrap();
    });
    Listening { node, echo, drain, serving }
}

fn request(text: &'static str) -> Request<PeerBody> {
    let body = Full::from(text).map_err(|never: Infallible| -> PeerBodyError { match never {} });
    Request::post("http://b/").body(Box::pin(body) as PeerBody).unwrap()
}

async fn text(response: Response<PeerResponseBody>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

async fn on_one_thread(test: impl Future<Output = ()>) {
    let local = LocalSet::new();
    let whole = local.run_until(test);
    tokio::time::timeout(Duration::from_secs(60), whole).await.expect("it ends");
}

#[tokio::test]
async fn nodes_of_one_cluster_reach_each_other() {
    on_one_thread(async {
        // Each node makes the authority by itself.
        let b = listen(&authority().issue("b").unwrap());
        let a = pool(&authority().issue("a").unwrap());
        assert_eq!(text(a.send(&b.node, request("one")).await.unwrap()).await, "a: one");
        assert_eq!(text(a.send(&b.node, request("two")).await.unwrap()).await, "a: two");
        let many = (0..100).map(|_| async {
            let response = a.send(&b.node, request("x")).await.unwrap();
            assert_eq!(text(response).await, "a: x");
        });
        futures_util::future::join_all(many).await;
        // What was accepted is finished.
        let last = a.send(&b.node, request("last")).await.unwrap();
        b.drain.start(Duration::from_secs(10));
        assert_eq!(text(last).await, "a: last");
        b.serving.await.unwrap();
        let after = a.send(&b.node, request("after")).await.unwrap_err();
        let PeerError::NotSent { request, .. } = after else { panic!("{after}") };
        let body = request.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "after", "what was not sent comes back whole");
    })
    .await;
}

/// A client with any certificate, or none, and any protocol.
async fn knock(address: SocketAddr, client: Arc<ClientConfig>) -> std::io::Result<Vec<u8>> {
    let socket = TcpStream::connect(address).await?;
    let name = ServerName::try_from(tls::host_of("b")).unwrap();
    let mut stream = TlsConnector::from(client).connect(name, socket).await?;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
    let mut read = Vec::new();
    stream.read_to_end(&mut read).await?;
    Ok(read)
}

fn client(
    chain: Option<(Vec<Vec<u8>>, Vec<u8>)>,
    version: &'static rustls::SupportedProtocolVersion,
    protocols: &[&[u8]],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(authority().issue("x").unwrap().authority)).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let mut client = match chain {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let chain = chain.into_iter().map(CertificateDer::from).collect();
            let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key));
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    client.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(client)
}

fn shown(credentials: PeerCredentials) -> Option<(Vec<Vec<u8>>, Vec<u8>)> {
    Some((vec![credentials.certificate], credentials.key))
}

#[tokio::test]
async fn strangers_get_nothing() {
    on_one_thread(async {
        let b = listen(&authority().issue("b").unwrap());
        let stranger = PeerAuthority::from_seed(&[8; 32]).unwrap();
        let old = SystemTime::now() - 3 * CERTIFICATE_LIFE;
        let ahead = SystemTime::now() + 3 * CERTIFICATE_LIFE;
        let (v12, v13) = (&rustls::version::TLS12, &rustls::version::TLS13);
        let ours: &[&[u8]] = &[PROTOCOL];
        let good = || shown(authority().issue("a").unwrap());
        // A node's certificate that signs another is no authority.
        let issued_by_node = {
            let a = authority().issue("a").unwrap();
            let key = rcgen::KeyPair::try_from(a.key.as_slice()).unwrap();
            let mut itself = rcgen::CertificateParams::default();
            itself.distinguished_name.push(rcgen::DnType::CommonName, "a");
            let issuer = rcgen::Issuer::new(itself, key);
            let leaf_key = rcgen::KeyPair::generate().unwrap();
            let mut leaf = rcgen::CertificateParams::new(vec!["x".to_owned()]).unwrap();
            leaf.subject_alt_names.push(rcgen::SanType::URI(tls::uri_of("z").try_into().unwrap()));
            let leaf = leaf.signed_by(&leaf_key, &issuer).unwrap();
            Some((vec![leaf.der().to_vec(), a.certificate], leaf_key.serialize_der()))
        };
        // The authority's own certificate is no node's.
        let nameless = {
            let key = rcgen::KeyPair::generate().unwrap();
            let certificate = rcgen::CertificateParams::new(vec!["x".to_owned()]).unwrap();
            let certificate = certificate.self_signed(&key).unwrap();
            Some((vec![certificate.der().to_vec()], key.serialize_der()))
        };
        for (what, config) in [
            ("no certificate", client(None, v13, ours)),
            ("another cluster's", client(shown(stranger.issue("a").unwrap()), v13, ours)),
            ("one that ran out", client(shown(authority().issue_at("a", old).unwrap()), v13, ours)),
            ("one of later", client(shown(authority().issue_at("a", ahead).unwrap()), v13, ours)),
            ("one that a node signed", client(issued_by_node, v13, ours)),
            ("one of its own", client(nameless, v13, ours)),
            ("tls 1.2", client(good(), v12, ours)),
            ("another protocol", client(good(), v13, &[b"h2"])),
            ("no protocol", client(good(), v13, &[])),
        ] {
            let answer = knock(b.node.address, config).await;
            assert!(answer.as_ref().map_or(true, Vec::is_empty), "{what}: {answer:?}");
        }
        let mut plain = TcpStream::connect(b.node.address).await.unwrap();
        plain.write_all(b"GET / HTTP/1.1\r\nhost: b\r\n\r\n").await.unwrap();
        let mut read = Vec::new();
        let _ = plain.read_to_end(&mut read).await;
        assert!(!read.starts_with(b"HTTP"), "{read:?}");
        assert!(b.echo.called.borrow().is_empty(), "nobody was answered");
        // The very same client with a node's certificate gets frames of HTTP/2.
        let socket = TcpStream::connect(b.node.address).await.unwrap();
        let name = ServerName::try_from(tls::host_of("b")).unwrap();
        let mut stream =
            TlsConnector::from(client(good(), v13, ours)).connect(name, socket).await.unwrap();
        assert!(stream.read_u8().await.is_ok());
    })
    .await;
}

/// Answers with a body that has no end, or with one that is larger than a stream's window.
struct Endless;

impl PeerService for Endless {
    type Body = BoxBody<Bytes, Infallible>;

    fn call(
        &self,
        request: Request<Incoming>,
        _node: &Rc<str>,
    ) -> impl Future<Output = Response<Self::Body>> + use<> + 'static {
        let chunk = Bytes::from_static(&[b'x'; 16 << 10]);
        let end = request.uri().path() == "/end";
        let chunks = stream::repeat(chunk).take(if end { 100 } else { usize::MAX });
        ready(Response::new(BoxBody::new(StreamBody::new(
            chunks.map(|chunk| Ok(Frame::data(chunk))),
        ))))
    }
}

#[tokio::test]
async fn who_does_not_take_a_body_holds_back_nobody() {
    on_one_thread(async {
        for link in [PeerLink::Machine, PeerLink::Network] {
            let b = listen_with(&authority().issue("b").unwrap(), link, Rc::new(Endless));
            let a = PeerPool::new(tls(&authority().issue("a").unwrap()), link);
            let get = |path: &str| {
                a.send(
                    &b.node,
                    Request::get(format!("http://b/{path}")).body(no_peer_body()).unwrap(),
                )
            };
            // On one connection, as there would be no other one below half of what it may carry.
            let mut untaken = Vec::new();
            for _ in 0..STREAMS_MAX / 2 - 2 {
                untaken.push(get("").await.unwrap());
            }
            // All that may come of them is there.
            tokio::time::sleep(Duration::from_millis(500)).await;
            for _ in 0..2 {
                assert_eq!(text(get("end").await.unwrap()).await.len(), 100 * (16 << 10));
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_node_must_be_the_one_that_is_asked_for() {
    on_one_thread(async {
        let b = listen(&authority().issue("b").unwrap());
        let a = pool(&authority().issue("a").unwrap());
        let wrong = PeerNode { name: "c".into(), ..b.node.clone() };
        let refused = a.send(&wrong, request("x")).await.unwrap_err();
        assert!(matches!(refused, PeerError::NotSent { .. }), "{refused}");
        // Nor does a stranger that listens in a node's place learn anything.
        let stranger = PeerAuthority::from_seed(&[8; 32]).unwrap();
        let false_b = listen(&stranger.issue("b").unwrap());
        let refused = a.send(&false_b.node, request("x")).await.unwrap_err();
        assert!(matches!(refused, PeerError::NotSent { .. }), "{refused}");
        assert!(b.echo.called.borrow().is_empty() && false_b.echo.called.borrow().is_empty());
        // Names that are no host names, and that differ in their case alone, are told apart.
        assert_ne!(tls::host_of("Node_1"), tls::host_of("node_1"));
        let odd = authority().issue("Node_1.x").unwrap();
        assert_eq!(text(pool(&odd).send(&b.node, request("")).await.unwrap()).await, "Node_1.x: ");
    })
    .await;
}

#[tokio::test]
async fn credentials_are_swapped_while_requests_go_on() {
    on_one_thread(async {
        let b = listen(&authority().issue("b").unwrap());
        let credentials =
            tls(&authority().issue_at("a", SystemTime::now() - 3 * CERTIFICATE_LIFE).unwrap());
        let a = PeerPool::new(credentials.clone(), PeerLink::Network);
        let refused = a.send(&b.node, request("x")).await;
        assert!(refused.is_err(), "it has run out");
        credentials.store(Arc::new(PeerTls::new(&authority().issue("a").unwrap()).unwrap()));
        assert_eq!(text(a.send(&b.node, request("x")).await.unwrap()).await, "a: x");
        // Nothing of a node that is not kept stays, and what is under way is finished.
        let open = a.send(&b.node, request("y")).await.unwrap();
        a.keep(|_| false);
        assert_eq!(text(open).await, "a: y");
    })
    .await;
}

/// Sends back what comes over WebSockets, until it is sent `end`; of other handshakes it says what they ask for.
struct SocketEcho;

impl PeerService for SocketEcho {
    type Body = Full<Bytes>;

    fn call(
        &self,
        request: Request<Incoming>,
        _node: &Rc<str>,
    ) -> impl Future<Output = Response<Full<Bytes>>> + use<> + 'static {
        let upgrade = Upgrade::take(&request);
        let accepts = request.uri().path() == "/socket";
        let told = format!("{} {}", request.method(), request.uri().path());
        async move {
            let mut response = Response::new(Full::from(told));
            let Some(upgrade) = upgrade.filter(|_| accepts) else {
                *response.status_mut() = http::StatusCode::NOT_FOUND;
                return response;
            };
            let accepted = upgrade.accept();
            tokio::task::spawn_local(async move {
                let mut stream = accepted.await.unwrap();
                let mut read = vec![0; 4_096];
                while let Ok(bytes @ 1..) = stream.read(&mut read).await {
                    if read[..bytes] == *b"end" || stream.write_all(&read[..bytes]).await.is_err() {
                        break;
                    }
                }
            });
            *response.body_mut() = Full::default();
            response
        }
    }
}

fn handshake(path: &str) -> Request<()> {
    Request::get(format!("http://b{path}")).body(()).unwrap()
}

async fn socket(pool: &PeerPool, node: &PeerNode) -> PeerSocket {
    match pool.shake_hands(node, handshake("/socket")).await.unwrap() {
        Handshaken::Accepted(response) => response.into_body(),
        Handshaken::Answered(response) => panic!("{response:?}"),
    }
}

async fn echoed(socket: &mut PeerSocket, text: &[u8]) {
    socket.write_all(text).await.unwrap();
    let mut back = vec![0; text.len()];
    socket.read_exact(&mut back).await.unwrap();
    assert_eq!(back, text);
}

#[tokio::test]
async fn websockets_go_over_connections_of_their_own_and_outlive_the_end_of_new_requests() {
    on_one_thread(async {
        let b =
            listen_with(&authority().issue("b").unwrap(), PeerLink::Network, Rc::new(SocketEcho));
        let a = pool(&authority().issue("a").unwrap());
        let mut one = socket(&a, &b.node).await;
        echoed(&mut one, b"one").await;
        // Many that nobody reads: their windows fill up, and theirs alone.
        let mut stuck = Vec::new();
        for _ in 0..16 {
            let mut socket = socket(&a, &b.node).await;
            let chunk = vec![7; 64 << 10];
            while let Ok(written) =
                tokio::time::timeout(Duration::from_millis(50), socket.write(&chunk)).await
            {
                assert!(written.unwrap() > 0);
            }
            stuck.push(socket);
        }
        echoed(&mut one, &[1; 60_000]).await;
        let Handshaken::Answered(answer) = a.shake_hands(&b.node, handshake("/")).await.unwrap()
        else {
            panic!("it is no socket");
        };
        assert_eq!((answer.status().as_u16(), &*text(answer).await), (404, "GET /"));
        drop(stuck);
        // The end of new requests on a connection is not that of its sockets.
        b.drain.start(Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(100)).await;
        echoed(&mut one, b"still here").await;
        a.keep(|_| false);
        echoed(&mut one, b"and now").await;
        one.write_all(b"end").await.unwrap();
        assert_eq!(one.read(&mut [0; 8]).await.unwrap(), 0);
        drop(one);
        b.serving.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_websocket_ends_with_its_node_and_is_not_sent_to_one_that_does_not_know_it() {
    on_one_thread(async {
        let b =
            listen_with(&authority().issue("b").unwrap(), PeerLink::Network, Rc::new(SocketEcho));
        let a = pool(&authority().issue("a").unwrap());
        let mut one = socket(&a, &b.node).await;
        echoed(&mut one, b"one").await;
        b.drain.start(Duration::ZERO);
        b.serving.await.unwrap();
        assert!(one.read(&mut [0; 8]).await.map_or(true, |bytes| bytes == 0));
        let gone = a.shake_hands(&b.node, handshake("/")).await.unwrap_err();
        assert!(matches!(gone, PeerError::NotSent { .. }), "{gone}");
        // An older release offers the one protocol that it knows.
        let mut older = PeerTls::new(&authority().issue("c").unwrap()).unwrap();
        let mut config = rustls::ServerConfig::clone(&older.server);
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        older.server = Arc::new(config);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let c = PeerNode { name: "c".into(), address: listener.local_addr().unwrap() };
        tokio::task::spawn_local(async move {
            let acceptor = tokio_rustls::TlsAcceptor::from(older.server.clone());
            let _ = acceptor.accept(listener.accept().await.unwrap().0).await;
        });
        let refused = a.shake_hands(&c, handshake("/")).await.unwrap_err();
        let PeerError::NotSent { cause, .. } = refused else { panic!("{refused}") };
        assert!(matches!(cause, NotSent::Unsupported), "{cause}");
    })
    .await;
}

/// A node that takes one connection, and does with each of its requests what it is told.
async fn stubborn(credentials: &PeerCredentials, all: &'static [Option<h2::Reason>]) -> PeerNode {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let node = PeerNode { name: "b".into(), address: listener.local_addr().unwrap() };
    let acceptor = tokio_rustls::TlsAcceptor::from(tls(credentials).load().server.clone());
    tokio::task::spawn_local(async move {
        let socket = listener.accept().await.unwrap().0;
        let stream = acceptor.accept(socket).await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        for what in all {
            let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
            match what {
                Some(reason) => respond.send_reset(*reason),
                // It was begun with, and the connection breaks.
                None => return,
            }
        }
        while connection.accept().await.is_some() {}
    });
    node
}

#[tokio::test]
async fn what_a_node_did_not_begin_with_is_told_apart() {
    use h2::Reason;
    on_one_thread(async {
        let all = &[Some(Reason::REFUSED_STREAM), Some(Reason::INTERNAL_ERROR), None];
        let b = stubborn(&authority().issue("b").unwrap(), all).await;
        let a = pool(&authority().issue("a").unwrap());
        let refused = a.send(&b, request("x")).await.unwrap_err();
        assert!(matches!(refused, PeerError::Unprocessed(_)), "{refused:?}");
        for _ in 0..2 {
            let unknown = a.send(&b, request("x")).await.unwrap_err();
            assert!(matches!(unknown, PeerError::Unknown(_)), "{unknown:?}");
        }
    })
    .await;
}
