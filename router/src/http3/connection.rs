//! One connection over QUIC, from its first packet to its end.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h3::error::Code;
use quinn::Incoming;
use quinn::crypto::rustls::HandshakeData;
use rustls_pki_types::CertificateDer;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::exchange::exchange;
use super::transport::{NewStreams, Transport, var_int};
use super::{Server, Way};
use crate::connection::{Alpn, Connection, TlsInfo};
use crate::connections::{Connections, Order, Place};
use crate::options::{H3_CANCELED_MAX, H3_UNPROVEN_MAX};
use crate::pattern::Scheme;
use crate::serve::Service;
use crate::tls::{self, Asked, QUIC_SUITE};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a request's stream may hold beyond twice the headers that a request may have, in bytes.
const FRAMES_BYTES: usize = 32 * 1024;

/// Takes a connection that begins, or sends it away.
pub(super) fn accept<S: Service>(
    incoming: Incoming,
    way: &Way,
    server: &Rc<Server<S>>,
    connections: &Rc<Connections>,
) {
    if connections.count() >= server.options.connections_max {
        connections.evict();
        return incoming.refuse();
    }
    // With many handshakes under way only those go on whose address is not made up.
    if Rc::strong_count(&server.handshake) > H3_UNPROVEN_MAX && incoming.may_retry() {
        if incoming.retry().is_err() {
            tracing::debug!("a client cannot be asked to show where it is");
        }
        return;
    }
    let (place, server) = (connections.add(), Rc::clone(server));
    place.activity.set_multiplexed();
    let (peer, config, asked) = (incoming.remote_address(), way.config.clone(), way.asked.clone());
    tokio::task::spawn_local(async move {
        let served = match incoming.accept_with(config) {
            Ok(connecting) => serve(connecting, &asked, &server, &place).await,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = served {
            tracing::debug!(%peer, error, "a connection over quic ended early");
        }
    });
}

async fn serve<S: Service>(
    connecting: quinn::Connecting,
    asked: &Asked,
    server: &Rc<Server<S>>,
    place: &Place,
) -> Result<(), BoxError> {
    let within = server.options.tls_handshake_timeout;
    let handshake = Rc::clone(&server.handshake);
    let shaking = timeout(within, shake_hands(connecting, asked, within));
    let (connection, sni) = tokio::select! {
        shaken = shaking => shaken.map_err(|_| "the handshake took too long")??,
        () = place.orders.changed() => return Ok(()),
    };
    drop(handshake);
    if let Some(host) = &sni {
        server.service.greeted(host);
    }
    let certificates = connection.peer_identity();
    let chain =
        certificates.as_ref().and_then(|chain| chain.downcast_ref::<Vec<CertificateDer<'_>>>());
    let tls = TlsInfo {
        version: "TLSv1.3",
        cipher: tls::cipher_name(QUIC_SUITE),
        sni,
        alpn: Some(Alpn::H3),
        policy: asked.id,
        client: tls::client_of(chain.map(Vec::as_slice), asked)?,
    };
    let client = Rc::new(Client::new(connection, tls, server.local));
    run(client, server, place).await
}

/// Shakes hands. Who needs no certificate may send requests before the end: they are told apart.
async fn shake_hands(
    mut connecting: quinn::Connecting,
    asked: &Asked,
    within: Duration,
) -> Result<(quinn::Connection, Option<Box<str>>), BoxError> {
    let agreed = connecting.handshake_data().await?;
    let sni = agreed.downcast::<HandshakeData>().ok().and_then(|agreed| agreed.server_name);
    let connection = match asked.mode {
        Some(_) => connecting.await?,
        None => match connecting.into_0rtt() {
            Err(connecting) => connecting.await?,
            Ok((connection, established)) => {
                let early = connection.clone();
                tokio::task::spawn_local(async move {
                    if timeout(within, established).await.is_err() {
                        early.close(var_int(Code::H3_NO_ERROR.value()), b"");
                    }
                });
                connection
            }
        },
    };
    Ok((connection, sni.map(Into::into)))
}

/// A client on its connection.
pub(super) struct Client {
    quic: quinn::Connection,
    tls: TlsInfo,
    local: SocketAddr,
    requests: Cell<usize>,
    /// Requests that the client took back before they were answered, less those that were answered.
    canceled: Cell<usize>,
    idle: Notify,
}

impl Client {
    fn new(quic: quinn::Connection, tls: TlsInfo, listener: SocketAddr) -> Self {
        let ip = quic.local_ip().unwrap_or(listener.ip());
        let local = SocketAddr::new(ip, listener.port());
        let (requests, canceled) = (Cell::new(0), Cell::new(0));
        Self { quic, tls, local, requests, canceled, idle: Notify::new() }
    }

    /// What the service may know. The client's address may have changed since the last request.
    pub(super) fn seen(&self) -> Rc<Connection> {
        let peer = self.quic.remote_address();
        let tls = Some(self.tls.clone());
        Rc::new(Connection { peer, local: self.local, scheme: Scheme::Https, tls })
    }

    /// Counts a request that was answered.
    pub(super) fn answered(&self) {
        self.canceled.set(self.canceled.get().saturating_sub(1));
    }

    /// Counts a request that the client has taken back: whoever does little else has to go.
    pub(super) fn canceled(&self) {
        self.canceled.set(self.canceled.get() + 1);
        if self.canceled.get() > H3_CANCELED_MAX {
            self.quic
                .close(var_int(Code::H3_EXCESSIVE_LOAD.value()), b"too many cancelled requests");
        }
    }
}

/// A request under way on a connection.
struct Request(Rc<Client>);

impl Request {
    fn begin(client: &Rc<Client>) -> Self {
        client.requests.set(client.requests.get() + 1);
        Self(client.clone())
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.0.requests.set(self.0.requests.get() - 1);
        if self.0.requests.get() == 0 {
            self.0.idle.notify_one();
        }
    }
}

type Http3 = h3::server::Connection<Transport, Bytes>;

/// Takes requests until the connection ends, obeying the orders that come meanwhile.
async fn run<S: Service>(
    client: Rc<Client>,
    server: &Rc<Server<S>>,
    place: &Place,
) -> Result<(), BoxError> {
    let stream_bytes_max = 2 * server.options.header_bytes_max + FRAMES_BYTES;
    let transport = Transport::new(client.quic.clone(), stream_bytes_max);
    let streams = transport.streams();
    let mut http3 = h3::server::builder()
        .max_field_section_size(server.options.header_bytes_max as u64)
        .send_grease(false)
        .build(transport)
        .await?;
    let mut draining = false;
    loop {
        let order = place.orders.beyond(if draining { Order::Drain } else { Order::Serve });
        tokio::select! {
            going_on = take_one(&mut http3, &streams, stream_bytes_max, &client, server, place) => {
                if !going_on? {
                    return Ok(());
                }
            }
            order = order => match order {
                Order::Close => return Ok(()),
                _ => {
                    draining = true;
                    http3.shutdown(0).await?;
                }
            },
            () = client.idle.notified(), if draining => {}
        }
        if draining && client.requests.get() == 0 {
            client.quic.close(var_int(Code::H3_NO_ERROR.value()), b"");
            return Ok(());
        }
    }
}

/// Takes one request; false when no more come. Safe to cancel.
async fn take_one<S: Service>(
    http3: &mut Http3,
    streams: &NewStreams,
    stream_bytes_max: usize,
    client: &Rc<Client>,
    server: &Rc<Server<S>>,
    place: &Place,
) -> Result<bool, BoxError> {
    let Some(resolver) = http3.accept().await? else { return Ok(false) };
    let request = Request::begin(client);
    let (server, streams) = (Rc::clone(server), streams.clone());
    let activity = Arc::clone(&place.activity);
    tokio::task::spawn_local(async move {
        let client = &request.0;
        match exchange(resolver, &streams, stream_bytes_max, client, &server, &activity).await {
            Ok(()) => client.answered(),
            Err(error) => {
                client.canceled();
                tracing::debug!(error, "a request over http/3 ended early");
            }
        }
    });
    Ok(true)
}
