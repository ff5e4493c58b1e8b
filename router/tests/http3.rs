//! HTTP/3 over real sockets, with quinn's and h3's own client: protocol, bodies, limits, early data, drain, and
//! a client whose address changes.

#![allow(clippy::unwrap_used)]

mod support;

use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use atoll_router::{
    Certificates, QuicKeys, QuicSocket, ServeOptions, Tls, TlsMaterial, self_signed, serve_http3,
};
use bytes::{Buf, Bytes};
use http::{Request, Response, Version};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use support::{CHUNK_BYTES, CHUNKS_MAX, Server, hasty, local, start, start_with, until};

const KEYS: QuicKeys = QuicKeys { cids: [1; 16], resets: [2; 32], tokens: [3; 32] };

/// Servers on sockets of one node, with a client that trusts them.
struct Setup {
    servers: Vec<Server>,
    client: quinn::Endpoint,
    /// The first server's sockets, which outlive it as they do when a process dies.
    kept: QuicSocket,
    tls: Arc<Tls>,
    _directory: tempfile::TempDir,
}

fn set_up(options: ServeOptions) -> Setup {
    set_up_threads(options, 1)
}

/// As many servers as a node has threads, each on a socket of its own.
fn set_up_threads(options: ServeOptions, threads: usize) -> Setup {
    let directory = tempfile::tempdir().unwrap();
    let made = self_signed(directory.path(), &["one.test".to_owned()]).unwrap();
    let mut certificates = Certificates::default();
    certificates.add(made.certificate);
    let material = TlsMaterial { certificates, ..TlsMaterial::default() };
    let tls = Arc::new(Tls::new(material).unwrap());
    let pairs = (0..threads).map(|_| UnixDatagram::pair().unwrap());
    let (inboxes, senders): (Vec<_>, Vec<_>) = pairs.unzip();
    let senders = Arc::new(senders);
    let sockets: Vec<_> = inboxes
        .into_iter()
        .enumerate()
        .map(|(place, inbox)| {
            let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
            udp.set_nonblocking(true).unwrap();
            QuicSocket { udp, inbox, inboxes: senders.clone(), place: place as u16 }
        })
        .collect();
    let kept = duplicate(&sockets[0]);
    let servers = sockets.into_iter().map(|socket| serve(socket, &tls, &options)).collect();
    let client = client(CertificateDer::from_pem_file(made.path).unwrap());
    Setup { servers, client, kept, tls, _directory: directory }
}

fn duplicate(socket: &QuicSocket) -> QuicSocket {
    QuicSocket {
        udp: socket.udp.try_clone().unwrap(),
        inbox: socket.inbox.try_clone().unwrap(),
        inboxes: socket.inboxes.clone(),
        place: socket.place,
    }
}

fn serve(socket: QuicSocket, tls: &Arc<Tls>, options: &ServeOptions) -> Server {
    let address = socket.udp.local_addr().unwrap();
    let (tls, options) = (tls.clone(), options.clone());
    start_with(address, |service, signal| async move {
        serve_http3(socket, &KEYS, tls, options, service, signal).await.unwrap()
    })
}

/// A client that trusts this certificate.
fn client(trusted: CertificateDer<'static>) -> quinn::Endpoint {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h3".to_vec()];
    config.enable_early_data = true;
    let mut client = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let crypto = QuicClientConfig::try_from(config).unwrap();
    client.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
    client
}

impl Setup {
    fn address(&self) -> SocketAddr {
        self.servers[0].address
    }

    fn app(&self) -> &Rc<support::App> {
        &self.servers[0].app
    }

    async fn connect(&self) -> (Sender, quinn::Connection) {
        let quic = self.client.connect(self.address(), "one.test").unwrap().await.unwrap();
        (sender(quic.clone()).await, quic)
    }
}

type Sender = h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>;

async fn sender(quic: quinn::Connection) -> Sender {
    let (mut driver, sender) = h3::client::new(h3_quinn::Connection::new(quic)).await.unwrap();
    tokio::task::spawn_local(async move { driver.wait_idle().await });
    sender
}

fn request(path: &str) -> http::request::Builder {
    Request::builder().uri(format!("https://one.test{path}"))
}

/// The response to a request with this body, and what came with it.
async fn fetch(
    sender: &mut Sender,
    head: http::request::Builder,
    body: &[&[u8]],
) -> Result<(Response<()>, Bytes), h3::error::StreamError> {
    let mut stream = sender.send_request(head.body(()).unwrap()).await?;
    for part in body {
        stream.send_data(Bytes::copy_from_slice(part)).await?;
    }
    stream.finish().await?;
    let head = stream.recv_response().await?;
    let mut all = Vec::new();
    while let Some(mut part) = stream.recv_data().await? {
        all.extend_from_slice(&part.copy_to_bytes(part.remaining()));
    }
    Ok((head, all.into()))
}

#[test]
fn requests_and_bodies_go_both_ways() {
    local(async {
        let setup = set_up(ServeOptions::default());
        let (mut sender, _quic) = setup.connect().await;
        let (head, body) = fetch(&mut sender, request("/a"), &[]).await.unwrap();
        assert_eq!((head.status().as_u16(), head.version()), (200, Version::HTTP_3));
        assert_eq!(
            (&body[..], &head.headers()["content-length"]),
            (&b"hello /a"[..], &"8".parse().unwrap())
        );
        assert!(head.headers().contains_key("date") && !head.headers().contains_key("alt-svc"));
        let (_, info) = fetch(&mut sender, request("/connection"), &[]).await.unwrap();
        let info = String::from_utf8_lossy(&info).into_owned();
        for part in ["TLSv1.3", "AEAD-AES128-GCM-SHA256", "one.test", "H3"] {
            assert!(info.contains(part), "{info}");
        }
        let echo = request("/echo").method("POST");
        let large = vec![b'y'; 3 << 20];
        let (_, body) = fetch(&mut sender, echo, &[b"some ", b"words ", &large]).await.unwrap();
        assert_eq!(body.len(), 11 + large.len());
        assert!(body.starts_with(b"some words y"));
        let (head, body) = fetch(&mut sender, request("/a").method("HEAD"), &[]).await.unwrap();
        assert_eq!((body.len(), &head.headers()["content-length"]), (0, &"8".parse().unwrap()));
    });
}

#[test]
fn limits_are_those_of_the_other_protocols() {
    local(async {
        let setup = set_up(ServeOptions::default());
        let (mut sender, _quic) = setup.connect().await;
        let mut status = async |head| match fetch(&mut sender, head, &[]).await {
            Ok((head, _)) => head.status().as_u16(),
            Err(error) => panic!("{error}"),
        };
        assert_eq!(status(request(&format!("/{}", "x".repeat(20_000)))).await, 414);
        let many = (0..150).fold(request("/"), |head, at| head.header("x-many", at));
        assert_eq!(status(many).await, 431);
        assert_eq!(status(request("/")).await, 200);
    });
}

#[test]
fn what_http3_forbids_ends_the_request_and_not_the_connection() {
    local(async {
        let setup = set_up(ServeOptions::default());
        let (mut sender, _quic) = setup.connect().await;
        let echo = || request("/echo").method("POST");
        for (head, body) in [
            (echo().header("transfer-encoding", "chunked"), &b"x"[..]),
            (echo().header("connection", "close"), b"x"),
            (echo().header("te", "gzip"), b"x"),
        ] {
            assert!(fetch(&mut sender, head, &[body]).await.is_err());
        }
        for (length, served) in [("2", true), ("1", false), ("3", false)] {
            let head = echo().header("content-length", length);
            let answer = fetch(&mut sender, head, &[b"xy"]).await;
            let status = answer.map(|(head, _)| head.status().as_u16());
            assert_eq!(status.is_ok_and(|status| status == 200), served, "{length}");
        }
        let (_, body) = fetch(&mut sender, request("/still"), &[]).await.unwrap();
        assert_eq!(body, "hello /still");
    });
}

#[test]
fn a_client_that_leaves_is_noticed_and_one_that_does_not_read_holds_the_body_back() {
    local(async {
        let setup = set_up(ServeOptions::default());
        let (mut sender, quic) = setup.connect().await;
        let mut waiting = sender.send_request(request("/wait").body(()).unwrap()).await.unwrap();
        waiting.finish().await.unwrap();
        until(|| setup.app().waiting.get() == 1).await;
        waiting.stop_sending(h3::error::Code::H3_REQUEST_CANCELLED);
        until(|| setup.app().abandoned.get() == 1).await;
        let mut endless = sender.send_request(request("/endless").body(()).unwrap()).await.unwrap();
        endless.finish().await.unwrap();
        endless.recv_response().await.unwrap();
        until(|| setup.app().chunks.get() > 0).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        let ahead_bytes = setup.app().chunks.get() * CHUNK_BYTES;
        assert!(
            ahead_bytes <= 4 << 20,
            "{ahead_bytes} bytes are made for a client that reads none"
        );
        endless.stop_sending(h3::error::Code::H3_REQUEST_CANCELLED);
        until(|| setup.app().abandoned.get() == 2).await;
        let mut again = sender.send_request(request("/wait").body(()).unwrap()).await.unwrap();
        again.finish().await.unwrap();
        until(|| setup.app().waiting.get() == 3).await;
        quic.close(0_u32.into(), b"");
        until(|| setup.app().abandoned.get() == 3).await;
    });
}

#[test]
fn a_client_that_takes_everything_gets_everything() {
    local(async {
        let setup = set_up(ServeOptions::default());
        let (mut sender, _quic) = setup.connect().await;
        let (_, body) = fetch(&mut sender, request("/endless"), &[]).await.unwrap();
        assert_eq!(body.len(), CHUNKS_MAX * CHUNK_BYTES);
    });
}

#[test]
fn a_drain_finishes_requests_and_closes() {
    local(async {
        let mut setup = set_up(ServeOptions::default());
        let (mut sender, quic) = setup.connect().await;
        let slow = tokio::task::spawn_local(async move {
            fetch(&mut sender, request("/slow"), &[]).await.unwrap().1
        });
        until(|| setup.app().waiting.get() == 1).await;
        let server = setup.servers.remove(0);
        server.drain.start(support::PATIENCE);
        assert_eq!(slow.await.unwrap(), "slow");
        assert_eq!(server.served.await.unwrap().cut, 0);
        quic.closed().await;
    });
}

#[test]
fn idle_connections_and_unfinished_heads_are_ended() {
    local(async {
        let setup = set_up(hasty());
        let (_sender, quic) = setup.connect().await;
        let (mut send, mut receive) = quic.open_bi().await.unwrap();
        // A HEADERS frame that claims 100 bytes and brings one.
        send.write_all(&[1, 0x40, 100, 0]).await.unwrap();
        assert!(receive.read_to_end(100).await.is_err());
        quic.closed().await;
    });
}

#[test]
fn a_frame_without_end_is_cut_and_so_is_a_client_that_only_cancels() {
    local(async {
        let setup = set_up(ServeOptions::default());
        let (mut sender, quic) = setup.connect().await;
        let (mut send, _receive) = quic.open_bi().await.unwrap();
        // HEADERS of 1 GiB.
        send.write_all(&[1, 0xc0, 0, 0, 0, 0x40, 0, 0, 0]).await.unwrap();
        let part = vec![0; 64 << 10];
        let mut sent = 0;
        while send.write_all(&part).await.is_ok() {
            sent += part.len();
            assert!(sent < 16 << 20, "{sent} bytes of one frame are taken");
        }
        for _ in 0..2_000 {
            let Ok(mut stream) = sender.send_request(request("/wait").body(()).unwrap()).await
            else {
                break;
            };
            stream.stop_sending(h3::error::Code::H3_REQUEST_CANCELLED);
            stream.stop_stream(h3::error::Code::H3_REQUEST_CANCELLED);
        }
        let why = quic.closed().await;
        assert!(matches!(why, quinn::ConnectionError::ApplicationClosed(_)), "{why}");
    });
}

#[test]
fn early_data_is_served_when_it_is_safe_and_once() {
    local(async {
        let setup = set_up(ServeOptions::default());
        let early = |method: &'static str| {
            let connecting = setup.client.connect(setup.address(), "one.test").unwrap();
            let (quic, accepted) = connecting.into_0rtt().expect("the session can be resumed");
            async move {
                let mut sender = sender(quic).await;
                let head = request("/headers").method(method);
                let (head, text) = fetch(&mut sender, head, &[]).await.unwrap();
                let is_early = String::from_utf8_lossy(&text).contains("\"early-data\": \"1\"");
                (accepted.await, head.status().as_u16(), is_early)
            }
        };
        let full = setup.connect().await;
        let mut first = full.0.clone();
        fetch(&mut first, request("/"), &[]).await.unwrap();
        // rustls gives a client some tickets with each handshake, and uses each once.
        assert_eq!(early("GET").await, (true, 200, true));
        assert_eq!(early("POST").await, (true, 425, false));
    });
}

#[test]
fn a_connection_goes_on_when_the_clients_packets_come_to_another_thread() {
    local(async {
        let setup = set_up_threads(ServeOptions::default(), 2);
        let relay = Relay::start(&setup.servers).await;
        let quic = setup.client.connect(relay.address, "one.test").unwrap().await.unwrap();
        let mut sender = sender(quic).await;
        let (_, before) = fetch(&mut sender, request("/peer"), &[]).await.unwrap();
        relay.turn();
        let (_, after) = fetch(&mut sender, request("/peer"), &[]).await.unwrap();
        assert_ne!(before, after, "the client has another address now");
        let (_, body) = fetch(&mut sender, request("/still"), &[]).await.unwrap();
        assert_eq!(body, "hello /still");
    });
}

/// Stands between a client and two sockets of a node, as the network and the kernel do: when it turns, the
/// client has another address and the node gets its packets on the other socket.
struct Relay {
    address: SocketAddr,
    turned: Rc<std::cell::Cell<bool>>,
}

impl Relay {
    async fn start(servers: &[Server]) -> Self {
        let bind = || tokio::net::UdpSocket::bind("127.0.0.1:0");
        let near = Rc::new(bind().await.unwrap());
        let far = [Rc::new(bind().await.unwrap()), Rc::new(bind().await.unwrap())];
        let address = near.local_addr().unwrap();
        let to = [servers[0].address, servers[1].address];
        let turned = Rc::new(std::cell::Cell::new(false));
        let client = Rc::new(std::cell::Cell::new(None));
        for socket in far.clone() {
            let (near, client) = (near.clone(), client.clone());
            tokio::task::spawn_local(async move {
                let mut packet = [0; 65_536];
                loop {
                    let (len, _) = socket.recv_from(&mut packet).await.unwrap();
                    if let Some(client) = client.get() {
                        near.send_to(&packet[..len], client).await.unwrap();
                    }
                }
            });
        }
        let now = turned.clone();
        tokio::task::spawn_local(async move {
            let mut packet = [0; 65_536];
            loop {
                let (len, from) = near.recv_from(&mut packet).await.unwrap();
                client.set(Some(from));
                let side = usize::from(now.get());
                far[side].send_to(&packet[..len], to[side]).await.unwrap();
            }
        });
        Self { address, turned }
    }

    fn turn(&self) {
        self.turned.set(true);
    }
}

#[test]
fn a_client_learns_that_the_process_with_its_connection_is_gone() {
    local(async {
        let mut setup = set_up(ServeOptions::default());
        let (mut sender, quic) = setup.connect().await;
        fetch(&mut sender, request("/"), &[]).await.unwrap();
        // What a killed process leaves behind: sockets without an endpoint, and no word to the client.
        let gone = setup.servers.remove(0);
        gone.served.abort();
        let options = ServeOptions::default();
        let _new = serve(duplicate(&setup.kept), &setup.tls, &options);
        let asking = tokio::task::spawn_local(async move {
            fetch(&mut sender, request("/wait"), &[]).await.map(drop)
        });
        let why = quic.closed().await;
        assert!(matches!(why, quinn::ConnectionError::Reset), "{why}");
        assert!(asking.await.unwrap().is_err());
    });
}

#[test]
fn clients_over_tls_are_told_where_http3_is() {
    local(async {
        let directory = tempfile::tempdir().unwrap();
        let made = self_signed(directory.path(), &[]).unwrap();
        let mut certificates = Certificates::default();
        certificates.add(made.certificate);
        let tls = Tls::new(TlsMaterial { certificates, ..TlsMaterial::default() }).unwrap();
        let options = ServeOptions { http3_port: Some(443), ..ServeOptions::default() };
        let server = start(options.clone(), Some(Arc::new(tls)));
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(made.path).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let socket = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let name = "localhost".try_into().unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let secure = connector.connect(name, socket).await.unwrap();
        assert_eq!(alt_svc(secure).await.as_deref(), Some("h3=\":443\"; ma=86400"));
        let server = start(options, None);
        let plain = tokio::net::TcpStream::connect(server.address).await.unwrap();
        assert_eq!(alt_svc(plain).await, None);
    });
}

async fn alt_svc<T>(stream: T) -> Option<String>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
{
    use http_body_util::Empty;
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut client, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::task::spawn_local(connection);
    let request = Request::get("/").header("host", "a").body(Empty::<Bytes>::new()).unwrap();
    let response = client.send_request(request).await.unwrap();
    response.headers().get("alt-svc").map(|value| value.to_str().unwrap().to_owned())
}
