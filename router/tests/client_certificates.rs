//! Client certificates: who is asked, what is made of the answer, and that no way leads around it.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use atoll_router::{
    Certificates, ClientMode, ClientPolicy, Security, ServeOptions, TicketKey, Tls, TlsMaterial,
    parse_pem,
};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use support::{Server, local, start, start_secured};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn issue(
    authority: &Authority,
    name: &str,
    change: impl FnOnce(&mut CertificateParams),
) -> (CertificateDer<'static>, KeyPair) {
    let mut params = CertificateParams::new(vec![name.to_owned(), format!("*.{name}")]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, authority).unwrap().into(), key)
}

/// A server for `*.test` names with these policies.
struct Setup {
    server: Server,
    tls: Arc<Tls>,
    root: CertificateDer<'static>,
}

fn tickets() -> Vec<TicketKey> {
    vec![TicketKey { from_s: 0, window_s: 100, name: [1; 16], secret: [2; 32] }]
}

fn material(servers: &Authority, clients: Vec<ClientPolicy>) -> TlsMaterial {
    let (leaf, key) = issue(servers, "test", |params| {
        for name in ["open.test", "api.test", "deep.api.test"] {
            params.subject_alt_names.push(rcgen::SanType::DnsName(name.try_into().unwrap()));
        }
    });
    let chain = pem("CERTIFICATE", &leaf);
    let place = std::path::Path::new("memory");
    let own = parse_pem(chain.as_bytes(), key.serialize_pem().as_bytes(), place, place).unwrap();
    let mut certificates = Certificates::default();
    certificates.add(own);
    TlsMaterial { certificates, clients, tickets: tickets(), ..TlsMaterial::default() }
}

fn pem(kind: &str, der: &[u8]) -> String {
    use std::fmt::Write as _;
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = format!("-----BEGIN {kind}-----\n");
    for chunk in der.chunks(3) {
        let bits =
            (0..3).fold(0_u32, |bits, at| bits << 8 | u32::from(*chunk.get(at).unwrap_or(&0)));
        for at in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * at)) as usize & 63] as char;
            text.push(if at > chunk.len() { '=' } else { letter });
        }
    }
    let _ = writeln!(text, "\n-----END {kind}-----");
    text
}

fn set_up(clients: Vec<ClientPolicy>) -> Setup {
    let servers = authority("servers");
    let root = CertificateDer::from(servers.der().to_vec());
    let tls = Arc::new(Tls::new(material(&servers, clients)).unwrap());
    Setup { server: start(ServeOptions::default(), Some(tls.clone())), tls, root }
}

fn policy(hosts: &[&str], mode: ClientMode, authority: &Authority) -> ClientPolicy {
    ClientPolicy {
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        mode,
        authorities: vec![CertificateDer::from(authority.der().to_vec())],
    }
}

fn connector(setup: &Setup, shown: Option<&(CertificateDer<'static>, KeyPair)>) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(setup.root.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match shown {
        None => builder.with_no_client_auth(),
        Some((leaf, key)) => {
            let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
            builder.with_client_auth_cert(vec![leaf.clone()], key).unwrap()
        }
    };
    TlsConnector::from(Arc::new(config))
}

/// Status and text of a GET, and whether the session was resumed.
async fn get(
    connector: &TlsConnector,
    server: &Server,
    sni: &str,
    host: &str,
    path: &str,
) -> std::io::Result<(u16, String, bool)> {
    let socket = TcpStream::connect(server.address).await?;
    let name = ServerName::try_from(sni.to_owned()).unwrap();
    let stream = connector.connect(name, socket).await?;
    let (mut client, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
    let connection = tokio::task::spawn_local(connection.without_shutdown());
    let request = Request::get(path).header("host", host).header("connection", "close");
    let response = client.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await;
    let (head, body) = response.map_err(std::io::Error::other)?.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let stream = connection.await?.map_err(std::io::Error::other)?.io.into_inner();
    let resumed = stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
    Ok((head.status.as_u16(), String::from_utf8_lossy(&body).into_owned(), resumed))
}

async fn seen(connector: &TlsConnector, server: &Server, host: &str) -> Value {
    let (status, text, _) = get(connector, server, host, host, "/client").await.unwrap();
    assert_eq!(status, 200);
    serde_json::from_str(&text).unwrap()
}

#[test]
fn an_optional_certificate_is_told_with_its_validity() {
    local(async {
        let (clients, others) = (authority("clients"), authority("others"));
        let setup = set_up(vec![policy(&["api.test"], ClientMode::Optional, &clients)]);
        let (none, good) = (connector(&setup, None), issue(&clients, "alice", |_| {}));
        let foreign = issue(&others, "mallory", |_| {});
        let old = issue(&clients, "bob", |params| {
            params.not_before = rcgen::date_time_ymd(2000, 1, 1);
            params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        });
        assert_eq!(seen(&none, &setup.server, "open.test").await, Value::Null);
        let check = async |connector: &TlsConnector, presented: &str, verified: &str| {
            let seen = seen(connector, &setup.server, "api.test").await;
            assert_eq!(
                (&seen["certPresented"], &seen["certVerified"]),
                (&presented.into(), &verified.into())
            );
            seen
        };
        check(&none, "0", "NONE").await;
        let alice = check(&connector(&setup, Some(&good)), "1", "SUCCESS").await;
        assert_eq!(alice["certSubjectDN"], "CN=alice");
        assert_eq!(alice["certIssuerDN"], "CN=clients");
        let unknown = "FAILED:unable to verify the first certificate";
        check(&connector(&setup, Some(&foreign)), "1", unknown).await;
        check(&connector(&setup, Some(&old)), "1", "FAILED:certificate has expired").await;
    });
}

#[test]
fn a_required_certificate_cannot_be_gone_around() {
    local(async {
        let (clients, others) = (authority("clients"), authority("others"));
        let required = policy(&["api.test", "*.api.test"], ClientMode::Required, &clients);
        let setup = set_up(vec![required]);
        let good = connector(&setup, Some(&issue(&clients, "alice", |_| {})));
        let foreign = connector(&setup, Some(&issue(&others, "mallory", |_| {})));
        let none = connector(&setup, None);
        let status = async |connector: &TlsConnector, sni: &str, host: &str| {
            get(connector, &setup.server, sni, host, "/").await.ok().map(|(status, ..)| status)
        };
        for host in ["api.test", "API.test", "deep.api.test"] {
            assert_eq!(status(&good, host, host).await, Some(200), "{host}");
            assert_eq!(status(&none, host, host).await, None, "{host}");
            assert_eq!(status(&foreign, host, host).await, None, "{host}");
        }
        assert_eq!(status(&none, "open.test", "open.test").await, Some(200));
        // Another name in the handshake than in the request.
        for host in ["api.test", "API.TEST:443", "api.test.", "deep.api.test"] {
            assert_eq!(status(&none, "open.test", host).await, Some(421), "{host}");
        }
        assert_eq!(status(&good, "api.test", "open.test").await, Some(421));
    });
}

#[test]
fn a_session_is_not_resumed_into_another_policy() {
    local(async {
        let clients = authority("clients");
        let servers = authority("servers");
        let optional = policy(&["api.test"], ClientMode::Optional, &clients);
        let required = policy(&["api.test"], ClientMode::Required, &clients);
        let mut setup = set_up(vec![]);
        setup.root = CertificateDer::from(servers.der().to_vec());
        setup.tls.replace(material(&servers, vec![optional.clone()])).unwrap();
        let none = connector(&setup, None);
        let mut resumed = Vec::new();
        for _ in 0..2 {
            let got = get(&none, &setup.server, "api.test", "api.test", "/").await.unwrap();
            resumed.push(got.2);
        }
        assert_eq!(resumed, [false, true]);
        setup.tls.replace(material(&servers, vec![required])).unwrap();
        assert!(get(&none, &setup.server, "api.test", "api.test", "/").await.is_err());
    });
}

#[test]
fn plain_http_does_not_lead_to_a_host_that_wants_a_certificate() {
    local(async {
        let clients = authority("clients");
        let servers = authority("servers");
        let policies = vec![
            policy(&["api.test"], ClientMode::Required, &clients),
            policy(&["maybe.test"], ClientMode::Optional, &clients),
        ];
        let tls = Arc::new(Tls::new(material(&servers, policies)).unwrap());
        let server = start_secured(ServeOptions::default(), Security::Plain(Some(tls)));
        for (host, expected) in [("open.test", 200), ("api.test", 403), ("maybe.test", 200)] {
            let socket = TokioIo::new(TcpStream::connect(server.address).await.unwrap());
            let (mut client, connection) = http1::handshake(socket).await.unwrap();
            tokio::task::spawn_local(connection);
            let request = Request::get("/").header("host", host).body(Empty::<Bytes>::new());
            let response = client.send_request(request.unwrap()).await.unwrap();
            assert_eq!(response.status().as_u16(), expected, "{host}");
        }
    });
}
