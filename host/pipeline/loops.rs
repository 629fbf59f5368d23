//! Forwarding loops: a request whose origin, by a slip of a name or an address, leads back to the node that sent it.

use http::{HeaderMap, HeaderName, HeaderValue};

static CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");

/// The beginning of every node's mark.
const MARK: &[u8] = b"holm-";

/// Knows requests that this node has sent on before, by a mark that each node makes for itself when it starts (RFC 8586).
/// Clones have the same.
#[derive(Clone, Debug)]
pub(super) struct Loops(HeaderValue);

impl Loops {
    /// Returns a mark that no other node has: two of one name may well follow each other.
    pub(super) fn new() -> Self {
        Self::of(&format!("holm-{:016x}", fastrand::u64(..)))
    }

    /// Returns the mark by which the node is known in its region.
    pub(super) fn of(mark: &str) -> Self {
        Self(HeaderValue::from_str(mark).unwrap_or_else(|_| HeaderValue::from_static("holm")))
    }

    /// Whether this node has sent the request with these fields.
    pub(super) fn has_sent(&self, headers: &HeaderMap) -> bool {
        ids(headers).any(|id| id == self.0.as_bytes())
    }

    /// Marks what is sent on of a request with the fields `received`, whose own marks stay.
    pub(super) fn mark(&self, sent: &mut HeaderMap, received: &HeaderMap) {
        sent.remove(&CDN_LOOP);
        for list in received.get_all(&CDN_LOOP) {
            sent.append(CDN_LOOP.clone(), list.clone());
        }
        sent.append(CDN_LOOP.clone(), self.0.clone());
    }
}

/// Returns how many nodes have sent the request with these fields on.
pub(super) fn depth(headers: &HeaderMap) -> usize {
    ids(headers).filter(|id| id.starts_with(MARK)).count()
}

fn ids(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let members = headers.get_all(&CDN_LOOP).iter().flat_map(|list| list.as_bytes().split(|byte| *byte == b','));
    // A member may have parameters.
    members.map(|member| member.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_knows_what_it_has_sent_on_and_no_other_does() {
        let (own, other) = (Loops::new(), Loops::new());
        let received = HeaderMap::from_iter([(CDN_LOOP.clone(), HeaderValue::from_static("cloudflare; loops=1, x"))]);
        assert!(!own.has_sent(&received));
        let mut once = HeaderMap::new();
        own.mark(&mut once, &received);
        let mut twice = HeaderMap::new();
        other.mark(&mut twice, &once);
        assert!(own.has_sent(&once) && !other.has_sent(&once));
        assert!(own.has_sent(&twice) && other.has_sent(&twice), "{twice:?}");
        assert_eq!(twice.get_all(&CDN_LOOP).iter().next().unwrap(), "cloudflare; loops=1, x");
        let joined = [own.0.as_bytes(), b";n=2 , z"].concat();
        let joined = HeaderMap::from_iter([(CDN_LOOP.clone(), HeaderValue::from_bytes(&joined).unwrap())]);
        assert!(own.has_sent(&joined) && !other.has_sent(&joined));
        assert_eq!([&received, &once, &twice, &joined].map(depth), [0, 1, 2, 1]);
    }
}
