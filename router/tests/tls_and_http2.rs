//! HTTP/2 and TLS over real sockets: prior knowledge, ALPN, SNI, resets, drain, certificates.

// Clippy sees a test only in a `#[test]` function, not in what it calls.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use atoll_router::{
    Certificates, Challenge, ChallengeKind, ServeOptions, TlsMaterial, load_pem, self_signed,
};
use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use support::{Server, hasty, local, read_to_close, start, until};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

type H2Client = http2::SendRequest<Empty<Bytes>>;

async fn h2(server: &Server) -> H2Client {
    let socket = TokioIo::new(TcpStream::connect(server.address).await.unwrap());
    let (client, connection) = http2::handshake(TokioExecutor::new(), socket).await.unwrap();
    tokio::task::spawn_local(connection);
    client
}

fn request(path: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("http://a.test{path}")).body(Empty::new()).unwrap()
}

async fn text(client: &mut H2Client, path: &str) -> String {
    let response = client.send_request(request(path)).await.unwrap();
    assert_eq!(response.version(), Version::HTTP_2);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

#[test]
fn http2_with_prior_knowledge() {
    local(async {
        let server = start(ServeOptions::default(), None);
        let mut client = h2(&server).await;
        let mut other = client.clone();
        let (a, b) = tokio::join!(text(&mut client, "/a"), text(&mut other, "/b"));
        assert_eq!((a.as_str(), b.as_str()), ("hello /a", "hello /b"));
        let long = client.send_request(request(&format!("/{}", "x".repeat(20_000)))).await;
        assert_eq!(long.unwrap().status(), 414);
        let mut many = request("/");
        for at in 0..150 {
            many.headers_mut().append("x-many", at.into());
        }
        assert_eq!(client.send_request(many).await.unwrap().status(), 431);
    });
}

#[test]
fn a_reset_stream_drops_the_future_and_spares_the_connection() {
    local(async {
        let server = start(ServeOptions::default(), None);
        let mut client = h2(&server).await;
        let waiting = tokio::task::spawn_local(client.send_request(request("/wait")));
        until(|| server.app.waiting.get() == 1).await;
        waiting.abort();
        until(|| server.app.abandoned.get() == 1).await;
        assert_eq!(text(&mut client, "/still").await, "hello /still");
        let response = client.send_request(request("/endless")).await.unwrap();
        drop(response);
        until(|| server.app.abandoned.get() == 2).await;
        assert_eq!(text(&mut client, "/still").await, "hello /still");
    });
}

#[test]
fn a_drain_says_goaway_and_finishes_streams() {
    local(async {
        let server = start(ServeOptions::default(), None);
        let mut client = h2(&server).await;
        let slow = tokio::task::spawn_local(client.send_request(request("/slow")));
        until(|| server.app.waiting.get() == 1).await;
        server.drain.start(support::PATIENCE);
        let body = slow.await.unwrap().unwrap().into_body().collect().await.unwrap();
        assert_eq!(body.to_bytes(), "slow");
        assert_eq!(server.served.await.unwrap().cut, 0);
        until(|| client.is_closed()).await;
    });
}

#[test]
fn a_client_that_opens_no_window_is_cut() {
    local(async {
        let server = start(hasty(), None);
        let socket = TokioIo::new(TcpStream::connect(server.address).await.unwrap());
        let mut building = http2::Builder::new(TokioExecutor::new());
        let (mut client, connection) =
            building.initial_stream_window_size(0).handshake(socket).await.unwrap();
        tokio::task::spawn_local(connection);
        let response = client.send_request(request("/endless")).await.unwrap();
        // The client answers pings all the while: only its window says that it wants nothing.
        until(|| server.app.abandoned.get() == 1).await;
        assert!(response.into_body().collect().await.is_err());
        assert!(server.app.chunks.get() <= 1);
    });
}

#[test]
fn a_client_that_takes_its_time_is_not_cut() {
    local(async {
        let server = start(hasty(), None);
        let socket = TokioIo::new(TcpStream::connect(server.address).await.unwrap());
        let mut building = http2::Builder::new(TokioExecutor::new());
        let (mut client, connection) =
            building.initial_stream_window_size(70_000).handshake(socket).await.unwrap();
        tokio::task::spawn_local(connection);
        let response = client.send_request(request("/endless")).await.unwrap();
        let mut body = response.into_body();
        for _ in 0..10 {
            let frame = body.frame().await.unwrap().unwrap();
            assert!(!frame.into_data().unwrap().is_empty());
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        assert_eq!(server.app.abandoned.get(), 0);
    });
}

#[test]
fn a_client_that_listens_to_nothing_is_closed() {
    use tokio::io::AsyncWriteExt;
    local(async {
        let server = start(hasty(), None);
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
        // A head that is never completed.
        let head = b"\0\0\x03\x01\0\0\0\0\x01\x82\x86\x84".to_vec();
        for bytes in [preface.clone(), [preface, head].concat()] {
            let mut socket = TcpStream::connect(server.address).await.unwrap();
            socket.write_all(&bytes).await.unwrap();
            // Neither the node's settings nor the ping before its farewell are answered.
            read_to_close(&mut socket).await;
        }
    });
}

#[test]
fn a_flood_of_frames_ends_the_connection() {
    use tokio::io::AsyncWriteExt;
    local(async {
        let server = start(ServeOptions::default(), None);
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        socket.write_all(preface).await.unwrap();
        let acks = b"\0\0\x08\x06\x01\0\0\0\0........".repeat(12_000);
        // The server may have had enough before the end.
        let _ = socket.write_all(&acks).await;
        let mut read = Vec::new();
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut socket, &mut read).await;
        let calm = b"\x7f\xff\xff\xff\0\0\0\x0b";
        assert!(read.ends_with(calm), "{read:?}");
    });
}

#[test]
fn an_idle_http2_connection_is_closed() {
    local(async {
        let server = start(hasty(), None);
        let mut client = h2(&server).await;
        assert_eq!(text(&mut client, "/a").await, "hello /a");
        until(|| client.is_closed()).await;
    });
}

/// A server with self-signed certificates for two domains, and a client that trusts them.
struct Tls {
    server: Server,
    roots: rustls::RootCertStore,
    _directory: tempfile::TempDir,
}

fn start_tls(options: ServeOptions) -> Tls {
    let directory = tempfile::tempdir().unwrap();
    let mut certificates = Certificates::default();
    let mut roots = rustls::RootCertStore::empty();
    for domain in ["one.test", "two.test"] {
        let made = self_signed(&directory.path().join(domain), &[domain.to_owned()]).unwrap();
        assert!(made.created);
        certificates.add(made.certificate);
        roots.add(CertificateDer::from_pem_file(made.path).unwrap()).unwrap();
    }
    let material = TlsMaterial { certificates, ..TlsMaterial::default() };
    let tls = Arc::new(atoll_router::Tls::new(material).unwrap());
    Tls { server: start(options, Some(tls)), roots, _directory: directory }
}

fn connector(tls: &Tls, alpn: &[&str]) -> TlsConnector {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(tls.roots.clone())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

async fn handshake(
    connector: &TlsConnector,
    address: SocketAddr,
    name: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(address).await.unwrap();
    connector.connect(ServerName::try_from(name.to_owned()).unwrap(), socket).await
}

#[test]
fn sni_and_alpn_choose_certificate_and_protocol() {
    local(async {
        let tls = start_tls(ServeOptions::default());
        let both = connector(&tls, &["h2", "http/1.1"]);
        for name in ["one.test", "hello.two.test", "HELLO.two.test", "localhost", "127.0.0.1"] {
            let stream = handshake(&both, tls.server.address, name).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            let io = TokioIo::new(stream);
            let (mut client, connection) =
                http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::task::spawn_local(connection);
            let info = text(&mut client, "/connection").await;
            assert!(info.contains("TLSv1.3") && info.contains("AEAD-AES"), "{info}");
            assert_eq!(info.contains("sni: None"), name == "127.0.0.1", "{info}");
        }
        for name in ["a.b.two.test", "three.test"] {
            assert!(handshake(&both, tls.server.address, name).await.is_err(), "{name}");
        }
        for alpn in [&["http/1.1"][..], &[]] {
            let stream = handshake(&connector(&tls, alpn), tls.server.address, "one.test").await;
            let io = TokioIo::new(stream.unwrap());
            let (mut client, connection) = http1::handshake(io).await.unwrap();
            tokio::task::spawn_local(connection);
            let request = Request::get("/x").header("host", "a").body(Empty::<Bytes>::new());
            let response = client.send_request(request.unwrap()).await.unwrap();
            assert_eq!(response.version(), Version::HTTP_11);
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello /x");
        }
    });
}

#[test]
fn sessions_resume() {
    local(async {
        let tls = start_tls(ServeOptions::default());
        let connector = connector(&tls, &["http/1.1"]);
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let stream = handshake(&connector, tls.server.address, "one.test").await.unwrap();
            let (mut client, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
            let connection = tokio::task::spawn_local(connection.without_shutdown());
            let request = Request::get("/x").header("host", "a").header("connection", "close");
            let response =
                client.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
            response.into_body().collect().await.unwrap();
            let stream = connection.await.unwrap().unwrap().io.into_inner();
            kinds.push(stream.get_ref().1.handshake_kind());
        }
        assert_eq!(kinds[1], Some(rustls::HandshakeKind::Resumed), "{kinds:?}");
    });
}

#[test]
fn a_handshake_that_does_not_come_is_cut() {
    local(async {
        let tls = start_tls(hasty());
        let mut silent = TcpStream::connect(tls.server.address).await.unwrap();
        assert_eq!(read_to_close(&mut silent).await, "");
    });
}

#[test]
fn the_self_signed_certificate_is_kept_until_a_domain_is_missing() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = ("demo.test".to_owned(), "Other.test".to_owned());
    assert!(self_signed(directory.path(), std::slice::from_ref(&one)).unwrap().created);
    assert!(!self_signed(directory.path(), std::slice::from_ref(&one)).unwrap().created);
    let made = self_signed(directory.path(), &[one, two]).unwrap();
    assert!(made.created);
    let key = directory.path().join("self-signed.key.pem");
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    load_pem(&made.path, &key).unwrap();
}

#[test]
fn pem_errors_name_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let good = self_signed(directory.path(), &[]).unwrap();
    let key = directory.path().join("self-signed.key.pem");
    let empty = directory.path().join("empty.pem");
    std::fs::write(&empty, "nothing\n").unwrap();
    let missing = directory.path().join("missing.pem");
    let other = tempfile::tempdir().unwrap();
    self_signed(other.path(), &[]).unwrap();
    let other_key = other.path().join("self-signed.key.pem");
    for (certificate, key, words) in [
        (&missing, &key, "missing.pem"),
        (&empty, &key, "CERTIFICATE"),
        (&good.path, &missing, "a private key from"),
        (&good.path, &empty, "a private key from"),
        (&good.path, &other_key, "does not fit"),
    ] {
        let error = load_pem(certificate, key).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn swapped_certificates_serve_new_handshakes() {
    local(async {
        let directory = tempfile::tempdir().unwrap();
        let served_by = Arc::new(atoll_router::Tls::new(TlsMaterial::default()).unwrap());
        let server = start(ServeOptions::default(), Some(served_by.clone()));
        let made = self_signed(directory.path(), &["one.test".to_owned()]).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(made.path).unwrap()).unwrap();
        let tls = Tls { server, roots, _directory: directory };
        let connector = connector(&tls, &[]);
        assert!(handshake(&connector, tls.server.address, "one.test").await.is_err());
        let mut certificates = Certificates::default();
        certificates.add(made.certificate);
        served_by.replace(TlsMaterial { certificates, ..TlsMaterial::default() }).unwrap();
        assert!(handshake(&connector, tls.server.address, "one.test").await.is_ok());
    });
}

#[test]
fn an_acme_authority_gets_its_answer_and_nothing_else() {
    let challenge = |kind, host: &str| Challenge {
        kind,
        host: host.to_owned(),
        token: "token".to_owned(),
        answer: "token.key".to_owned(),
    };
    let pending = vec![
        challenge(ChallengeKind::TlsAlpn01, "alpn.test"),
        challenge(ChallengeKind::Http01, "http.test"),
    ];
    local(async {
        let tls = start_tls(ServeOptions::default());
        let material = TlsMaterial { challenges: pending, ..TlsMaterial::default() };
        let shared = Arc::new(atoll_router::Tls::new(material).unwrap());
        let server = start(ServeOptions::default(), Some(shared));
        let authority = connector(&tls, &["acme-tls/1"]);
        for (name, expected) in [("alpn.test", "invalid peer certificate"), ("http.test", "alert")]
        {
            let error = handshake(&authority, server.address, name).await.unwrap_err().to_string();
            assert!(error.contains(expected), "{name}: {error}");
        }
    });
}
