//! An HTTP client that opens a connection for every request, so that a test knows exactly what is
//! on it: HTTP/1.1 or HTTP/2, plain or over TLS, with bodies whole or streamed.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ConfigBuilder, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::Failure;
use crate::node::Addresses;

/// How long the head of an answer, and then its body, may take.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// What a request is sent over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 to the plain listener.
    Http1,
    /// HTTP/2 with prior knowledge to the plain listener.
    Http2,
    /// HTTP/1.1 over TLS.
    Https1,
    /// HTTP/2 over TLS, by ALPN.
    Https2,
    /// HTTP/3, at the port of the TLS listener. Its answers come whole only, by [`Request::send`].
    Http3,
    /// HTTP/1.1 to the admin listener.
    Admin,
}

/// A request's body.
pub type RequestBody = UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// A request to a node.
#[derive(Clone)]
pub struct Request {
    pub(crate) addresses: Addresses,
    protocol: Protocol,
    pub(crate) host: String,
    pub(crate) path: String,
    method: Method,
    headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
    from: Option<IpAddr>,
}

/// An answer, complete.
#[derive(Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The protocol's version.
    pub version: Version,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl Reply {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// Panics when it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {}", self.text()))
    }

    /// A header's text, empty when it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

impl Request {
    pub(crate) fn new(addresses: Addresses, host: &str, path: &str) -> Self {
        Self {
            addresses,
            protocol: Protocol::Http1,
            host: host.to_owned(),
            path: path.to_owned(),
            method: Method::GET,
            headers: vec![],
            body: Bytes::new(),
            from: None,
        }
    }

    /// A GET of any host at a node's addresses.
    pub fn to(addresses: Addresses, host: &str, path: &str) -> Self {
        Self::new(addresses, host, path)
    }

    /// Chooses the protocol.
    #[must_use]
    pub fn over(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// Chooses the method.
    #[must_use]
    pub fn method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    /// Connects from this address of the machine; all of `127.0.0.0/8` are.
    #[must_use]
    pub fn from(mut self, address: IpAddr) -> Self {
        self.from = Some(address);
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Gives it a body of known length.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends it with the method POST.
    ///
    /// # Errors
    /// See [`Self::send`].
    pub async fn post(self, body: impl Into<Bytes>) -> Result<Reply, Failure> {
        self.method(Method::POST).body(body).send().await
    }

    /// Sends it and reads the whole answer.
    ///
    /// # Errors
    /// Fails when the connection fails, or nothing comes for a minute.
    pub async fn send(self) -> Result<Reply, Failure> {
        if self.protocol == Protocol::Http3 {
            return tokio::time::timeout(ANSWER_MAX, crate::http3::exchange(self)).await?;
        }
        let response = self.open().await?;
        let (head, body) = response.into_parts();
        let body = tokio::time::timeout(ANSWER_MAX, body.collect()).await??.to_bytes();
        Ok(Reply { status: head.status, version: head.version, headers: head.headers, body })
    }

    /// Sends it and answers as soon as the head is there.
    ///
    /// # Errors
    /// See [`Self::send`].
    pub async fn open(self) -> Result<hyper::Response<Incoming>, Failure> {
        let body = Full::new(self.body.clone()).boxed_unsync();
        self.open_with(body).await
    }

    /// Sends it with a body that comes bit by bit.
    ///
    /// # Errors
    /// See [`Self::send`].
    pub async fn open_with(self, body: RequestBody) -> Result<hyper::Response<Incoming>, Failure> {
        tokio::time::timeout(ANSWER_MAX, self.exchange(body)).await?
    }

    /// Opens a plain HTTP/1.1 connection on which this GET can be sent again and again.
    ///
    /// # Errors
    /// Fails when the connection cannot be opened.
    pub async fn keep_alive(self) -> Result<KeepAlive, Failure> {
        let tcp = self.addresses.socket()?.connect(self.addresses.http).await?;
        tcp.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(tcp)).await?;
        tokio::spawn(connection);
        Ok(KeepAlive { sender, request: self })
    }

    async fn exchange(self, body: RequestBody) -> Result<hyper::Response<Incoming>, Failure> {
        let address = match self.protocol {
            Protocol::Http1 | Protocol::Http2 => self.addresses.http,
            Protocol::Https1 | Protocol::Https2 | Protocol::Http3 => self.addresses.https,
            Protocol::Admin => self.addresses.admin,
        };
        let socket = self.addresses.socket()?;
        if let Some(from) = self.from {
            socket.bind((from, 0).into())?;
        }
        let tcp = socket.connect(address).await?;
        tcp.set_nodelay(true)?;
        match self.protocol {
            Protocol::Http3 => Err("HTTP/3 does not go over TCP: use send".into()),
            Protocol::Http1 | Protocol::Admin => self.exchange_http1(tcp, body).await,
            Protocol::Http2 => self.exchange_http2(tcp, body).await,
            Protocol::Https1 => {
                let tls = connect_tls(tcp, &self.host, b"http/1.1").await?;
                self.exchange_http1(tls, body).await
            }
            Protocol::Https2 => {
                let tls = connect_tls(tcp, &self.host, b"h2").await?;
                self.exchange_http2(tls, body).await
            }
        }
    }

    async fn exchange_http1(
        self,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        body: RequestBody,
    ) -> Result<hyper::Response<Incoming>, Failure> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
        tokio::spawn(connection);
        let request = self.head(&self.path).header("host", &self.host).body(body)?;
        Ok(sender.send_request(request).await?)
    }

    async fn exchange_http2(
        self,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        body: RequestBody,
    ) -> Result<hyper::Response<Incoming>, Failure> {
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await?;
        tokio::spawn(connection);
        let scheme = if self.protocol == Protocol::Https2 { "https" } else { "http" };
        let uri = format!("{scheme}://{}{}", self.host, self.path);
        Ok(sender.send_request(self.head(&uri).body(body)?).await?)
    }

    pub(crate) fn head(&self, uri: &str) -> http::request::Builder {
        let builder = hyper::Request::builder().method(self.method.clone()).uri(uri);
        self.headers.iter().fold(builder, |builder, (name, value)| builder.header(name, value))
    }
}

/// A connection that stays open between requests.
pub struct KeepAlive {
    sender: http1::SendRequest<Full<Bytes>>,
    request: Request,
}

impl KeepAlive {
    /// Sends the GET once more.
    ///
    /// # Errors
    /// Fails when the connection is cut, or nothing comes for a minute.
    pub async fn get(&mut self) -> Result<Reply, Failure> {
        let head = self.request.head(&self.request.path).header("host", &self.request.host);
        let request = head.body(Full::new(Bytes::new()))?;
        let exchange = async {
            self.sender.ready().await?;
            let (head, body) = self.sender.send_request(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok(Reply { status: head.status, version: head.version, headers: head.headers, body })
        };
        tokio::time::timeout(ANSWER_MAX, exchange).await?
    }
}

/// The next bytes of a body, or none at its end.
///
/// # Errors
/// Fails when the body breaks off, or nothing comes for a minute.
pub async fn next_chunk(body: &mut Incoming) -> Result<Option<Bytes>, Failure> {
    while let Some(frame) = tokio::time::timeout(ANSWER_MAX, body.frame()).await? {
        // HTTP/2 may end a stream with an empty frame.
        if let Ok(bytes) = frame?.into_data()
            && !bytes.is_empty()
        {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

/// A request body fed through a channel, with the channel's backpressure.
pub struct StreamedBody(mpsc::Receiver<Bytes>);

impl StreamedBody {
    /// A body and its sending end; dropping that ends the body.
    pub fn channel() -> (mpsc::Sender<Bytes>, RequestBody) {
        let (sender, receiver) = mpsc::channel(4);
        (sender, Self(receiver).boxed_unsync())
    }
}

impl Body for StreamedBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// Shakes hands over TLS as any client may, trusting whoever answers, for one protocol.
///
/// # Errors
/// Fails when the other end does not want to, or chooses no such protocol.
pub async fn connect_tls(
    tcp: TcpStream,
    host: &str,
    protocol: &[u8],
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Failure> {
    let mut config = trusting_config()?.with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let name = ServerName::try_from(host.to_owned())?;
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
    let agreed = stream.get_ref().1.alpn_protocol();
    if agreed != Some(protocol) {
        return Err(format!("ALPN agreed on {agreed:?}").into());
    }
    Ok(stream)
}

/// The configuration of a TLS client that takes any certificate.
///
/// # Errors
/// Fails when the TLS library has no protocol.
pub fn trusting_config() -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, Failure> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider))))
}

/// Accepts the certificate that a node makes for itself; signatures are checked all the same.
#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
