//! Which addresses are public: everything the registries of special-purpose addresses (RFC 6890
//! and its successors) do not set apart. What embeds an IPv4 address is judged by that one or,
//! where only a relay could reach it, refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether an address belongs to the public internet.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let set_apart = match a {
        // "This network", private, loopback.
        0 | 10 | 127 => true,
        // Shared address space of carriers (RFC 6598).
        100 => (64..128).contains(&b),
        // Link-local, where clouds answer with credentials.
        169 => b == 254,
        172 => (16..32).contains(&b),
        192 => match (b, c) {
            // Protocol assignments, TEST-NET-1, the retired 6to4 relays, AS112, private.
            (0, 0 | 2) | (88, 99) | (31, 196) | (52, 193) | (175, 48) | (168, _) => true,
            _ => false,
        },
        // Benchmarking, TEST-NET-2.
        198 => matches!((b, c), (18 | 19, _) | (51, 100)),
        // TEST-NET-3.
        203 => (b, c) == (0, 113),
        // Multicast, reserved, broadcast.
        224.. => true,
        _ => false,
    };
    !set_apart
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(mapped) = address.to_ipv4_mapped() {
        return is_public_v4(mapped);
    }
    // Only 2000::/3 is allocated: this leaves out ::, ::1, v4-compatible, NAT64 (64:ff9b::/96 and
    // 64:ff9b:1::/48), discard-only, unique local, link-local, site-local and multicast addresses.
    let [first, second, ..] = address.segments();
    if first & 0xe000 != 0x2000 {
        return false;
    }
    match (first, second) {
        // Protocol assignments, Teredo, benchmarking, ORCHID: 2001::/23.
        (0x2001, 0..0x200) => false,
        // Documentation.
        (0x2001, 0xdb8) => false,
        (0x3fff, 0..0x1000) => false,
        // 6to4: a relay would unwrap any IPv4 address.
        (0x2002, _) => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_pass() {
        let check = |text: &str, expected: bool| {
            assert_eq!(is_public(text.parse().unwrap()), expected, "{text}");
        };
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.0",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.0.170",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "192.168.255.255",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0:127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::808:808",
            "64:ff9b:1::1",
            "100::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2001::1",
            "2001:0:7f00:1::",
            "2001:2::1",
            "2001:10::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:808:808::1",
            "3fff::1",
            "5f00::1",
            "4000::1",
        ] {
            check(text, false);
        }
        for text in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.1",
            "169.253.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "192.167.0.1",
            "192.169.0.1",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.1",
            "::ffff:8.8.8.8",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2606:4700:4700::1111",
            "2a00:1450::1",
            "3fff:1000::1",
        ] {
            check(text, true);
        }
    }
}
