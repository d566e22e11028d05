use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// What limits count as one caller: an IPv4 address, or the /64 that one IPv6 customer is given (RFC 6177).
pub fn caller_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(own) => IpAddr::V6(Ipv6Addr::from_bits(own.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

/// Reads an address or a network in CIDR notation; bits beyond the prefix are dropped, and IPv4 in IPv6's
/// clothes (`::ffff:0:0/96`, RFC 4291 §2.5.5.2) is taken as the IPv4 it is.
pub fn parse_network(text: &str) -> Option<IpNet> {
    let text = text.trim();
    let network = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse::<IpNet>().ok()?,
    };
    let network = match network {
        IpNet::V6(own) if own.prefix_len() >= 96 => match own.addr().to_ipv4_mapped() {
            Some(v4) => IpNet::V4(Ipv4Net::new(v4, own.prefix_len() - 96).ok()?),
            None => network,
        },
        own => own,
    };
    Some(network.trunc())
}

/// The network of this many bits that an address lies in.
pub(super) fn network_of(address: IpAddr, prefix_len: u8) -> Option<IpNet> {
    let network = match address {
        IpAddr::V4(own) => IpNet::V4(Ipv4Net::new(own, prefix_len).ok()?),
        IpAddr::V6(own) => IpNet::V6(Ipv6Net::new(own, prefix_len).ok()?),
    };
    Some(network.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(text: &str) -> String {
        caller_of(text.parse().unwrap()).to_string()
    }

    #[test]
    fn a_caller_is_an_ipv4_address_or_an_ipv6_customer() {
        assert_eq!(caller("192.0.2.7"), "192.0.2.7");
        assert_eq!(caller("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(caller("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_ne!(caller("2001:db8:1:3::1"), caller("2001:db8:1:2::1"));
        assert_eq!(caller("::1"), "::");
    }

    #[test]
    fn networks_are_read_with_or_without_a_prefix() {
        let read = |text| parse_network(text).map(|network| network.to_string());
        assert_eq!(read(" 192.0.2.7 ").as_deref(), Some("192.0.2.7/32"));
        assert_eq!(read("192.0.2.7/24").as_deref(), Some("192.0.2.0/24"));
        assert_eq!(read("::ffff:192.0.2.7/120").as_deref(), Some("192.0.2.0/24"));
        assert_eq!(read("2001:db8::1/32").as_deref(), Some("2001:db8::/32"));
        for wrong in ["", "192.0.2", "192.0.2.0/33", "example.org", "192.0.2.0/24/8"] {
            assert_eq!(parse_network(wrong), None, "{wrong}");
        }
    }
}
