//! Places far from each other on one machine: network namespaces, and between them ways of the test's own that
//! delay, lose and cut packets. The kernel's TCP in every place copes with that as it would on a real network.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::Rng;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_tun::Tun;

use crate::netns::Namespace;

/// Of the range for tests of networks (RFC 2544); it leads nowhere outside of the places.
const PREFIX: [u8; 3] = [198, 18, 0];
const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);

/// Places of a network.
const PLACES_MAX: usize = 250;
/// Bytes of a packet.
const MTU: u16 = 1500;
/// Packets on their way from one place to another; further ones are lost.
const PACKETS_MAX: usize = 4096;

/// What becomes of packets between two places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// They arrive.
    Open {
        /// How much later.
        delay: Duration,
        /// How many of a hundred do not, drawn at random.
        lost_percent: u8,
    },
    /// None arrives, also of those that are on their way, and nobody is told.
    Cut,
}

impl Way {
    /// On which packets take so long, and all arrive.
    pub const fn taking(delay: Duration) -> Self {
        Self::Open { delay, lost_percent: 0 }
    }
}

/// Some places and the ways between them. They go when it is dropped.
pub struct Network {
    places: Vec<Namespace>,
    ways: Ways,
    _carrying: JoinSet<()>,
}

/// The way from each place to each other.
#[derive(Clone)]
struct Ways(Arc<Mutex<Vec<Vec<Way>>>>);

impl Ways {
    fn between(&self, from: usize, to: usize) -> Way {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[from][to]
    }
}

impl Network {
    /// So many places, between which packets take no time yet.
    ///
    /// # Errors
    /// Says why this process may make none.
    ///
    /// # Panics
    /// Panics outside of a runtime, or when so many places have no addresses.
    pub fn start(places: usize) -> Result<Self, String> {
        assert!(places <= PLACES_MAX, "{places} places have no addresses");
        let ways = vec![vec![Way::taking(Duration::ZERO); places]; places];
        let ways = Ways(Arc::new(Mutex::new(ways)));
        let mut namespaces = Vec::new();
        let mut ends = Vec::new();
        for place in 0..places {
            let namespace = Namespace::new()?;
            ends.push(Arc::new(end(&namespace, address(place))?));
            namespaces.push(namespace);
        }
        let mut carrying = JoinSet::new();
        for (from, end) in ends.iter().enumerate() {
            let mut onward = Vec::new();
            for (to, other) in ends.iter().enumerate() {
                let (sender, packets) = mpsc::channel(PACKETS_MAX);
                let ways = ways.clone();
                let open = move || ways.between(from, to) != Way::Cut;
                carrying.spawn(deliver(packets, other.clone(), open));
                onward.push(sender);
            }
            carrying.spawn(take(end.clone(), from, ways.clone(), onward));
        }
        Ok(Self { places: namespaces, ways, _carrying: carrying })
    }

    /// A place's network.
    pub fn place(&self, place: usize) -> &Namespace {
        &self.places[place]
    }

    /// Where the others reach a place.
    pub fn address(&self, place: usize) -> Ipv4Addr {
        address(place)
    }

    /// Changes the way between two places, in both directions.
    pub fn set(&self, one: usize, other: usize, way: Way) {
        let mut ways = self.ways.0.lock().unwrap_or_else(PoisonError::into_inner);
        ways[one][other] = way;
        ways[other][one] = way;
    }
}

fn address(place: usize) -> Ipv4Addr {
    let [a, b, c] = PREFIX;
    let host = u8::try_from(place + 1).expect("there are few places");
    Ipv4Addr::new(a, b, c, host)
}

/// The place whose address it is.
fn place_of(address: [u8; 4]) -> Option<usize> {
    let [prefix @ .., host] = address;
    (prefix == PREFIX).then(|| usize::from(host).checked_sub(1)).flatten()
}

/// The only way out of a namespace: a device whose other end is this process.
fn end(namespace: &Namespace, address: Ipv4Addr) -> Result<Tun, String> {
    let runtime = tokio::runtime::Handle::current();
    let made = namespace.within(|| {
        let _entered = runtime.enter();
        let device = Tun::builder().name("way%d").mtu(MTU.into());
        device.address(address).netmask(NETMASK).up().build()
    });
    let mut ends = made.map_err(|error| format!("/dev/net/tun: {error}"))?;
    ends.pop().ok_or_else(|| "/dev/net/tun gives no device".to_owned())
}

/// Takes what a place sends, and puts it on the way to where it goes.
async fn take(
    end: Arc<Tun>,
    from: usize,
    ways: Ways,
    onward: Vec<mpsc::Sender<(Instant, Vec<u8>)>>,
) {
    let mut buffer = [0; MTU as usize];
    while let Ok(length) = end.recv(&mut buffer).await {
        let packet = &buffer[..length];
        let Some(to) = destination(packet).filter(|to| *to < onward.len()) else { continue };
        let Way::Open { delay, lost_percent } = ways.between(from, to) else { continue };
        if rand::rng().random_range(0..100) >= lost_percent {
            // A full queue loses packets, as a router's does.
            let _ = onward[to].try_send((Instant::now() + delay, packet.to_vec()));
        }
    }
}

/// Where a packet goes: its address stands in the IPv4 header (RFC 791, 3.1).
fn destination(packet: &[u8]) -> Option<usize> {
    let version = packet.first()? >> 4;
    let address = packet.get(16..20)?.try_into().ok()?;
    (version == 4).then(|| place_of(address)).flatten()
}

/// Hands packets over when their time has come, in their order.
async fn deliver(
    mut packets: mpsc::Receiver<(Instant, Vec<u8>)>,
    end: Arc<Tun>,
    open: impl Fn() -> bool,
) {
    while let Some((due, packet)) = packets.recv().await {
        sleep_until(due).await;
        if open() {
            // What a place does not take is lost.
            let _ = end.send(&packet).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    const DELAY: Duration = Duration::from_millis(30);
    const SHORT: Duration = Duration::from_millis(200);
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn packets_go_by_their_destination() {
        let to = |version: u8, address: [u8; 4]| {
            let mut packet = vec![0; 20];
            packet[0] = version << 4 | 5;
            packet[16..].copy_from_slice(&address);
            destination(&packet)
        };
        assert_eq!(to(4, address(3).octets()), Some(3));
        assert_eq!(to(6, address(3).octets()), None);
        assert_eq!(to(4, [198, 18, 0, 0]), None);
        assert_eq!(to(4, [198, 18, 1, 1]), None);
        assert_eq!(destination(&[0x45; 19]), None);
        assert_eq!(destination(&[]), None);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_way_is_slow_lossy_cut_and_open_again() {
        let network = match Network::start(2) {
            Ok(network) => network,
            Err(why) => return eprintln!("skipped: no network namespaces: {why}"),
        };
        network.set(0, 1, Way::taking(DELAY));
        let at = (network.address(1), 80);
        let listener = network.place(1).within(|| TcpListener::bind(at)).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut writer = stream.try_clone().unwrap();
                std::thread::spawn(move || std::io::copy(&mut &stream, &mut writer));
            }
        });
        let mut stream = network.place(0).within(|| TcpStream::connect(at)).unwrap();
        let mut writer = stream.try_clone().unwrap();
        let mut echo_within = |patience: Duration, length: usize| {
            let mut answer = vec![0; length];
            stream.set_read_timeout(Some(patience)).unwrap();
            stream.read_exact(&mut answer).map(|()| answer)
        };
        let sent = Instant::now();
        writer.write_all(b"hello").unwrap();
        assert_eq!(echo_within(LONG, 5).unwrap(), b"hello");
        assert!(sent.elapsed() >= 2 * DELAY, "each direction takes its time");
        network.set(0, 1, Way::Cut);
        writer.write_all(b"cut").unwrap();
        assert!(echo_within(SHORT, 3).is_err(), "nothing arrives");
        network.set(0, 1, Way::Open { delay: Duration::ZERO, lost_percent: 10 });
        // What was lost is sent again.
        assert_eq!(echo_within(LONG, 3).unwrap(), b"cut");
        let whole: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
        let sent = whole.clone();
        let writing = std::thread::spawn(move || writer.write_all(&sent));
        assert!(echo_within(LONG, whole.len()).unwrap() == whole);
        writing.join().unwrap().unwrap();
    }
}
