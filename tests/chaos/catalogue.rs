//! The origin's resources, drawn from a seed: how each is selected, how long it lives, how it is validated.

use std::time::{Duration, SystemTime};

use fastrand::Rng;
use serde::{Deserialize, Serialize};

use crate::{history::Micros, stamp::LENGTH_MIN};

/// The authority that all requests name.
pub(crate) const HOST: &str = "shop.test";
/// Values of `X-Tenant`.
pub(crate) const TENANTS: [&str; 3] = ["acme", "initech", "umbrella"];
/// Values of `Accept-Language`.
pub(crate) const LANGUAGES: [&str; 3] = ["de", "en", "fr"];
/// Tags that the resources share.
pub(crate) const TAGS: [&str; 6] = ["g0", "g1", "g2", "g3", "g4", "g5"];

const RESOURCES: usize = 40;
/// `max-age` of the resources, in turn. Most live long, so that what a purge missed is still there to be found.
const TTLS_S: [u64; 8] = [600, 1, 600, 30, 600, 2, 0, 600];
/// Version 0's `Last-Modified` in seconds of Unix time; each version is a second younger.
const EPOCH_S: u64 = 1_000_000_000;

/// How responses to a resource's URL are selected, and which clients may share them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Sort {
    /// By the URL alone.
    Plain,
    /// By `X-Tenant`, which a policy puts into the key.
    Tenant,
    /// By `Accept-Language`, which the response's `Vary` names.
    Vary,
    /// `private`.
    Private,
    /// `no-store`.
    NoStore,
    /// With `Set-Cookie`.
    Cookie,
    /// The response to a request with `Authorization`.
    Authorized,
}

impl Sort {
    /// Whether several clients may be given one response.
    pub(crate) const fn is_shared(self) -> bool {
        matches!(self, Self::Plain | Self::Tenant | Self::Vary)
    }
}

/// The validator that conditional requests name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Validator {
    None,
    Strong,
    Weak,
    Date,
}

/// A resource of the origin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Resource {
    pub(crate) path: String,
    pub(crate) sort: Sort,
    /// Its `max-age`.
    pub(crate) ttl_s: u64,
    /// Its `stale-while-revalidate`.
    pub(crate) grace_s: u64,
    /// Its `stale-if-error`.
    pub(crate) if_error_s: u64,
    pub(crate) validator: Validator,
    /// Bytes of its bodies.
    pub(crate) length: usize,
    pub(crate) tags: Vec<String>,
}

impl Resource {
    /// The key of what `select` (a tenant or a language) selects.
    pub(crate) fn key(&self, select: &str) -> String {
        if select.is_empty() { self.path.clone() } else { format!("{}#{select}", self.path) }
    }

    /// The greatest age of a response that is served, by what the origin states.
    pub(crate) fn life(&self) -> Micros {
        (self.ttl_s + self.grace_s.max(self.if_error_s)) * 1_000_000
    }

    /// Whether a stale response may be served without the origin's consent.
    pub(crate) const fn may_be_stale(&self) -> bool {
        self.grace_s > 0 || self.if_error_s > 0
    }

    pub(crate) fn etag(&self, key: &str, version: u64) -> Option<String> {
        match self.validator {
            Validator::None | Validator::Date => None,
            Validator::Strong => Some(format!("\"{key}.{version}\"")),
            Validator::Weak => Some(format!("W/\"{key}.{version}\"")),
        }
    }

    /// The field of a request by a client that has this version.
    pub(crate) fn condition(&self, key: &str, version: u64) -> Option<String> {
        match self.validator {
            Validator::None => None,
            Validator::Strong | Validator::Weak => Some(format!("if-none-match: {}\r\n", self.etag(key, version)?)),
            Validator::Date => Some(format!("if-modified-since: {}\r\n", modified(version))),
        }
    }

    /// Every end-to-end field of a response but those that frame it.
    pub(crate) fn fields(&self, key: &str, version: u64) -> String {
        let mut fields = format!("cache-control: {}\r\n", self.cache_control());
        if !self.tags.is_empty() {
            fields += &format!("surrogate-key: {}\r\n", self.tags.join(" "));
        }
        if let Some(etag) = self.etag(key, version) {
            fields += &format!("etag: {etag}\r\n");
        }
        if self.validator == Validator::Date {
            fields += &format!("last-modified: {}\r\n", modified(version));
        }
        match self.sort {
            Sort::Vary => fields += "vary: accept-language\r\n",
            Sort::Cookie => fields += &format!("set-cookie: session={version}\r\n"),
            _ => {}
        }
        fields
    }

    fn cache_control(&self) -> String {
        let mut directives = match self.sort {
            Sort::NoStore => return "no-store".to_owned(),
            Sort::Private => format!("private, max-age={}", self.ttl_s),
            _ => format!("max-age={}", self.ttl_s),
        };
        for (name, seconds) in [("stale-while-revalidate", self.grace_s), ("stale-if-error", self.if_error_s)] {
            if seconds > 0 {
                directives += &format!(", {name}={seconds}");
            }
        }
        directives
    }
}

/// The path of what has this key.
pub(crate) fn url_of(key: &str) -> &str {
    key.split_once('#').map_or(key, |(url, _)| url)
}

fn modified(version: u64) -> String {
    httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(EPOCH_S + version))
}

/// The version that a `Last-Modified` or `If-Modified-Since` names.
pub(crate) fn version_of(date: &str) -> Option<u64> {
    let time = httpdate::parse_http_date(date).ok()?;
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    seconds.checked_sub(EPOCH_S)
}

/// The origin's resources.
pub(crate) fn generate(seed: u64) -> Vec<Resource> {
    let mut rng = Rng::with_seed(seed ^ 0xca7a_1064);
    (0..RESOURCES).map(|at| resource(at, &mut rng)).collect()
}

fn resource(at: usize, rng: &mut Rng) -> Resource {
    let (sort, folder) = match at % 10 {
        0..=4 => (Sort::Plain, "p"),
        5 | 6 => (Sort::Tenant, "t"),
        7 | 8 => (Sort::Vary, "v"),
        _ => ([Sort::Private, Sort::NoStore, Sort::Cookie, Sort::Authorized][at / 10 % 4], "x"),
    };
    let ttl_s = TTLS_S[at % TTLS_S.len()];
    let now_and_then = |rng: &mut Rng, one_in: u32, seconds: u64| {
        if ttl_s > 0 && sort.is_shared() && rng.u32(..one_in) == 0 { seconds } else { 0 }
    };
    let (grace_s, if_error_s) = (now_and_then(rng, 5, 2), now_and_then(rng, 6, 5));
    let validator = match rng.u32(..4) {
        _ if !sort.is_shared() => Validator::None,
        0 => Validator::None,
        1 => Validator::Strong,
        2 => Validator::Weak,
        _ => Validator::Date,
    };
    // A few are longer than a part, so that they are stored in several.
    let length = if at % 13 == 4 { rng.usize(1_200_000..2_500_000) } else { rng.usize(LENGTH_MIN..20_000) };
    let tags = (0..rng.usize(..3)).map(|_| TAGS[rng.usize(..TAGS.len())].to_owned()).collect();
    Resource { path: format!("/{folder}/{at}"), sort, ttl_s, grace_s, if_error_s, validator, length, tags }
}

#[test]
fn a_seed_has_its_catalogue() {
    let resources = generate(7);
    assert_eq!(resources, generate(7));
    assert_ne!(resources, generate(8));
    for sort in [Sort::Plain, Sort::Tenant, Sort::Vary, Sort::Private, Sort::NoStore, Sort::Cookie, Sort::Authorized] {
        assert!(resources.iter().any(|resource| resource.sort == sort), "{sort:?}");
    }
    assert!(resources.iter().any(|resource| resource.length > 1 << 20), "some are stored in parts");
    assert!(resources.iter().any(|resource| resource.ttl_s == 1 && !resource.may_be_stale()));
}

#[test]
fn validators_name_key_and_version() {
    let mut resource = generate(7).swap_remove(0);
    resource.validator = Validator::Date;
    let condition = resource.condition("/p/0", 41).unwrap();
    let date = condition.trim_end().strip_prefix("if-modified-since: ").unwrap();
    assert_eq!(version_of(date), Some(41));
    resource.validator = Validator::Weak;
    assert_eq!(resource.condition("/p/0", 41).as_deref(), Some("if-none-match: W/\"/p/0.41\"\r\n"));
    assert_eq!((url_of("/t/5#acme"), url_of("/p/0")), ("/t/5", "/p/0"));
}
