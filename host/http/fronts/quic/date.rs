//! The moment that a response is made, for its `Date` (RFC 9110, section 6.6.1). Decides nothing.

use std::time::SystemTime;

use ::http::HeaderValue;

/// Returns the value of `Date` at this moment. On the other fronts hyper writes it.
pub(super) fn now() -> HeaderValue {
    HeaderValue::try_from(httpdate::fmt_http_date(SystemTime::now()))
        .unwrap_or_else(|_| HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_one() {
        let date = httpdate::parse_http_date(now().to_str().unwrap()).unwrap();
        assert!(date > SystemTime::UNIX_EPOCH);
    }
}
