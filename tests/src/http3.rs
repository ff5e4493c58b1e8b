//! The client's HTTP/3: a connection for every request, by quinn and h3.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint};

use crate::Failure;
use crate::client::{Reply, Request, trusting_config};

/// Sends a request and reads its whole answer.
pub(crate) async fn exchange(request: Request) -> Result<Reply, Failure> {
    let mut endpoint = Endpoint::client(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))?;
    let mut tls = trusting_config()?.with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    endpoint
        .set_default_client_config(ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?)));
    let connection = endpoint.connect(request.addresses.https, &request.host)?.await?;
    let (mut driver, mut sender) = h3::client::new(h3_quinn::Connection::new(connection)).await?;
    let driving = tokio::spawn(async move { driver.wait_idle().await });
    let uri = format!("https://{}{}", request.host, request.path);
    let stream = sender.send_request(request.head(&uri).body(())?).await?;
    let (mut send, mut receive) = stream.split();
    // A server that answers while it reads wants to be read meanwhile.
    let sending = async {
        if !request.body.is_empty() {
            send.send_data(request.body).await?;
        }
        send.finish().await
    };
    let receiving = async {
        let (head, ()) = receive.recv_response().await?.into_parts();
        let mut body = BytesMut::new();
        while let Some(mut part) = receive.recv_data().await? {
            body.extend_from_slice(&part.copy_to_bytes(part.remaining()));
        }
        Ok::<_, h3::error::StreamError>((head, body.freeze()))
    };
    // A server may answer without having read everything.
    let (_, received) = tokio::join!(sending, receiving);
    let (head, body) = received?;
    driving.abort();
    Ok(Reply { status: head.status, version: head.version, headers: head.headers, body })
}
