//! A node of one thread with the question's handler deployed through the REST API, as a user's
//! worker would be.

use std::net::SocketAddr;
use std::time::Instant;

use serde_json::json;

use super::{READY_POLL, READY_WITHIN, Server, Site, require};
use crate::api::Api;
use crate::process::{Pinned, on_core};
use crate::questions::Question;

const WORKER: &str = "bench";
const HOST: &str = "bench.demo.localhost";

pub(super) fn start(
    site: &Site,
    question: &Question,
    state: tempfile::TempDir,
) -> Result<Server, String> {
    require(&site.atoll, "cargo build --release")?;
    let data = state.path().join("data");
    let mut command = on_core(site.core, &site.atoll);
    command.arg("serve").arg("--data").arg(&data);
    for listener in ["--http", "--https", "--admin"] {
        command.args([listener, "127.0.0.1:0"]);
    }
    command.args(["--domain", "localhost", "--threads", "1"]);
    let mut process = Pinned::start(command, state.path())?;
    let (http, admin) = addresses(&mut process)?;

    let token = std::fs::read_to_string(data.join("root.token"))
        .map_err(|error| format!("no token: {error}"))?;
    let api = Api::connect(admin, token.trim().to_owned())?;
    let bindings = match question.kv_pair {
        Some((key, value)) => {
            let id = api.namespace_with(key, value)?;
            json!([{ "type": "kv_namespace", "name": "KV", "namespace_id": id }])
        }
        None => json!([]),
    };
    let source = std::fs::read_to_string(site.handler(question))
        .map_err(|error| format!("no handler: {error}"))?;
    api.upload(WORKER, &source, bindings)?;
    Ok(Server::new(process, http, HOST, state))
}

/// Waits for the line that names the listeners' addresses.
fn addresses(process: &mut Pinned) -> Result<(SocketAddr, SocketAddr), String> {
    let give_up = Instant::now() + READY_WITHIN;
    while Instant::now() < give_up {
        let output = process.output();
        if let Some((http, admin)) = output.lines().find_map(listening) {
            return Ok((http, admin));
        }
        process.check_alive()?;
        std::thread::sleep(READY_POLL);
    }
    Err(format!("it named no addresses within {READY_WITHIN:?}:\n{}", process.tail()))
}

fn listening(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let (_, fields) = line.split_once("listening ")?;
    let field = |name: &str| {
        let value = fields.split_whitespace().find_map(|field| field.strip_prefix(name))?;
        value.parse().ok()
    };
    Some((field("http=")?, field("admin=")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listening_line_is_read_wherever_it_stands() {
        let line = "INFO listening http=127.0.0.1:80 https=127.0.0.1:443 admin=127.0.0.1:99";
        let expected = ("127.0.0.1:80".parse().unwrap(), "127.0.0.1:99".parse().unwrap());
        assert_eq!(listening(line), Some(expected));
        assert_eq!(listening("listening http=somewhere"), None);
    }
}
