//! The UDP socket of one thread. The kernel spreads packets over the threads' sockets by the addresses on
//! them; a packet of a connection that lives on another thread, of this process or another, is passed on to
//! that thread's inbox.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};
use tokio::io::ReadBuf;

use super::cids::{CID_BYTES, CidKey};

/// The longest packet that is passed on.
const PACKET_BYTES_MAX: usize = 2048;
/// What comes before a packet in an inbox: whence it came, where it went, and its congestion marks.
const HEAD_BYTES: usize = 1 + 16 + 2 + 1 + 16;
/// Bit of a packet's first byte that says that the header is a long one (RFC 9000 section 17.2).
const LONG_HEADER: u8 = 0x80;
/// Where a long header says how long the destination's id is.
const LONG_CID_LEN_AT: usize = 5;

/// What one thread receives packets on.
#[derive(Debug)]
pub struct QuicSocket {
    /// The socket that the kernel hands packets to.
    pub udp: UdpSocket,
    /// Packets that other threads have received for this one.
    pub inbox: UnixDatagram,
    /// The senders of all threads' inboxes, this one's too, in the order of their places.
    pub inboxes: Arc<Vec<UnixDatagram>>,
    /// This thread's place among all of the node.
    pub place: u16,
}

/// Passes on what is not this thread's.
#[derive(Debug)]
pub(super) struct SteeredSocket {
    udp: Arc<dyn AsyncUdpSocket>,
    inbox: tokio::net::UnixDatagram,
    inboxes: Arc<Vec<UnixDatagram>>,
    place: u16,
    cids: Arc<CidKey>,
    /// Whose turn it is to be asked first, so that neither source is starved.
    inbox_first: AtomicBool,
}

impl SteeredSocket {
    pub(super) fn new(socket: QuicSocket, cids: Arc<CidKey>) -> io::Result<Self> {
        let QuicSocket { udp, inbox, inboxes, place } = socket;
        inbox.set_nonblocking(true)?;
        for inbox in inboxes.iter() {
            inbox.set_nonblocking(true)?;
        }
        Ok(Self {
            udp: TokioRuntime.wrap_udp_socket(udp)?,
            inbox: tokio::net::UnixDatagram::from_std(inbox)?,
            inboxes,
            place,
            cids,
            inbox_first: AtomicBool::new(false),
        })
    }

    fn poll_udp(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = std::task::ready!(self.udp.poll_recv(cx, buffers, metas))?;
        for (buffer, meta) in buffers.iter_mut().zip(metas).take(received) {
            self.keep_own(buffer, meta);
        }
        Poll::Ready(Ok(received))
    }

    /// Takes others' packets out of a buffer, which may hold several of one sender.
    fn keep_own(&self, buffer: &mut [u8], meta: &mut RecvMeta) {
        if meta.stride == 0 {
            return;
        }
        let (mut at, mut kept) = (0, 0);
        while at < meta.len {
            let end = (at + meta.stride).min(meta.len);
            match self.owner(&buffer[at..end]) {
                Some(owner) => self.pass_on(owner, meta, &buffer[at..end]),
                None => {
                    // Kept packets stay a stride apart: only the last of them may be shorter.
                    buffer.copy_within(at..end, kept);
                    kept += end - at;
                }
            }
            at = end;
        }
        meta.len = kept;
    }

    /// The other thread that a packet belongs to.
    fn owner(&self, packet: &[u8]) -> Option<&UnixDatagram> {
        let place = self.cids.place_of(destination(packet)?)?;
        (place != self.place).then(|| self.inboxes.get(usize::from(place)))?
    }

    fn pass_on(&self, to: &UnixDatagram, meta: &RecvMeta, packet: &[u8]) {
        if packet.len() > PACKET_BYTES_MAX {
            return;
        }
        let mut message = Vec::with_capacity(HEAD_BYTES + packet.len());
        write_head(&mut message, meta);
        message.extend_from_slice(packet);
        // A full inbox loses packets, as a network does.
        if let Err(error) = to.send(&message) {
            tracing::trace!(%error, "a packet of another thread is lost");
        }
    }

    fn poll_inbox(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut filled = 0;
        for (buffer, meta) in buffers.iter_mut().zip(metas) {
            let mut message = [0; HEAD_BYTES + PACKET_BYTES_MAX];
            let mut into = ReadBuf::new(&mut message);
            match self.inbox.poll_recv(cx, &mut into) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if filled == 0 => return Poll::Pending,
                Poll::Pending => break,
            }
            *meta = RecvMeta::default();
            if let Some((head, packet)) = into.filled().split_at_checked(HEAD_BYTES)
                && packet.len() <= buffer.len()
                && let Some(read) = read_head(head)
            {
                buffer[..packet.len()].copy_from_slice(packet);
                *meta = RecvMeta { len: packet.len(), stride: packet.len(), ..read };
            }
            filled += 1;
        }
        Poll::Ready(Ok(filled))
    }
}

impl AsyncUdpSocket for SteeredSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.udp.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.udp.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let inbox_first = self.inbox_first.fetch_xor(true, Ordering::Relaxed);
        for inbox in [inbox_first, !inbox_first] {
            let received = match inbox {
                true => self.poll_inbox(cx, buffers, metas),
                false => self.poll_udp(cx, buffers, metas),
            };
            if received.is_ready() {
                return received;
            }
        }
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.udp.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.udp.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.udp.may_fragment()
    }
}

/// The id that a packet is addressed to, if it has the length of ours (RFC 8999).
fn destination(packet: &[u8]) -> Option<&[u8]> {
    let (first, rest) = packet.split_first()?;
    if first & LONG_HEADER == 0 {
        return rest.get(..CID_BYTES);
    }
    let len = usize::from(*packet.get(LONG_CID_LEN_AT)?);
    (len == CID_BYTES).then(|| packet.get(LONG_CID_LEN_AT + 1..)?.get(..CID_BYTES))?
}

fn write_head(message: &mut Vec<u8>, meta: &RecvMeta) {
    write_ip(message, Some(meta.addr.ip()));
    message.extend_from_slice(&meta.addr.port().to_be_bytes());
    write_ip(message, meta.dst_ip);
    // The mark has two bits, the address's kind the others.
    message[0] |= meta.ecn.map_or(0, |ecn| ecn as u8) << 6;
}

fn write_ip(message: &mut Vec<u8>, ip: Option<IpAddr>) {
    let (kind, bytes) = match ip {
        None => (0, [0; 16]),
        Some(IpAddr::V4(ip)) => (4, ip.to_ipv6_mapped().octets()),
        Some(IpAddr::V6(ip)) => (6, ip.octets()),
    };
    message.push(kind);
    message.extend_from_slice(&bytes);
}

fn read_head(head: &[u8]) -> Option<RecvMeta> {
    let (from, rest) = head.split_at_checked(17)?;
    let (port, to) = rest.split_first_chunk()?;
    Some(RecvMeta {
        addr: SocketAddr::new(read_ip(from)?, u16::from_be_bytes(*port)),
        dst_ip: read_ip(to),
        ecn: EcnCodepoint::from_bits(from[0] >> 6),
        ..RecvMeta::default()
    })
}

fn read_ip(bytes: &[u8]) -> Option<IpAddr> {
    let (kind, bytes) = bytes.split_first()?;
    let ip = Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?);
    match kind & 0x3f {
        4 => Some(ip.to_ipv4_mapped().unwrap_or(Ipv4Addr::UNSPECIFIED).into()),
        6 => Some(ip.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_arrive_as_they_were_written() {
        for (addr, dst_ip, ecn) in [
            ("1.2.3.4:5", None, None),
            ("1.2.3.4:65535", Some("127.0.0.1"), Some(EcnCodepoint::Ce)),
            ("[2001:db8::1]:443", Some("::1"), Some(EcnCodepoint::Ect0)),
            ("[::ffff:1.2.3.4]:443", None, Some(EcnCodepoint::Ect1)),
        ] {
            let mut meta = RecvMeta::default();
            (meta.addr, meta.ecn) = (addr.parse().unwrap(), ecn);
            meta.dst_ip = dst_ip.map(|ip| ip.parse().unwrap());
            let mut head = Vec::new();
            write_head(&mut head, &meta);
            assert_eq!(head.len(), HEAD_BYTES);
            let read = read_head(&head).unwrap();
            assert_eq!((read.addr, read.dst_ip, read.ecn), (meta.addr, meta.dst_ip, meta.ecn));
        }
        assert!(read_head(&[0; HEAD_BYTES]).is_none());
    }

    #[test]
    fn destinations_of_our_length_are_found() {
        let id = [7; CID_BYTES];
        let short = [&[0x40][..], &id, b"rest"].concat();
        let long = [&[0xc0, 0, 0, 0, 1, CID_BYTES as u8][..], &id, b"rest"].concat();
        let other = [&[0xc0, 0, 0, 0, 1, 8][..], &id, b"rest"].concat();
        assert_eq!(destination(&short), Some(&id[..]));
        assert_eq!(destination(&long), Some(&id[..]));
        assert_eq!(destination(&other), None);
        for cut in 0..=CID_BYTES {
            assert_eq!(destination(&short[..cut]), None, "{cut}");
        }
        assert_eq!(destination(&long[..10]), None);
    }

    #[tokio::test]
    async fn packets_of_others_are_passed_on_and_own_ones_kept() {
        let pairs: Vec<_> = (0..2).map(|_| UnixDatagram::pair().unwrap()).collect();
        let (inboxes, senders): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let senders = Arc::new(senders);
        let cids = CidKey::new(&[3; 16]);
        let mut sockets = inboxes.into_iter().enumerate().map(|(place, inbox)| {
            let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
            udp.set_nonblocking(true).unwrap();
            let place = place as u16;
            let socket = QuicSocket { udp, inbox, inboxes: senders.clone(), place };
            SteeredSocket::new(socket, cids.clone()).unwrap()
        });
        let (first, second) = (sockets.next().unwrap(), sockets.next().unwrap());
        let packet = |place: u16, text: &str| {
            let mut generator = super::super::cids::Cids { key: cids.clone(), place };
            let id = quinn::ConnectionIdGenerator::generate_cid(&mut generator);
            [&[0x40], &*id, text.as_bytes()].concat()
        };
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        for (place, text) in [(0, "own"), (1, "others"), (9, "nobody's")] {
            client.send_to(&packet(place, text), first.local_addr().unwrap()).unwrap();
        }
        let own = received(&first, 2).await;
        assert_eq!(own[0].0, client.local_addr().unwrap());
        assert!(own[0].1.ends_with(b"own") && own[1].1.ends_with(b"nobody's"));
        let passed = received(&second, 1).await;
        assert_eq!(passed[0].0, client.local_addr().unwrap());
        assert!(passed[0].1.ends_with(b"others"));
    }

    async fn received(socket: &SteeredSocket, count: usize) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut packets = Vec::new();
        while packets.len() < count {
            let mut space = [vec![0; 65536], vec![0; 65536]];
            let [one, two] = &mut space;
            let mut buffers = [IoSliceMut::new(one), IoSliceMut::new(two)];
            let mut metas = [RecvMeta::default(); 2];
            let filled = std::future::poll_fn(|cx| socket.poll_recv(cx, &mut buffers, &mut metas));
            let filled = filled.await.unwrap();
            for (buffer, meta) in space.iter().zip(metas).take(filled) {
                let all = buffer[..meta.len].chunks(meta.stride.max(1));
                packets.extend(all.map(|packet| (meta.addr, packet.to_vec())));
            }
        }
        packets
    }
}
