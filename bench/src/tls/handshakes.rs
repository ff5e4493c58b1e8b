//! Handshakes, each on a connection of its own that carries no request.

use std::time::Instant;

use rustls::HandshakeKind;
use rustls::client::Resumption;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::client::{Client, endpoint, text};
use super::plan::Plan;
use crate::window::Window;

/// Tickets that a client keeps.
const TICKETS: usize = 64;

/// Full handshakes.
pub(super) async fn full(plan: &Plan, window: &Window) -> Result<(), String> {
    let client = Client::new(plan, Resumption::disabled())?;
    again_and_again(&client, window, HandshakeKind::Full).await
}

/// Handshakes that each resume the session of the one before, after a full one.
pub(super) async fn resumed(plan: &Plan, window: &Window) -> Result<(), String> {
    let client = Client::new(plan, Resumption::in_memory_sessions(TICKETS))?;
    handshake(&client, HandshakeKind::Full).await?;
    again_and_again(&client, window, HandshakeKind::Resumed).await
}

async fn again_and_again(
    client: &Client,
    window: &Window,
    kind: HandshakeKind,
) -> Result<(), String> {
    while !window.is_over() {
        let begun = Instant::now();
        handshake(client, kind).await?;
        window.record(begun);
    }
    Ok(())
}

/// From the connection to its end: the client says that it is done as soon as the handshake is over, and the server,
/// which sends tickets first, closes.
async fn handshake(client: &Client, expected: HandshakeKind) -> Result<(), String> {
    let mut stream = client.connect().await?;
    match stream.get_ref().1.handshake_kind() {
        Some(kind) if kind == expected => {}
        other => return Err(format!("the handshake was {other:?} instead of {expected:?}")),
    }
    stream.shutdown().await.map_err(text)?;
    let mut buffer = [0; 1024];
    // Servers may close without a word of TLS.
    while let Ok(1..) = stream.read(&mut buffer).await {}
    Ok(())
}

/// Full handshakes over QUIC, until the client has the server's part; then it closes.
pub(super) async fn quic(plan: &Plan, window: &Window) -> Result<(), String> {
    let endpoint = endpoint(plan)?;
    while !window.is_over() {
        let begun = Instant::now();
        let connecting = endpoint.connect(plan.target, &plan.host).map_err(text)?;
        let connection = connecting.await.map_err(text)?;
        window.record(begun);
        connection.close(0_u32.into(), b"");
    }
    endpoint.wait_idle().await;
    Ok(())
}
