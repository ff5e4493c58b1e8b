//! The load generator of front doors: clients on one thread that each do the next when the last is done.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;

use super::client::{Client, text};
use super::plan::{Plan, Work};
use super::{h2, h3, handshakes};
use crate::load::{self, Turns};
use crate::window::{Measurement, Window};

/// A client that fails this often gives up: the server is gone.
const FAILURES_MAX: usize = 100;
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(10);

/// Makes the load, on the calling thread, and measures it.
pub(crate) fn run(plan: Plan) -> std::io::Result<Measurement> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (window, plan) = (Window::begin(plan.span), Arc::new(plan));
        let client = |_| tokio::spawn(client(plan.clone(), window.clone()));
        let (connections, _) = plan.work.shape();
        window.watch((0..connections).map(client).collect()).await
    })
}

/// Keeps at it, and begins anew when something fails.
async fn client(plan: Arc<Plan>, window: Arc<Window>) {
    for _ in 0..FAILURES_MAX {
        match work(&plan, &window).await {
            Ok(()) => return,
            Err(error) => window.error(error),
        }
        if window.is_over() {
            return;
        }
        tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
    }
}

/// Works until the window is over.
async fn work(plan: &Arc<Plan>, window: &Arc<Window>) -> Result<(), String> {
    match plan.work {
        Work::Full => handshakes::full(plan, window).await,
        Work::Resumed => handshakes::resumed(plan, window).await,
        Work::Quic => handshakes::quic(plan, window).await,
        Work::Http1 => {
            let stream = Client::new(plan, Resumption::disabled())?.connect().await?;
            let turns = Turns::new(std::slice::from_ref(&plan.host), 0);
            load::ask(stream, &turns, plan.body_bytes, window, &mut 0).await.map_err(text)
        }
        Work::Http2 => {
            let stream = Client::new(plan, Resumption::disabled())?.connect().await?;
            h2::ask(stream, plan, window).await
        }
        Work::Http3 => h3::ask(plan, window).await,
    }
}
