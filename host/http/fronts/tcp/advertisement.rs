//! `Alt-Svc` (RFC 7838): tells clients over TCP that HTTP/3 is there as well (RFC 9114, section 3.1.1).

use ::http::HeaderValue;

use crate::config::Http3;

/// Returns the value of the field for an address whose own port is `bound`; `None` if it isn't advertised.
pub(super) fn of(http3: &Http3, bound: u16) -> Option<HeaderValue> {
    let seconds = http3.advertised.as_secs();
    if seconds == 0 {
        return None;
    }
    let port = http3.port.unwrap_or(bound);
    HeaderValue::try_from(format!("h3=\":{port}\"; ma={seconds}")).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_port_is_the_addresses_own_unless_another_is_given() {
        let advertised = Duration::from_millis(90_900);
        let http3 = Http3 { advertised, ..Http3::default() };
        assert_eq!(of(&http3, 8443).unwrap(), "h3=\":8443\"; ma=90");
        assert_eq!(of(&Http3 { port: Some(443), ..http3 }, 8443).unwrap(), "h3=\":443\"; ma=90");
        assert_eq!(of(&Http3 { advertised: Duration::ZERO, ..http3 }, 8443), None);
    }
}
