//! HTTP/3: one QUIC endpoint on each thread, beside the thread's TCP listeners and for the same service. The
//! only place that knows quinn and h3.

mod body;
mod cids;
mod connection;
mod endpoint;
mod exchange;
mod socket;
mod transport;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use h3::error::Code;
use tokio::time::MissedTickBehavior;

pub use body::Http3Body;
pub use endpoint::QuicKeys;
pub use socket::QuicSocket;

use crate::connections::Connections;
use crate::drain::{DrainSignal, Drained};
use crate::gate::Gate;
use crate::options::ServeOptions;
use crate::serve::{ServeError, Service};
use crate::tls::{Asked, Tls};
use endpoint::{ServerConfigs, endpoint};
use transport::var_int;

/// How long the words of farewell may take to leave.
const FAREWELL: std::time::Duration = std::time::Duration::from_secs(1);

/// What every connection of an endpoint shares.
struct Server<S> {
    options: ServeOptions,
    gate: Gate,
    service: Rc<S>,
    local: SocketAddr,
    /// Each handshake under way has a clone.
    handshake: Rc<()>,
}

/// How connections are made now: QUIC's configuration, and how clients are asked for certificates in it.
struct Way {
    config: Arc<quinn::ServerConfig>,
    asked: Arc<Asked>,
}

/// Serves HTTP/3 until the drain has ended. Runs within a `LocalSet` of a current-thread runtime, as
/// [`serve`](crate::serve()) does.
///
/// When the drain starts, new connections are not taken any more, and those that are there get GOAWAY.
pub async fn serve_http3<S: Service>(
    socket: QuicSocket,
    keys: &QuicKeys,
    tls: Arc<Tls>,
    options: ServeOptions,
    service: Rc<S>,
    mut drain: DrainSignal,
) -> Result<Drained, ServeError> {
    let configs = ServerConfigs::new(keys, &options);
    let mut way = way(&configs, &tls);
    let endpoint = endpoint(socket, keys, (*way.config).clone())?;
    let local = endpoint.local_addr()?;
    // A response over HTTP/3 needs no word that HTTP/3 is spoken here.
    let gate = Gate::new(&ServeOptions { http3_port: None, ..options.clone() }, Some(tls.clone()));
    let server = Rc::new(Server { options, gate, service, local, handshake: Rc::new(()) });
    let connections = Rc::new(Connections::default());
    let mut changes = tls.changes();
    let mut sweep = tokio::time::interval(server.options.sweep_interval());
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let deadline = loop {
        tokio::select! {
            incoming = endpoint.accept() => match incoming {
                Some(incoming) => connection::accept(incoming, &way, &server, &connections),
                None => break tokio::time::Instant::now(),
            },
            // `tls` holds the sender.
            _ = changes.changed() => way = self::way(&configs, &tls),
            _ = sweep.tick() => connections.sweep(&server.options),
            deadline = drain.started() => break deadline,
        }
    };
    endpoint.set_server_config(None);
    let drained = connections.drain(&server.options, deadline).await;
    endpoint.close(var_int(Code::H3_NO_ERROR.value()), b"");
    let _ = tokio::time::timeout(FAREWELL, endpoint.wait_idle()).await;
    Ok(drained)
}

fn way(configs: &ServerConfigs, tls: &Tls) -> Way {
    let (crypto, asked) = tls.for_quic();
    Way { config: configs.with(crypto), asked }
}
