//! What hostile workers may reach: an origin that misbehaves, a KV namespace, and the node itself.

use std::net::{IpAddr, Ipv4Addr};

use atoll_tests::{Answer, Node, Origin, Script};
use bytes::Bytes;
use serde_json::json;

/// What a compressed body of the origin grows to: 256 MiB of zeros out of 1.7 MB.
const BOMB_BYTES: usize = 256 << 20;
/// The longest match of deflate (RFC 1951, 3.2.5).
const MATCH_BYTES: usize = 258;

/// What stands behind the bindings of every case.
pub(crate) struct World {
    origin: Origin,
    namespace: String,
    port: u16,
}

impl World {
    pub(crate) async fn new(node: &Node) -> Self {
        let bomb = bomb();
        let origin = Origin::routing(IpAddr::V4(Ipv4Addr::LOCALHOST), move |path| {
            match path.trim_start_matches('/') {
                "bomb" => whole("content-encoding: gzip\r\n", &bomb),
                "bomb.gz" => whole("", &bomb),
                "loop" => redirect("/loop"),
                "longer" => redirect(&format!("/longer{}", "x".repeat(4_000))),
                "silence" => Answer::Silence,
                "endless" => {
                    let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
                    Answer::Endless(head, Bytes::from(vec![b'x'; 64 << 10]))
                }
                "headers" => {
                    let head = "HTTP/1.1 200 OK\r\n";
                    Answer::Endless(head, Bytes::from("x-more: of the same\r\n"))
                }
                _ => whole("", b"fine"),
            }
        })
        .await;
        let namespace = node.api().create_namespace("hostile").await;
        Self { origin, namespace, port: node.addresses().http.port() }
    }

    /// Gives a script the bindings, under the name that it is deployed by.
    pub(crate) fn bind(&self, script: Script, worker: &str) -> Script {
        let own = format!("http://{worker}.demo.localhost:{}/", self.port);
        script
            .bind_kv("KV", &self.namespace)
            .bind_text("ORIGIN", &self.origin.url())
            .bind_text("OWN", &own)
            .bind(json!({ "type": "service", "name": "SELF", "service": worker }))
    }
}

fn whole(header: &str, body: &[u8]) -> Answer {
    let head = format!(
        "HTTP/1.1 200 OK\r\n{header}connection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    Answer::Whole([head.as_bytes(), body].concat().into())
}

fn redirect(location: &str) -> Answer {
    let head = format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
    Answer::Whole(head.into())
}

/// A gzip file of zeros without its end: one literal, then the same match again and again, in the
/// fixed codes of RFC 1951, 3.2.6.
fn bomb() -> Bytes {
    let mut file = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let (mut bits, mut held) = (0_u32, 0);
    // A block that is the last, in fixed codes, and the literal 0: 1, 01, 00110000, as they stand in the file.
    let literal = [(0b011, 3), (0b0000_1100, 8)];
    // A length of 258 bytes (11000101), at a distance of one (00000).
    let matched = [(0b1010_0011, 8), (0, 5)];
    let matches = std::iter::repeat_n(matched, BOMB_BYTES / MATCH_BYTES).flatten();
    for (code, length) in literal.into_iter().chain(matches) {
        bits |= code << held;
        held += length;
        while held >= 8 {
            file.push(bits as u8);
            bits >>= 8;
            held -= 8;
        }
    }
    file.push(bits as u8);
    file.into()
}
