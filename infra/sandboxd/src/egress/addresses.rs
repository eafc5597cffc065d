//! Addresses that no sandbox reaches, whatever its rules say.

use std::net::{IpAddr, Ipv6Addr, UdpSocket};

use super::cidr::{Cidr, v4, v6};

/// Ranges that lead to this machine, its network, or nowhere a public service could be. Documentation ranges are
/// not among them: nothing private is ever there.
const NEVER: &[Cidr] = &[
    v4(0, 0, 0, 0, 8),
    v4(10, 0, 0, 0, 8),
    v4(100, 64, 0, 0, 10),
    v4(127, 0, 0, 0, 8),
    v4(169, 254, 0, 0, 16),
    v4(172, 16, 0, 0, 12),
    v4(192, 0, 0, 0, 24),
    v4(192, 88, 99, 0, 24),
    v4(192, 168, 0, 0, 16),
    v4(198, 18, 0, 0, 15),
    v4(224, 0, 0, 0, 4),
    v4(240, 0, 0, 0, 4),
    // Unspecified, loopback, and IPv4 written in IPv6 (the mapped form is judged as IPv4).
    v6(0, 0, 16),
    // Translation prefixes: IPv4 of any kind behind them.
    v6(0x64, 0xff9b, 32),
    v6(0x100, 0, 64),
    v6(0x2001, 0, 32),
    v6(0x2002, 0, 16),
    // Unique local, link-local, site-local, multicast.
    v6(0xfc00, 0, 7),
    v6(0xfe80, 0, 10),
    v6(0xfec0, 0, 10),
    v6(0xff00, 0, 8),
];

/// Why an address is out of reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Forbidden {
    /// It is loopback, link-local, private or otherwise special.
    Special,
    /// It is one of this machine's.
    OwnAddress,
}

impl Forbidden {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Special => "it is a loopback, link-local, private or reserved address",
            Self::OwnAddress => "it is an address of the machine that runs the sandboxes",
        }
    }
}

/// Judges an address. `allowed` are ranges that the operator opened on purpose.
pub(super) fn forbidden(address: IpAddr, allowed: &[Cidr]) -> Option<Forbidden> {
    let address = address.to_canonical();
    if allowed.iter().any(|range| range.contains(address)) {
        return None;
    }
    if NEVER.iter().any(|range| range.contains(address)) || is_embedded_v4(address) {
        return Some(Forbidden::Special);
    }
    is_own(address).then_some(Forbidden::OwnAddress)
}

/// IPv4 inside IPv6 as `::a.b.c.d`.
fn is_embedded_v4(address: IpAddr) -> bool {
    match address {
        IpAddr::V6(six) => six.segments()[..6] == [0; 6] || six == Ipv6Addr::LOCALHOST,
        IpAddr::V4(_) => false,
    }
}

/// Only an address of this machine can be bound to. Asking the kernel each time notices addresses that come and
/// go, and costs a few microseconds.
fn is_own(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_special_is_reachable_in_any_spelling() {
        for text in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "10.1.2.3",
            "172.31.255.1",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "fe80::1",
            "fd00::1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "ff02::1",
        ] {
            assert_eq!(forbidden(text.parse().unwrap(), &[]), Some(Forbidden::Special), "{text}");
        }
    }

    #[test]
    fn public_addresses_are_reachable() {
        for text in ["1.1.1.1", "203.0.113.80", "2606:4700::1111"] {
            assert_eq!(forbidden(text.parse().unwrap(), &[]), None, "{text}");
        }
    }

    #[test]
    fn what_the_operator_opened_is_reachable() {
        let allowed = ["127.0.0.0/8".parse().unwrap()];
        assert_eq!(forbidden("127.0.0.1".parse().unwrap(), &allowed), None);
        assert!(forbidden("10.0.0.1".parse().unwrap(), &allowed).is_some());
    }
}
