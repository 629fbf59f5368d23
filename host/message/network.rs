//! Networks: which addresses are one client, and which belong to a network that the operator names.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use thiserror::Error;

/// The addresses that count as one client: an IPv4 address, or the /64 of an IPv6 address, of which one host has all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientNetwork(u128);

impl From<IpAddr> for ClientNetwork {
    fn from(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self(ip.to_ipv6_mapped().to_bits()),
            IpAddr::V6(ip) => Self(ip.to_bits() & (u128::MAX << 64)),
        }
    }
}

/// A network in CIDR notation (RFC 4632): an address and the number of its bits that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    bits: u32,
}

/// Why a text is no network.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CidrError {
    /// Neither an address nor an address with a number of bits.
    #[error("`{0}` is no network")]
    Malformed(String),
    /// The address has bits beyond those that count.
    #[error("`{0}` is no network: the address has bits beyond its prefix")]
    HostBits(String),
}

impl Cidr {
    /// The addresses of this machine itself.
    pub const LOOPBACK: [Self; 2] = [
        Self { address: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), bits: 8 },
        Self { address: IpAddr::V6(Ipv6Addr::LOCALHOST), bits: 128 },
    ];

    /// Whether `ip` belongs to the network. An IPv4 address that is written as IPv6 counts as IPv4.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => own.to_bits() == ip.to_bits() & mask_v4(self.bits),
            (IpAddr::V6(own), IpAddr::V6(ip)) => own.to_bits() == ip.to_bits() & mask_v6(self.bits),
            _ => false,
        }
    }
}

/// Returns the highest `bits` bits.
fn mask_v4(bits: u32) -> u32 {
    u32::MAX.checked_shl(32 - bits.min(32)).unwrap_or(0)
}

/// Returns the highest `bits` bits.
fn mask_v6(bits: u32) -> u128 {
    u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0)
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let malformed = || CidrError::Malformed(text.to_owned());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| malformed())?;
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => bits_max,
            Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => bits.parse().map_err(|_| malformed())?,
            Some(_) => return Err(malformed()),
        };
        if bits > bits_max {
            return Err(malformed());
        }
        let is_exact = match address {
            IpAddr::V4(ip) => ip.to_bits() & !mask_v4(bits) == 0,
            IpAddr::V6(ip) => ip.to_bits() & !mask_v6(bits) == 0,
        };
        if is_exact { Ok(Self { address, bits }) } else { Err(CidrError::HostBits(text.to_owned())) }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn which_addresses_are_one_client() {
        let same = [("10.0.0.1", "10.0.0.1"), ("10.0.0.1", "::ffff:10.0.0.1"), ("2001:db8::1", "2001:db8::ffff:0:0:2")];
        for (left, right) in same {
            assert_eq!(ClientNetwork::from(ip(left)), ClientNetwork::from(ip(right)), "{left} {right}");
        }
        for (left, right) in [("10.0.0.1", "10.0.0.2"), ("2001:db8::1", "2001:db8:0:1::1"), ("::1", "0.0.0.1")] {
            assert_ne!(ClientNetwork::from(ip(left)), ClientNetwork::from(ip(right)), "{left} {right}");
        }
    }

    #[test]
    fn which_addresses_are_in_a_network() {
        for (network, address, expected) in [
            ("127.0.0.0/8", "127.9.9.9", true),
            ("127.0.0.0/8", "128.0.0.1", false),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.4", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "::1", false),
            ("::1/128", "::1", true),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::/0", "2001:db8::1", true),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
        ] {
            assert_eq!(network.parse::<Cidr>().unwrap().contains(ip(address)), expected, "{network} {address}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in ["", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/+8", "a/8", "10.0.0/8", "10.0.0.1/8/8"] {
            assert_eq!(text.parse::<Cidr>(), Err(CidrError::Malformed(text.to_owned())), "{text}");
        }
        assert_eq!("10.0.0.1/8".parse::<Cidr>(), Err(CidrError::HostBits("10.0.0.1/8".to_owned())));
        for network in Cidr::LOOPBACK {
            assert_eq!(network.to_string().parse(), Ok(network));
        }
    }
}
