//! The part of the configuration that says who stands in front of the node.

use atoll_router::{ForwardedHeader, Proxies};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Networks that each list may have: all of them are compared with every client's address.
const NETWORKS_MAX: usize = 256;

/// Proxies and load balancers in front of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProxiesConfig {
    /// Networks whose connections begin with a preamble of the PROXY protocol, version 1 or 2.
    #[serde(serialize_with = "super::network_texts", deserialize_with = "super::networks")]
    pub preamble: Vec<IpNet>,
    /// Networks whose word of a request's client is believed.
    #[serde(serialize_with = "super::network_texts", deserialize_with = "super::networks")]
    pub trusted: Vec<IpNet>,
    /// The header that they write.
    pub header: ProxyHeader,
}

/// The header by which proxies tell of their clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyHeader {
    /// `X-Forwarded-For`, with `X-Forwarded-Proto`.
    #[default]
    XForwardedFor,
    /// `Forwarded`, as in RFC 7239.
    Forwarded,
}

impl ProxiesConfig {
    /// The same for the router.
    pub(crate) fn proxies(&self) -> Proxies {
        Proxies {
            preamble: self.preamble.clone(),
            trusted: self.trusted.clone(),
            header: match self.header {
                ProxyHeader::XForwardedFor => ForwardedHeader::XForwardedFor,
                ProxyHeader::Forwarded => ForwardedHeader::Forwarded,
            },
        }
    }

    /// What is wrong with it, with the key first.
    pub(super) fn check(&self) -> Result<(), String> {
        for (key, networks) in [("preamble", &self.preamble), ("trusted", &self.trusted)] {
            if networks.len() > NETWORKS_MAX {
                return Err(format!(
                    "proxies.{key}: more than {NETWORKS_MAX} networks: name larger ones"
                ));
            }
        }
        Ok(())
    }
}
