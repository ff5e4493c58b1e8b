//! The client against real servers on this machine, with loopback allowed, and without.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use async_compression::tokio::bufread::{BrotliEncoder, GzipEncoder, ZlibEncoder, ZstdEncoder};
use bytes::Bytes;
use http::{Request, Response, Version};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::*;

const CHUNK_BYTES: usize = 64 * 1024;

fn empty() -> ReqBody {
    Empty::new().map_err(|never: Infallible| match never {}).boxed_unsync()
}

fn full(bytes: impl Into<Bytes>) -> ReqBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

fn get(url: String) -> Request<ReqBody> {
    Request::get(url).body(empty()).unwrap()
}

fn client(options: OutboundOptions) -> Outbound {
    Outbound::new(options, &SystemNetwork::read())
}

fn to_loopback() -> OutboundOptions {
    OutboundOptions { allow: vec!["127.0.0.0/8".parse().unwrap()], ..OutboundOptions::default() }
}

async fn text(response: Response<ResBody>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Many chunks, counting those that were asked for.
fn chunks(count: usize, asked: Arc<AtomicUsize>) -> ResBody {
    let chunk = Bytes::from(vec![b'x'; CHUNK_BYTES]);
    let frames = futures_util::stream::iter((0..count).map(move |_| {
        asked.fetch_add(1, Relaxed);
        Ok(Frame::data(chunk.clone()))
    }));
    StreamBody::new(frames).boxed_unsync()
}

async fn encoded(name: &str) -> Vec<u8> {
    let plain = "many words, ".repeat(20_000);
    let mut bytes = Vec::new();
    let plain = plain.as_bytes();
    match name {
        "gzip" => GzipEncoder::new(plain).read_to_end(&mut bytes).await,
        "deflate" => ZlibEncoder::new(plain).read_to_end(&mut bytes).await,
        "br" => BrotliEncoder::new(plain).read_to_end(&mut bytes).await,
        _ => ZstdEncoder::new(plain).read_to_end(&mut bytes).await,
    }
    .unwrap();
    bytes
}

async fn answer(
    request: Request<Incoming>,
    asked: Arc<AtomicUsize>,
) -> Result<Response<ResBody>, Infallible> {
    let path = request.uri().path().to_owned();
    let response = Response::builder();
    Ok(match path.as_str() {
        "/headers" => {
            let mut names: Vec<_> = request.headers().keys().map(|name| name.as_str()).collect();
            names.sort_unstable();
            response.header("keep-alive", "timeout=5").body(full(names.join(" ")))
        }
        "/redirect" => response.status(302).header("location", "/").body(full("")),
        "/never" => std::future::pending().await,
        "/big" => response.body(chunks(4096, asked)),
        "/count" => {
            let mut total = 0;
            let mut body = request.into_body();
            while let Some(frame) = body.frame().await {
                total += frame.map_or(0, |frame| frame.data_ref().map_or(0, Bytes::len));
            }
            response.body(full(total.to_string()))
        }
        "/broken" => response.header("content-encoding", "gzip").body(full("not gzip")),
        "/wide" => response.header("content-encoding", "br").body(full("\x11\x1e\x00")),
        "/unknown" => response.header("content-encoding", "rot13").body(full("uryyb")),
        _ => match path.strip_prefix("/encoded/") {
            Some(name) => response.header("content-encoding", name).body(full(encoded(name).await)),
            None => response.body(full(format!("hello {:?}", request.version()))),
        },
    }
    .unwrap())
}

/// Serves on loopback and returns the address and the count of chunks of `/big`.
async fn serve(tls: Option<Arc<rustls::ServerConfig>>) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let (tls, counter) = (tls.clone(), Arc::clone(&counter));
            let service = service_fn(move |request| answer(request, Arc::clone(&counter)));
            tokio::spawn(async move {
                let Some(tls) = tls else {
                    let _ =
                        http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
                    return;
                };
                let acceptor = tokio_rustls::TlsAcceptor::from(tls);
                let Ok(stream) = acceptor.accept(socket).await else { return };
                let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                let io = TokioIo::new(stream);
                if is_h2 {
                    let builder = http2::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(io, service).await;
                } else {
                    let _ = http1::Builder::new().serve_connection(io, service).await;
                }
            });
        }
    });
    (address, asked)
}

fn tls_server(certificate: Arc<rustls::sign::CertifiedKey>) -> Arc<rustls::ServerConfig> {
    let mut certificates = atoll_router::Certificates::default();
    certificates.add(certificate);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificates));
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(tls)
}

#[tokio::test]
async fn what_is_not_public_is_refused_by_default() {
    let (address, _) = serve(None).await;
    let port = address.port();
    let outbound = client(OutboundOptions::default());
    for host in [
        "127.0.0.1",
        "[::1]",
        "localhost",
        "[::ffff:127.0.0.1]",
        "169.254.169.254",
        "10.0.0.1",
        "0.0.0.0",
        "[64:ff9b::7f00:1]",
    ] {
        let error = outbound.send(get(format!("http://{host}:{port}/"))).await.unwrap_err();
        assert!(matches!(error, OutboundError::NotPublic { .. }), "{host}: {error}");
        assert!(error.to_string().contains("`outbound.allow` can permit it"));
    }
    for host in ["0x7f.1", "127.1", "2130706433", "0x7f000001", "127.0.0.1.", "0177.0.0.1", "1.2"] {
        let error = outbound.send(get(format!("http://{host}:{port}/"))).await.unwrap_err();
        assert!(
            matches!(error, OutboundError::Host(_) | OutboundError::Resolve { .. }),
            "{host}: {error}"
        );
    }
    for url in ["ftp://a.b/", "/path", "https:opaque"] {
        let Ok(request) = Request::get(url).body(empty()) else { continue };
        let error = outbound.send(request).await.unwrap_err();
        assert!(matches!(error, OutboundError::Url(_)), "{url}: {error}");
    }
}

#[tokio::test]
async fn an_allowed_network_is_reached_and_no_other() {
    let (address, _) = serve(None).await;
    let outbound = client(to_loopback());
    let port = address.port();
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
        let response = outbound.send(get(format!("http://{host}:{port}/"))).await.unwrap();
        assert_eq!(text(response).await, "hello HTTP/1.1", "{host}");
    }
    let error = outbound.send(get(format!("http://10.0.0.1:{port}/"))).await.unwrap_err();
    assert!(matches!(error, OutboundError::NotPublic { .. }));
    let everything =
        OutboundOptions { allow_private: PrivateAddresses::Allow, ..OutboundOptions::default() };
    let outbound = client(everything);
    assert!(outbound.send(get(format!("http://{address}/"))).await.is_ok());
}

#[tokio::test]
async fn redirects_are_returned_and_connection_headers_stripped() {
    let (address, _) = serve(None).await;
    let outbound = client(to_loopback());
    let response = outbound.send(get(format!("http://{address}/redirect"))).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["location"]),
        (302, &"/".parse().unwrap())
    );
    let request = Request::get(format!("http://{address}/headers"))
        .header("host", "elsewhere")
        .header("connection", "close, x-private")
        .header("x-private", "1")
        .header("te", "trailers")
        .header("x-kept", "1")
        .extension(DecodeBody::No)
        .body(empty());
    let response = outbound.send(request.unwrap()).await.unwrap();
    assert!(!response.headers().contains_key("keep-alive"));
    assert_eq!(text(response).await, "host x-kept");
}

#[tokio::test]
async fn bodies_are_decoded_when_asked() {
    let (address, _) = serve(None).await;
    let outbound = client(to_loopback());
    for name in ["gzip", "deflate", "br", "zstd"] {
        let url = format!("http://{address}/encoded/{name}");
        let response = outbound.send(get(url.clone())).await.unwrap();
        assert!(!response.headers().contains_key("content-encoding"));
        assert!(!response.headers().contains_key("content-length"));
        assert_eq!(text(response).await, "many words, ".repeat(20_000), "{name}");
        let mut raw = get(url);
        raw.extensions_mut().insert(DecodeBody::No);
        let response = outbound.send(raw).await.unwrap();
        assert_eq!(response.headers()["content-encoding"], name);
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(bytes, encoded(name).await);
    }
    let broken = outbound.send(get(format!("http://{address}/broken"))).await.unwrap();
    assert!(broken.into_body().collect().await.is_err());
    let wide = outbound.send(get(format!("http://{address}/wide"))).await.unwrap();
    let error = wide.into_body().collect().await.unwrap_err();
    assert!(format!("{error:?}").contains("RFC 7932"), "{error:?}");
    let unknown = outbound.send(get(format!("http://{address}/unknown"))).await.unwrap();
    assert_eq!(unknown.headers()["content-encoding"], "rot13");
    assert_eq!(text(unknown).await, "uryyb");
    let head = Request::head(format!("http://{address}/encoded/gzip")).body(empty()).unwrap();
    assert_eq!(text(outbound.send(head).await.unwrap()).await, "");
}

#[tokio::test]
async fn bodies_stream_both_ways_with_backpressure() {
    let (address, asked) = serve(None).await;
    let outbound = client(to_loopback());
    let response = outbound.send(get(format!("http://{address}/big"))).await.unwrap();
    let mut body = response.into_body();
    let mut total = body.frame().await.unwrap().unwrap().into_data().unwrap().len();
    // Nobody reads: the server is held back by what sockets and one buffer take.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(asked.load(Relaxed) < 1024, "{}", asked.load(Relaxed));
    while let Some(frame) = body.frame().await {
        total += frame.unwrap().into_data().unwrap().len();
    }
    assert_eq!(total, 4096 * CHUNK_BYTES);
    let sent = Arc::new(AtomicUsize::new(0));
    let upload = Request::post(format!("http://{address}/count")).body(chunks(1024, sent));
    let response = outbound.send(upload.unwrap()).await.unwrap();
    assert_eq!(text(response).await, (1024 * CHUNK_BYTES).to_string());
}

#[tokio::test]
async fn limits_and_failures_say_what_happened() {
    let (address, _) = serve(None).await;
    let limit = Duration::from_millis(50);
    let outbound = client(OutboundOptions { response_timeout: limit, ..to_loopback() });
    let error = outbound.send(get(format!("http://{address}/never"))).await.unwrap_err();
    assert_eq!(error.to_string(), "127.0.0.1 sent no response within 0.05 s");
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = outbound.send(get(format!("http://{closed}/"))).await.unwrap_err();
    assert!(error.to_string().starts_with("cannot connect to 127.0.0.1 (127.0.0.1): "), "{error}");
    let error = outbound.send(get(format!("https://{address}/"))).await.unwrap_err();
    assert!(matches!(error, OutboundError::Request { .. }), "{error}");
}

#[tokio::test]
async fn http2_is_used_over_tls_from_a_trusted_authority_only() {
    let directory = tempfile::tempdir().unwrap();
    let made = atoll_router::self_signed(directory.path(), &[]).unwrap();
    let (address, _) = serve(Some(tls_server(made.certificate))).await;
    let url = format!("https://localhost:{}/", address.port());
    let error = client(to_loopback()).send(get(url.clone())).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    let root = CertificateDer::from_pem_file(made.path).unwrap();
    let outbound = client(OutboundOptions { extra_roots: vec![root], ..to_loopback() });
    for _ in 0..2 {
        let response = outbound.send(get(url.clone())).await.unwrap();
        assert_eq!(response.version(), Version::HTTP_2);
        assert_eq!(text(response).await, "hello HTTP/2.0");
    }
    let sent = Arc::new(AtomicUsize::new(0));
    let upload = Request::post(format!("{url}count")).body(chunks(512, sent)).unwrap();
    assert_eq!(text(outbound.send(upload).await.unwrap()).await, (512 * CHUNK_BYTES).to_string());
}

fn place(address: SocketAddr) -> Destination {
    let connect_timeout = Duration::from_secs(5);
    Destination { host: address.ip().to_string(), port: address.port(), connect_timeout }
}

#[tokio::test]
async fn a_client_to_one_place_asks_there_for_the_host_of_the_url() {
    let directory = tempfile::tempdir().unwrap();
    let made = atoll_router::self_signed(directory.path(), &[]).unwrap();
    let (address, _) = serve(Some(tls_server(made.certificate))).await;
    let root = CertificateDer::from_pem_file(made.path).unwrap();
    let outbound = client(OutboundOptions { extra_roots: vec![root], ..to_loopback() });
    let there = outbound.to(place(address));
    // The certificate is for localhost: not for the address that is connected to, nor for another host.
    let response = there.send(get("https://localhost/".to_owned())).await.unwrap();
    assert_eq!(text(response).await, "hello HTTP/2.0");
    let error = there.send(get("https://other.example/".to_owned())).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    let strict = client(OutboundOptions::default()).to(place(address));
    let error = strict.send(get("https://localhost/".to_owned())).await.unwrap_err();
    assert!(matches!(error, OutboundError::NotPublic { .. }), "{error}");
}

#[tokio::test]
async fn a_body_is_whole_until_some_server_could_have_some_of_it() {
    let (address, _) = serve(None).await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let outbound = client(to_loopback());
    let sent = Arc::new(AtomicUsize::new(0));
    let body = Resendable::new(chunks(16, sent));
    let attempt = async |to| {
        let (parts, ()) =
            Request::post(format!("http://{to}/count")).body(()).unwrap().into_parts();
        outbound.attempt(parts, &body).await
    };
    let unanswered = attempt(closed).await.unwrap_err();
    assert_eq!(unanswered.stage, Stage::Connecting);
    assert!(body.is_whole());
    let response = attempt(address).await.unwrap();
    assert!(!body.is_whole());
    assert_eq!(text(response).await, (16 * CHUNK_BYTES).to_string());
    assert_eq!(attempt(address).await.unwrap_err().stage, Stage::Sending);
    let empty = Resendable::new(empty());
    let (parts, ()) = Request::get(format!("http://{address}/")).body(()).unwrap().into_parts();
    assert!(outbound.attempt(parts, &empty).await.is_ok() && empty.is_whole());
}
