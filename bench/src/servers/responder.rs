//! A responder that does nothing but answer, to find the load generator's own ceiling.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use super::{Server, Site, free_port};
use crate::process::{Pinned, on_core};

/// The body of every answer.
pub(crate) const ANSWER: &[u8] = b"hello, world\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\nhello, world\n";

pub(super) fn start(site: &Site, state: tempfile::TempDir) -> Result<Server, String> {
    let address = free_port()?;
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = on_core(site.core, this);
    command.arg("responder").arg(address.to_string());
    Ok(Server::new(Pinned::start(command, state.path())?, address, "localhost", state))
}

/// Serves until the process is ended.
pub(crate) fn run(address: SocketAddr) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind(address).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::task::spawn_local(answer(stream));
        }
    })
}

/// Answers each request on one connection; a failed connection concerns nobody else.
async fn answer(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    let mut filled = 0;
    while let Ok(read @ 1..) = stream.read(&mut buffer[filled..]).await {
        filled += read;
        // The generator sends one request at a time, without a body.
        if buffer[..filled].ends_with(b"\r\n\r\n") {
            filled = 0;
            if stream.write_all(RESPONSE).await.is_err() {
                return;
            }
        }
    }
}
