//! Requests by HTTP/3, with quinn and h3.

use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf, Bytes};
use h3::client::SendRequest;
use http::Request;
use tokio::task::JoinSet;

use super::client::{endpoint, text};
use super::plan::Plan;
use crate::load::check;
use crate::window::Window;

type Sender = SendRequest<h3_quinn::OpenStreams, Bytes>;

/// Keeps the streams of one connection busy.
pub(super) async fn ask(plan: &Arc<Plan>, window: &Arc<Window>) -> Result<(), String> {
    let endpoint = endpoint(plan)?;
    let connecting = endpoint.connect(plan.target, &plan.host).map_err(text)?;
    let connection = h3_quinn::Connection::new(connecting.await.map_err(text)?);
    let mut builder = h3::client::builder();
    let (mut driver, sender) = builder.send_grease(false).build(connection).await.map_err(text)?;
    let driving = tokio::spawn(async move { driver.wait_idle().await });
    let mut streams = JoinSet::new();
    for _ in 0..plan.work.shape().1 {
        streams.spawn(requests(sender.clone(), plan.clone(), window.clone()));
    }
    let mut result = Ok(());
    while let (Ok(()), Some(ended)) = (&result, streams.join_next().await) {
        result = ended.map_err(text).flatten();
    }
    driving.abort();
    result
}

/// One request after the other.
async fn requests(mut sender: Sender, plan: Arc<Plan>, window: Arc<Window>) -> Result<(), String> {
    let request = Request::get(format!("https://{}/", plan.host)).body(()).map_err(text)?;
    while !window.is_over() {
        let begun = Instant::now();
        let mut stream = sender.send_request(request.clone()).await.map_err(text)?;
        stream.finish().await.map_err(text)?;
        let status = stream.recv_response().await.map_err(text)?.status();
        let mut bytes = 0;
        while let Some(part) = stream.recv_data().await.map_err(text)? {
            bytes += part.remaining() as u64;
        }
        check(status.as_u16(), bytes, plan.body_bytes)?;
        window.record(begun);
    }
    Ok(())
}
