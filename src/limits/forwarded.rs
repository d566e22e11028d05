use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

/// The header in which a trusted proxy says whom it speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardedBy {
    /// `X-Forwarded-For: client, proxy1`.
    XForwardedFor,
    /// `Forwarded: for=client;proto=https, for=proxy1` (RFC 7239).
    Forwarded,
}

impl ForwardedBy {
    /// Reads the header's name, in lower case.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "x-forwarded-for" => Some(ForwardedBy::XForwardedFor),
            "forwarded" => Some(ForwardedBy::Forwarded),
            _ => None,
        }
    }

    /// The header's name, in lower case.
    pub const fn header(self) -> &'static str {
        match self {
            ForwardedBy::XForwardedFor => "x-forwarded-for",
            ForwardedBy::Forwarded => "forwarded",
        }
    }
}

/// The address that a request comes from: the peer's, or, when the peer is a trusted proxy, the last one in
/// the header's chain that is not.
///
/// Each hop appends the address it was called from, so only what trusted hops appended is believed: the
/// chain is read from its end, up to the first address that is no trusted proxy. Whatever a client wrote
/// itself lies before that. An element that is no address (`unknown`, `_hidden`) ends the reading: the hop that
/// reported it stands for whoever is behind it.
pub fn client_address<'a>(
    peer: IpAddr,
    values: impl DoubleEndedIterator<Item = &'a str>,
    by: ForwardedBy,
    trusted: &[IpNet],
) -> IpAddr {
    let mut address = peer.to_canonical();
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(&address));
    if !is_trusted(address) {
        return address;
    }
    for value in values.rev() {
        let elements = match by {
            ForwardedBy::XForwardedFor => value.rsplit(',').collect(),
            ForwardedBy::Forwarded => split_from_end(value, b','),
        };
        for element in elements {
            let said = match by {
                ForwardedBy::XForwardedFor => node(element.trim()),
                ForwardedBy::Forwarded => forwarded_for(element).and_then(|text| node(&text)),
            };
            let Some(said) = said else { return address };
            address = said;
            if !is_trusted(address) {
                return address;
            }
        }
    }
    address
}

/// The value of `for` in one element of `Forwarded`, without quotes.
fn forwarded_for(element: &str) -> Option<String> {
    let value = split_from_end(element, b';').into_iter().find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then(|| value.trim())
    })?;
    match value.strip_prefix('"') {
        Some(quoted) => Some(unescape(quoted.strip_suffix('"')?)),
        None => Some(value.to_owned()),
    }
}

fn unescape(quoted: &str) -> String {
    let (mut text, mut chars) = (String::new(), quoted.chars());
    while let Some(c) = chars.next() {
        text.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    text
}

/// Splits at a separator outside of quoted strings (RFC 9110 §5.6.4), from the end, so that a quote which a
/// client left open cannot swallow what its proxy appended.
fn split_from_end(text: &str, separator: u8) -> Vec<&str> {
    let bytes = text.as_bytes();
    let (mut parts, mut end, mut quoted) = (Vec::new(), bytes.len(), false);
    for (at, byte) in bytes.iter().enumerate().rev() {
        let is_escaped = || bytes[..at].iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1;
        if *byte == b'"' && !(quoted && is_escaped()) {
            quoted = !quoted;
        } else if *byte == separator && !quoted {
            parts.push(&text[at + 1..end]);
            end = at;
        }
    }
    parts.push(&text[..end]);
    parts
}

/// An address with or without a port: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
fn node(text: &str) -> Option<IpAddr> {
    let bare = || text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text).parse().ok();
    let address = bare().or_else(|| text.parse::<SocketAddr>().ok().map(|at| at.ip()))?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::parse_network;
    use proptest::prelude::*;

    const PROXIES: &[&str] = &["10.0.0.0/8", "fd00::/8"];

    fn client(peer: &str, values: &[&str], by: ForwardedBy) -> String {
        let trusted: Vec<IpNet> = PROXIES.iter().map(|text| parse_network(text).unwrap()).collect();
        client_address(peer.parse().unwrap(), values.iter().copied(), by, &trusted).to_string()
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let by = ForwardedBy::XForwardedFor;
        assert_eq!(client("192.0.2.1", &["198.51.100.1"], by), "192.0.2.1");
        assert_eq!(client("10.0.0.1", &["198.51.100.1"], by), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &[], by), "10.0.0.1");
        assert_eq!(client("::ffff:10.0.0.1", &["198.51.100.1:4711"], by), "198.51.100.1");
    }

    #[test]
    fn the_last_address_that_is_no_proxy_is_the_client() {
        let by = ForwardedBy::XForwardedFor;
        assert_eq!(client("10.0.0.1", &["203.0.113.9, 198.51.100.1, 10.0.0.2"], by), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &["203.0.113.9", "198.51.100.1 ,10.0.0.2"], by), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &["10.0.0.3, 10.0.0.2"], by), "10.0.0.3", "a client among the proxies");
        assert_eq!(client("10.0.0.1", &["198.51.100.1, unknown, 10.0.0.2"], by), "10.0.0.2");
        assert_eq!(client("fd00::1", &["[2001:db8::7]:443"], by), "2001:db8::7");
    }

    #[test]
    fn forwarded_is_read_with_its_quotes_and_parameters() {
        let by = ForwardedBy::Forwarded;
        assert_eq!(client("10.0.0.1", &["for=198.51.100.1;proto=https;by=10.0.0.1"], by), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &["proto=http; FOR=\"[2001:db8::7]:4711\""], by), "2001:db8::7");
        assert_eq!(
            client("10.0.0.1", &["for=192.0.2.9, for=198.51.100.1, for=10.0.0.9"], by),
            "198.51.100.1"
        );
        assert_eq!(
            client("10.0.0.1", &["for=\"1.1.1.1, for=2.2.2.2\", for=198.51.100.1"], by),
            "198.51.100.1"
        );
        assert_eq!(client("10.0.0.1", &["for=\"198.51.100.\\1\""], by), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &["for=_hidden"], by), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["by=198.51.100.1"], by), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["for=\"198.51.100.1"], by), "10.0.0.1");
    }

    fn any_address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<u32>().prop_map(|bits| IpAddr::V4(bits.into())),
            any::<u128>().prop_map(|bits| IpAddr::V6(bits.into()).to_canonical()),
            (0..1u32 << 24).prop_map(|bits| IpAddr::V4((10 << 24 | bits).into())),
        ]
    }

    fn written(address: IpAddr, port: Option<u16>, by: ForwardedBy) -> String {
        let text = match (address, port) {
            (IpAddr::V4(own), None) => own.to_string(),
            (IpAddr::V6(own), None) => format!("[{own}]"),
            (own, Some(port)) => SocketAddr::new(own, port).to_string(),
        };
        match by {
            ForwardedBy::XForwardedFor => text,
            ForwardedBy::Forwarded => format!("for=\"{text}\";proto=http"),
        }
    }

    proptest! {
        #[test]
        fn the_chain_is_walked_like_the_hops_that_wrote_it(
            peer in any_address(),
            hops in prop::collection::vec((any_address(), any::<Option<u16>>()), 0..6),
            by in prop_oneof![Just(ForwardedBy::XForwardedFor), Just(ForwardedBy::Forwarded)],
        ) {
            let trusted: Vec<IpNet> = PROXIES.iter().map(|text| parse_network(text).unwrap()).collect();
            let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.contains(address));
            let header: Vec<String> = hops.iter().map(|(hop, port)| written(*hop, *port, by)).collect();
            let header = header.join(", ");
            let mut expected = peer.to_canonical();
            for (hop, _) in hops.iter().rev() {
                if !is_trusted(&expected) { break; }
                expected = *hop;
            }
            prop_assert_eq!(client_address(peer, [header.as_str()].into_iter(), by, &trusted), expected);
        }

        #[test]
        fn nothing_that_a_client_writes_changes_what_its_proxy_says(
            forged in "[ -~]{0,60}",
            by in prop_oneof![Just(ForwardedBy::XForwardedFor), Just(ForwardedBy::Forwarded)],
        ) {
            let trusted = [parse_network("10.0.0.0/8").unwrap()];
            let client: IpAddr = "198.51.100.1".parse().unwrap();
            let proxy = "10.0.0.1".parse().unwrap();
            let own = written(client, None, by);
            // a proxy appends a field line of its own, or an element to the last one
            prop_assert_eq!(client_address(proxy, [forged.as_str(), &own].into_iter(), by, &trusted), client);
            let appended = format!("{forged}, {own}");
            prop_assert_eq!(client_address(proxy, [appended.as_str()].into_iter(), by, &trusted), client);
        }
    }
}
