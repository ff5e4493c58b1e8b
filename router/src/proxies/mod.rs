//! Proxies and load balancers in front of the node: who they are, and what is believed of what they say of
//! clients. What anybody else says is not looked at.

mod forwarded;
mod preamble;

use std::net::IpAddr;

use ipnet::IpNet;

pub use preamble::{PREAMBLE_BYTES_MAX, PREAMBLE_TIMEOUT};

pub(crate) use preamble::{PreambleError, introduce};

/// The most proxies that one request may have come through; what further ones say is not looked at.
pub const FORWARDED_HOPS_MAX: usize = 32;

/// Who stands in front of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    /// Networks whose connections begin with a preamble of the PROXY protocol, and from which nothing else is
    /// taken.
    pub preamble: Vec<IpNet>,
    /// Networks whose headers are believed.
    pub trusted: Vec<IpNet>,
    /// Which headers they write.
    pub header: ForwardedHeader,
}

/// The headers by which a proxy tells of its client. Only one kind is believed: a proxy that writes one passes
/// the other on as its client made it up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For` and `X-Forwarded-Proto`.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

impl Proxies {
    /// Whether a connection from here begins with a preamble.
    pub(crate) fn introduces(&self, ip: IpAddr) -> bool {
        has(&self.preamble, ip)
    }

    /// Whether what is said from here of clients is believed.
    fn trusts(&self, ip: IpAddr) -> bool {
        has(&self.trusted, ip)
    }
}

/// Whether one of the networks has an address; a listener on `[::]` sees those of IPv4 inside of IPv6.
fn has(networks: &[IpNet], ip: IpAddr) -> bool {
    !networks.is_empty() && {
        let ip = ip.to_canonical();
        networks.iter().any(|network| network.contains(&ip))
    }
}
