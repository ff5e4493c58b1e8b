//! A real ACME authority under test: Let's Encrypt's `pebble`, with its DNS server, from Debian's package. What it
//! asks goes through doors whose ends the test chooses.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::binary::profile_dir;
use crate::captured::Captured;
use crate::clock::eventually;
use crate::ports::free_port;
use crate::tls::Authority;

/// A program of the package.
const PROGRAM: &str = "pebble";
/// The one that answers it as DNS: every name is at loopback.
const DNS_PROGRAM: &str = "pebble-challtestsrv";

/// A running authority.
pub struct AcmeServer {
    pebble: Captured,
    _dns: Captured,
    /// Where http-01 is asked.
    pub http: Door,
    /// Where tls-alpn-01 is asked.
    pub tls: Door,
    options: AcmeOptions,
    port: u16,
    dns: u16,
    roots: Authority,
    programs: PathBuf,
    dir: TempDir,
}

/// How an authority issues.
#[derive(Clone, Copy, Debug)]
pub struct AcmeOptions {
    /// How long certificates are valid, in seconds.
    pub life_s: u64,
}

/// A port that leads to wherever the test says.
pub struct Door {
    port: u16,
    target: Arc<Mutex<Option<SocketAddr>>>,
    accepting: JoinHandle<()>,
}

impl Door {
    async fn open() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port is free");
        let port = listener.local_addr().expect("a listener has an address").port();
        let target = Arc::<Mutex<Option<SocketAddr>>>::default();
        let accepting = tokio::spawn(accept(listener, target.clone()));
        Self { port, target, accepting }
    }

    /// Leads there from now on.
    pub fn lead_to(&self, address: SocketAddr) {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, target: Arc<Mutex<Option<SocketAddr>>>) {
    while let Ok((mut near, _)) = listener.accept().await {
        let target = *target.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(target) = target else { continue };
        tokio::spawn(async move {
            // A connection that fails is the authority's to notice.
            if let Ok(mut far) = TcpStream::connect(target).await {
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            }
        });
    }
}

impl AcmeServer {
    /// Starts an authority; none where its programs cannot be had, which is said.
    ///
    /// # Panics
    /// Panics when it does not start.
    pub async fn start(options: AcmeOptions) -> Option<Self> {
        let programs = match programs() {
            Ok(programs) => programs,
            Err(why) => {
                eprintln!("skipped: no ACME server (Debian's package pebble): {why}");
                return None;
            }
        };
        let (http, tls) = (Door::open().await, Door::open().await);
        let (port, dns) = (free_port().port(), free_port().port());
        let mut command = Command::new(programs.join(DNS_PROGRAM));
        command.args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""]);
        command.arg("-dns01").arg(format!("127.0.0.1:{dns}"));
        command.arg("-management").arg(format!("127.0.0.1:{}", free_port().port()));
        let dns_server = Captured::spawn(&mut command);
        let roots = Authority::new("of the ACME server itself");
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let config = config(&roots, options, [port, free_port().port(), http.port, tls.port]);
        std::fs::write(dir.path().join("pebble.json"), config).expect("it is writable");
        let pebble = spawn(&programs, dir.path(), dns);
        let server =
            Self { pebble, _dns: dns_server, http, tls, options, port, dns, roots, programs, dir };
        server.listens().await;
        Some(server)
    }

    /// The lines of a node's configuration that lead here, without names.
    pub fn config(&self) -> String {
        let (port, ca) = (self.port, self.roots.path());
        format!(
            "[tls.acme]\ndirectory = \"https://localhost:{port}/dir\"\nterms_accepted = true\nca = {ca:?}\n"
        )
    }

    /// How it issues.
    pub fn options(&self) -> AcmeOptions {
        self.options
    }

    /// Ends it as a crash does: it forgets its accounts.
    pub fn kill(&mut self) {
        self.pebble.kill();
    }

    /// Starts it again where it was, knowing nobody.
    pub async fn start_again(&mut self) {
        self.pebble = spawn(&self.programs, self.dir.path(), self.dns);
        self.listens().await;
    }

    async fn listens(&self) {
        eventually("the ACME server listens", async || {
            TcpStream::connect(("127.0.0.1", self.port)).await.ok()
        })
        .await;
    }
}

fn spawn(programs: &Path, dir: &Path, dns: u16) -> Captured {
    let mut command = Command::new(programs.join(PROGRAM));
    command.arg("-config").arg(dir.join("pebble.json"));
    command.arg("-strict").arg("-dnsserver").arg(format!("127.0.0.1:{dns}"));
    // It refuses nonces now and then, as the real one does.
    command.env("PEBBLE_WFE_NONCEREJECT", "5").env("PEBBLE_VA_NOSLEEP", "1");
    command.env("PEBBLE_AUTHZREUSE", "0");
    Captured::spawn(&mut command)
}

fn config(roots: &Authority, options: AcmeOptions, ports: [u16; 4]) -> String {
    let own = roots.issue(&["localhost"]);
    let [port, management, http, tls] = ports;
    let config = json!({
        "listenAddress": format!("127.0.0.1:{port}"),
        "managementListenAddress": format!("127.0.0.1:{management}"),
        "certificate": own.cert_path,
        "privateKey": own.key_path,
        "httpPort": http,
        "tlsPort": tls,
        "ocspResponderURL": "",
        "externalAccountBindingRequired": false,
        "certificateValidityPeriod": options.life_s,
    });
    json!({ "pebble": config }).to_string()
}

/// Where the programs are: on the path, or taken out of Debian's package, which needs no privilege.
fn programs() -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has = |dir: &PathBuf| dir.join(PROGRAM).is_file() && dir.join(DNS_PROGRAM).is_file();
    if let Some(dir) = std::env::split_paths(&path).find(has) {
        return Ok(dir);
    }
    let target = profile_dir().join("pebble");
    let unpacked = target.join("usr/bin");
    std::fs::create_dir_all(&target).map_err(|error| error.to_string())?;
    let lock = std::fs::File::create(target.join("lock")).map_err(|error| error.to_string())?;
    lock.lock().map_err(|error| error.to_string())?;
    if !has(&unpacked) {
        run(Command::new("apt-get").args(["download", PROGRAM]).current_dir(&target))?;
        let unpack = "dpkg-deb -x pebble_*.deb .";
        run(Command::new("sh").args(["-c", unpack]).current_dir(&target))?;
    }
    match has(&unpacked) {
        true => Ok(unpacked),
        false => Err("the package holds other programs".to_owned()),
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}
