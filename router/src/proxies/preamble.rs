//! The PROXY protocol, versions 1 and 2: what a load balancer says of a client before the client's first byte.
//!
//! Whoever is configured to say it must, and nobody else may: for everyone else it is a request that is not
//! HTTP, or no TLS. Only addresses are used; whatever else comes along (TLVs) is passed over.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use ppp::{v1, v2};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Proxies;
use crate::connections::Orders;

/// The time for a whole preamble.
pub const PREAMBLE_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest preamble of version 2. It is longer than addresses need because load balancers add what we pass
/// over.
pub const PREAMBLE_BYTES_MAX: usize = 4096;

/// The longest line of version 1, its end included.
const LINE_BYTES_MAX: usize = 107;
/// What tells the versions apart; every preamble is longer.
const SIGNATURE_BYTES: usize = 12;
const SIGNATURE: &[u8; SIGNATURE_BYTES] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version, family and length of version 2.
const HEAD_BYTES: usize = 16;
/// The version and the command LOCAL: the load balancer speaks for itself.
const LOCAL: u8 = 0x20;

/// A connection did not begin as the PROXY protocol wants it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PreambleError {
    #[error(
        "it does not begin with a preamble of the PROXY protocol, which proxies.preamble asks of its network"
    )]
    Missing,
    #[error("its PROXY protocol preamble did not come within {} s", PREAMBLE_TIMEOUT.as_secs())]
    Late,
    #[error("its PROXY protocol preamble has more than {0} bytes")]
    TooLong(usize),
    #[error("its PROXY protocol preamble is malformed: {0}")]
    Line(#[from] v1::BinaryParseError),
    #[error("its PROXY protocol preamble is malformed: {0}")]
    Binary(#[from] v2::ParseError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The client of a connection: who the preamble says it is, where there has to be one. `None` when the
/// connection is not wanted any more.
pub(crate) async fn introduce(
    socket: &mut TcpStream,
    peer: SocketAddr,
    proxies: &Proxies,
    orders: &Orders,
) -> Result<Option<SocketAddr>, PreambleError> {
    if !proxies.introduces(peer.ip()) {
        return Ok(Some(peer));
    }
    tokio::select! {
        read = timeout(PREAMBLE_TIMEOUT, read(socket)) => {
            let client = read.map_err(|_| PreambleError::Late)??;
            Ok(Some(client.unwrap_or(peer)))
        }
        () = orders.given_up() => Ok(None),
    }
}

/// Reads the preamble and no byte more. It may leave open who the client is.
async fn read(socket: &mut TcpStream) -> Result<Option<SocketAddr>, PreambleError> {
    let mut bytes = vec![0; SIGNATURE_BYTES];
    socket.read_exact(&mut bytes).await?;
    if bytes == SIGNATURE {
        read_binary(socket, bytes).await
    } else if bytes.starts_with(b"PROXY ") {
        read_line(socket, bytes).await
    } else {
        Err(PreambleError::Missing)
    }
}

async fn read_binary(
    socket: &mut TcpStream,
    mut bytes: Vec<u8>,
) -> Result<Option<SocketAddr>, PreambleError> {
    bytes.resize(HEAD_BYTES, 0);
    socket.read_exact(&mut bytes[SIGNATURE_BYTES..]).await?;
    let whole = HEAD_BYTES + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if whole > PREAMBLE_BYTES_MAX {
        return Err(PreambleError::TooLong(PREAMBLE_BYTES_MAX));
    }
    bytes.resize(whole, 0);
    socket.read_exact(&mut bytes[HEAD_BYTES..]).await?;
    client_of_binary(&bytes)
}

/// The client in a preamble of version 2.
fn client_of_binary(bytes: &[u8]) -> Result<Option<SocketAddr>, PreambleError> {
    // Whatever else stands in it does not count.
    if bytes.get(SIGNATURE_BYTES) == Some(&LOCAL) {
        return Ok(None);
    }
    let header = v2::Header::try_from(bytes)?;
    Ok(match header.addresses {
        v2::Addresses::IPv4(ip) => Some((ip.source_address, ip.source_port).into()),
        v2::Addresses::IPv6(ip) => Some((ip.source_address, ip.source_port).into()),
        v2::Addresses::Unix(_) | v2::Addresses::Unspecified => None,
    })
}

async fn read_line(
    socket: &mut TcpStream,
    mut bytes: Vec<u8>,
) -> Result<Option<SocketAddr>, PreambleError> {
    while !bytes.ends_with(b"\n") {
        let mut next = [0; LINE_BYTES_MAX];
        let room = LINE_BYTES_MAX - bytes.len();
        if room == 0 {
            return Err(PreambleError::TooLong(LINE_BYTES_MAX));
        }
        // What is behind the line's end belongs to the client.
        let peeked = socket.peek(&mut next[..room]).await?;
        let end = next[..peeked].iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(peeked, |at| at + 1);
        if taken == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        socket.read_exact(&mut next[..taken]).await?;
        bytes.extend_from_slice(&next[..taken]);
    }
    client_of_line(&bytes)
}

/// The client in a line of version 1.
fn client_of_line(bytes: &[u8]) -> Result<Option<SocketAddr>, PreambleError> {
    Ok(match v1::Header::try_from(bytes)?.addresses {
        v1::Addresses::Tcp4(ip) => Some((ip.source_address, ip.source_port).into()),
        v1::Addresses::Tcp6(ip) => Some((ip.source_address, ip.source_port).into()),
        v1::Addresses::Unknown => None,
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    /// A preamble of version 2.
    fn binary(version_command: u8, family_protocol: u8, addresses: &[u8], more: &[u8]) -> Vec<u8> {
        let length = u16::try_from(addresses.len() + more.len()).unwrap().to_be_bytes();
        let head = [&SIGNATURE[..], &[version_command, family_protocol], &length];
        [head.concat().as_slice(), addresses, more].concat()
    }

    /// What is read of these bytes, sent in parts of so many, and what is left for the client's protocol.
    async fn read_of(bytes: &[u8], part: usize) -> (Result<Option<SocketAddr>, String>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        sender.set_nodelay(true).unwrap();
        let (mut socket, _) = listener.accept().await.unwrap();
        let sent = bytes.to_vec();
        let sending = tokio::spawn(async move {
            for part in sent.chunks(part) {
                // The other end may have seen enough.
                let _ = sender.write_all(part).await;
                tokio::task::yield_now().await;
            }
        });
        let read = read(&mut socket).await.map_err(|error| error.to_string());
        sending.await.unwrap();
        let mut left = Vec::new();
        let _ = socket.read_to_end(&mut left).await;
        (read, left)
    }

    #[tokio::test]
    async fn both_versions_name_the_client_and_leave_the_rest() {
        let v4 = [192, 0, 2, 7, 10, 0, 0, 1, 0x10, 0, 0, 80];
        let mut v6 = [0; 36];
        v6[..16].copy_from_slice(&"2001:db8::7".parse::<std::net::Ipv6Addr>().unwrap().octets());
        v6[32..34].copy_from_slice(&4096_u16.to_be_bytes());
        let tlvs = [0x04, 0, 1, 0, 0xEA, 0, 3, 1, 2, 3];
        let line = |text: &str| text.as_bytes().to_vec();
        for (preamble, expected) in [
            (line("PROXY TCP4 192.0.2.7 10.0.0.1 4096 80\r\n"), Some("192.0.2.7:4096")),
            (line("PROXY TCP6 2001:db8::7 ::1 4096 80\r\n"), Some("[2001:db8::7]:4096")),
            (line("PROXY UNKNOWN\r\n"), None),
            (line("PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n"), None),
            (binary(0x21, 0x11, &v4, &[]), Some("192.0.2.7:4096")),
            (binary(0x21, 0x11, &v4, &tlvs), Some("192.0.2.7:4096")),
            (binary(0x21, 0x11, &v4, &[0; 4000]), Some("192.0.2.7:4096")),
            (binary(0x21, 0x21, &v6, &tlvs), Some("[2001:db8::7]:4096")),
            (binary(0x21, 0x31, &[1; 216], &[]), None),
            (binary(0x21, 0x00, &[], &[]), None),
            (binary(0x21, 0x00, &[9; 40], &[]), None),
            (binary(0x20, 0x00, &[], &[]), None),
            (binary(0x20, 0x11, &v4, &tlvs), None),
            (binary(0x20, 0xff, &[], &[]), None),
        ] {
            for part in [1, 7, 5000] {
                let sent = [preamble.as_slice(), b"GET / HTTP/1.1\r\n\r\n"].concat();
                let (read, left) = read_of(&sent, part).await;
                let expected = expected.map(|text: &str| text.parse().unwrap());
                assert_eq!(read, Ok(expected), "{}", String::from_utf8_lossy(&sent));
                assert_eq!(left, b"GET / HTTP/1.1\r\n\r\n");
            }
        }
    }

    #[tokio::test]
    async fn whatever_is_not_quite_a_preamble_is_refused() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(120));
        let malformed: [&[u8]; 20] = [
            b"",
            b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\x00\x00",
            b"PROXY",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 4096",
            b"proxy TCP4 192.0.2.7 10.0.0.1 4096 80\r\n",
            b"PROXY TCP5 192.0.2.7 10.0.0.1 4096 80\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 4096 80\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 4096\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 4096 80 90\r\n",
            b"PROXY TCP4 192.0.2.256 10.0.0.1 4096 80\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 65536 80\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 -1 80\r\n",
            b"PROXY TCP4 2001:db8::7 ::1 4096 80\r\n",
            b"PROXY TCP6 192.0.2.7 10.0.0.1 4096 80\r\n",
            b"PROXY  TCP4 192.0.2.7 10.0.0.1 4096 80\r\n",
            b"PROXY \xff\xff\xff\xff\xff\xff\xff\r\n",
            b"PROXY TCP4 192.0.2.7\r10.0.0.1 4096 80\r\n",
            b"\r\n\r\n\0\r\nQUIT\r",
            long.as_bytes(),
        ];
        let binaries = [
            binary(0x11, 0x11, &[0; 12], &[]),
            binary(0x31, 0x11, &[0; 12], &[]),
            binary(0x22, 0x11, &[0; 12], &[]),
            binary(0x21, 0x41, &[0; 12], &[]),
            binary(0x21, 0x13, &[0; 12], &[]),
            binary(0x21, 0x11, &[0; 11], &[]),
            binary(0x21, 0x21, &[0; 35], &[]),
            binary(0x21, 0x31, &[0; 215], &[]),
            binary(0x21, 0x11, &[0; 12], &[0; PREAMBLE_BYTES_MAX]),
            binary(0x21, 0x11, &[0; 12], &[])[..20].to_vec(),
        ];
        for bytes in malformed.into_iter().chain(binaries.iter().map(Vec::as_slice)) {
            let (read, _) = read_of(bytes, 5000).await;
            assert!(read.is_err(), "{:?} gives {read:?}", String::from_utf8_lossy(bytes));
        }
    }
}
