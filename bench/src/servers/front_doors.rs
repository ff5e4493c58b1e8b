//! Servers that end TLS: a node, and nginx and Caddy as Debian packages them, all with the same certificate and the
//! same page, on the same core.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde::Serialize;
use serde_json::json;

use super::atoll::{Node, api};
use super::{READY_POLL, READY_WITHIN, Site, free_port};
use crate::process::{Pinned, on_core};

/// The worker behind the node; its host is the certificate's.
const WORKER: &str = "tls";
const HOST: &str = "tls.demo.localhost";

/// A kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Door {
    Atoll,
    Nginx,
    Caddy,
}

impl Door {
    pub(crate) const ALL: [Self; 3] = [Self::Atoll, Self::Nginx, Self::Caddy];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Atoll => "atoll",
            Self::Nginx => "nginx",
            Self::Caddy => "caddy",
        }
    }

    fn program(self) -> &'static str {
        // Debian keeps it where the PATH of most users does not lead.
        const NGINX: &str = "/usr/sbin/nginx";
        match self {
            Self::Nginx if Path::new(NGINX).exists() => NGINX,
            other => other.name(),
        }
    }

    /// What it calls its version, or how to get it.
    pub(crate) fn version(self) -> Result<String, String> {
        let argument = match self {
            Self::Atoll => return Ok("this commit".to_owned()),
            Self::Nginx => "-v",
            Self::Caddy => "version",
        };
        let output = Command::new(self.program()).arg(argument).output();
        let output = output.map_err(|error| {
            format!("there is no {0} ({error}); `apt-get install {0}` brings it", self.name())
        })?;
        // nginx says "nginx version: nginx/1.22.1", on standard error; Caddy "2.6.2" or "v2.6.2 h1:…".
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let version = text.split_once("nginx/").map_or(&*text, |(_, version)| version);
        Ok(version.split_whitespace().next().unwrap_or("of an unknown version").to_owned())
    }
}

/// The certificate and key that all servers have, in files.
pub(crate) struct Identity {
    pub(crate) host: &'static str,
    /// The certificate in DER: what clients expect.
    pub(crate) der: Vec<u8>,
    certificate: PathBuf,
    key: PathBuf,
    _directory: tempfile::TempDir,
}

impl Identity {
    /// Makes a certificate of its own with an ECDSA key on P-256.
    pub(crate) fn make() -> Result<Self, String> {
        let failed = |error: &dyn std::fmt::Display| format!("cannot make a certificate: {error}");
        let made = rcgen::generate_simple_self_signed([HOST.to_owned()])
            .map_err(|error| failed(&error))?;
        let directory = tempfile::tempdir().map_err(|error| failed(&error))?;
        let path = |name: &str| directory.path().join(name);
        let (certificate, key) = (path("certificate.pem"), path("key.pem"));
        std::fs::write(&certificate, made.cert.pem()).map_err(|error| failed(&error))?;
        std::fs::write(&key, made.signing_key.serialize_pem()).map_err(|error| failed(&error))?;
        let der = made.cert.der().to_vec();
        Ok(Self { host: HOST, der, certificate, key, _directory: directory })
    }
}

/// The page that every server answers with.
pub(crate) struct Page(String);

impl Page {
    /// Lines of words, of so many bytes.
    pub(crate) fn of(bytes: usize) -> Self {
        let line = "the same words for everybody, ";
        Self(line.chars().cycle().take(bytes).collect())
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.len() as u64
    }
}

/// A running server; ended when dropped.
pub(crate) struct FrontDoor {
    process: Pinned,
    /// Over TCP and, where it speaks HTTP/3, over UDP.
    pub(crate) address: SocketAddr,
    // Removed after the process has ended: fields are dropped in order.
    _state: tempfile::TempDir,
}

impl FrontDoor {
    /// Starts a server and waits until it takes connections.
    pub(crate) fn start(
        site: &Site,
        door: Door,
        identity: &Identity,
        page: &Page,
    ) -> Result<Self, String> {
        let state = tempfile::tempdir().map_err(|error| error.to_string())?;
        let (process, address) = match door {
            Door::Atoll => atoll(site, state.path(), identity, page),
            Door::Nginx => nginx(site, state.path(), identity, page),
            Door::Caddy => caddy(site, state.path(), identity, page),
        }
        .map_err(|error| format!("{}: {error}", door.name()))?;
        let mut started = Self { process, address, _state: state };
        started.await_ready().map_err(|error| format!("{}: {error}", door.name()))?;
        Ok(started)
    }

    /// Its process, the root of its tree.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    fn await_ready(&mut self) -> Result<(), String> {
        let give_up = Instant::now() + READY_WITHIN;
        while std::net::TcpStream::connect(self.address).is_err() {
            self.process.check_alive()?;
            if Instant::now() > give_up {
                let tail = self.process.tail();
                return Err(format!("no connection within {READY_WITHIN:?}:\n{tail}"));
            }
            std::thread::sleep(READY_POLL);
        }
        Ok(())
    }
}

/// A node with a worker that answers with the page.
fn atoll(
    site: &Site,
    directory: &Path,
    identity: &Identity,
    page: &Page,
) -> Result<(Pinned, SocketAddr), String> {
    let Identity { certificate, key, .. } = identity;
    let config = format!("[tls]\ncertificates = [{{ cert = {certificate:?}, key = {key:?} }}]\n");
    let node = Node::start(site, directory, &config)?;
    let source = format!(
        "const page = {:?}; export default {{ fetch: () => new Response(page, {{ headers: {{ 'content-type': 'text/plain' }} }}) }};",
        page.0
    );
    api(node.admin, directory)?.upload(WORKER, &source, json!([]))?;
    Ok((node.process, node.https))
}

fn nginx(
    site: &Site,
    directory: &Path,
    identity: &Identity,
    page: &Page,
) -> Result<(Pinned, SocketAddr), String> {
    let address = free_port()?;
    let file = directory.join("nginx.conf");
    let config = nginx_config(address, directory, identity, page);
    std::fs::write(&file, config).map_err(|error| error.to_string())?;
    let mut command = on_core(site.core, Door::Nginx.program());
    command.arg("-p").arg(directory).arg("-c").arg(&file).args(["-e", "stderr"]);
    Ok((Pinned::start(command, directory)?, address))
}

/// One process that works; the limits that would cut connections in a run are lifted.
fn nginx_config(address: SocketAddr, directory: &Path, identity: &Identity, page: &Page) -> String {
    let Identity { host, certificate, key, .. } = identity;
    let kept = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {};", directory.join(kind).display()));
    format!(
        "daemon off; master_process off; worker_processes 1; pid {pid};
events {{ worker_connections 4096; }}
http {{
  access_log off; default_type text/plain;
  keepalive_requests 1000000000; keepalive_time 1d;
  {kept}
  server {{
    listen {address} ssl http2 backlog=4096;
    server_name {host};
    ssl_certificate {certificate}; ssl_certificate_key {key};
    ssl_protocols TLSv1.3; ssl_session_tickets on;
    location / {{ return 200 \"{page}\"; }}
  }}
}}
",
        pid = directory.join("nginx.pid").display(),
        kept = kept.join(" "),
        certificate = certificate.display(),
        key = key.display(),
        page = page.0,
    )
}

fn caddy(
    site: &Site,
    directory: &Path,
    identity: &Identity,
    page: &Page,
) -> Result<(Pinned, SocketAddr), String> {
    let address = free_port()?;
    let file = directory.join("caddy.json");
    let config = caddy_config(address, identity, page).to_string();
    std::fs::write(&file, config).map_err(|error| error.to_string())?;
    let mut command = on_core(site.core, Door::Caddy.program());
    command.arg("run").arg("--config").arg(&file);
    // One thread that runs Go's code, for one core; what it keeps goes away with the directory.
    command.env("GOMAXPROCS", "1");
    for variable in ["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"] {
        command.env(variable, directory);
    }
    Ok((Pinned::start(command, directory)?, address))
}

fn caddy_config(address: SocketAddr, identity: &Identity, page: &Page) -> serde_json::Value {
    let answer = json!({
        "handler": "static_response",
        "status_code": "200",
        "headers": { "Content-Type": ["text/plain"] },
        "body": page.0,
    });
    json!({
        "admin": { "disabled": true, "config": { "persist": false } },
        "logging": { "logs": { "default": { "level": "WARN" } } },
        "apps": {
            "http": { "servers": { "bench": {
                "listen": [address.to_string()],
                "protocols": ["h1", "h2", "h3"],
                "automatic_https": { "disable": true },
                "tls_connection_policies": [{ "protocol_min": "tls1.3" }],
                "routes": [{ "handle": [answer] }],
            } } },
            "tls": { "certificates": { "load_files": [
                { "certificate": identity.certificate, "key": identity.key },
            ] } },
        },
    })
}
