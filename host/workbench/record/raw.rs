//! A line as it is written, and what it means.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, value::RawValue};

use super::recorded::{KnownPools, Record, RecordedResponse};
use crate::{
    clock::Timestamp,
    message::{Client, Near, RequestHead, Scheme, url::Url},
    policy::{self, Hook, PoolStats},
};

/// What a line is.
pub(super) enum Read {
    Config(String),
    Record(Box<Record>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default, deserialize_with = "present")]
    config: Option<Box<RawValue>>,
    name: Option<String>,
    request: Option<Request>,
    at: Option<u64>,
    #[serde(default)]
    arms: BTreeMap<String, String>,
    features: Option<BTreeMap<String, String>>,
    response: Option<Response>,
    suggested: Option<Admission>,
    candidates: Option<Vec<Candidate>>,
    #[serde(default)]
    pools: BTreeMap<String, Pool>,
    hit: Option<bool>,
    #[serde(default)]
    expect: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    method: Option<String>,
    url: String,
    #[serde(default)]
    headers: BTreeMap<String, Lines>,
    /// `null` is a body, too.
    #[serde(default, deserialize_with = "present")]
    json: Option<Box<RawValue>>,
    text: Option<String>,
    hex: Option<String>,
    client: Option<String>,
    client_region: Option<String>,
    node_region: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Response {
    status: u16,
    #[serde(default)]
    headers: BTreeMap<String, Lines>,
    length: Option<u64>,
    #[serde(default)]
    fetch_us: u64,
}

/// A header field's one line, or its several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Lines {
    One(String),
    Several(Vec<String>),
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Admission {
    Store(Storage),
    MarkUncacheableMs(u64),
    Pass(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct Storage {
    ttl_ms: u64,
    grace_ms: u64,
    stale_if_error_ms: u64,
    keep_ms: u64,
    tags: Vec<String>,
    vary: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Candidate {
    pool: String,
    #[serde(default)]
    model: String,
    #[serde(default)]
    inflight: u32,
    #[serde(default)]
    queued: u32,
    #[serde(default)]
    p50_us: u64,
    #[serde(default)]
    p99_us: u64,
    #[serde(default)]
    error_ppm: u32,
    #[serde(default)]
    cost_micro: u64,
    #[serde(default)]
    draining: bool,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Pool {
    endpoints: u32,
    healthy: u32,
    inflight: u32,
    queued: u32,
    p50_us: u64,
    p99_us: u64,
    error_ppm: u32,
}

/// A member that is there, even if it is `null`.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Reads a line; `at` is its number.
pub(super) fn read(text: &str, at: usize) -> Result<Read, String> {
    // serde would take a list of the members' values as well.
    if !text.trim_start().starts_with('{') {
        return Err("a line is a JSON object, with a `request` or a `config`".to_owned());
    }
    let line: Line = serde_json::from_str(text).map_err(|error| in_line(&error))?;
    let Some(config) = &line.config else { return line.record(at).map(Box::new).map(Read::Record) };
    let alone = serde_json::from_str::<BTreeMap<String, Value>>(text).is_ok_and(|members| members.len() == 1);
    if !alone {
        return Err("`config` stands alone in its line".to_owned());
    }
    if !config.get().starts_with('{') {
        return Err("`config` is a JSON object".to_owned());
    }
    Ok(Read::Config(config.get().to_owned()))
}

/// serde_json counts lines as well; here there is one.
fn in_line(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column ", " at column ")
}

impl Line {
    fn record(self, line: usize) -> Result<Record, String> {
        let request = self.request.ok_or("a record has a `request`, an object with a `url`")?;
        let body = request.body()?;
        let candidates = self.candidates.as_deref().unwrap_or_default();
        if self.candidates.is_some() && candidates.is_empty() {
            return Err("`candidates` is empty; leave it out where nobody is to be chosen".to_owned());
        }
        let features = self.features.map(|features| features.into_iter().map(|(name, text)| (name, text.into())));
        let record = Record {
            name: self.name,
            body,
            at: Timestamp(self.at.unwrap_or(0).saturating_mul(1_000)),
            arms: self.arms,
            features: features.map(Iterator::collect),
            responded: responded(self.response, self.suggested)?,
            candidates: candidates.iter().map(Candidate::meant).collect(),
            pools: KnownPools(self.pools.into_iter().map(|(name, pool)| (name, pool.meant())).collect()),
            hit: self.hit,
            ..Record::new(line, request.head()?)
        };
        let expect = expectations(self.expect, &record)?;
        Ok(Record { expect, ..record })
    }
}

fn expectations(raw: BTreeMap<String, Value>, record: &Record) -> Result<Vec<(Hook, Value)>, String> {
    let mut expect = Vec::with_capacity(raw.len());
    for (name, value) in raw {
        let Some(hook) = Hook::named(&name) else {
            return Err(format!("`expect.{name}`: allowed are {}", Hook::ALL.map(Hook::name).join(", ")));
        };
        if let Some(member) = Record::needs(hook).filter(|_| record.hook_call(hook).is_none()) {
            return Err(format!("`expect.{name}` needs `{member}` beside it"));
        }
        expect.push((hook, value));
    }
    expect.sort_by_key(|(hook, _)| *hook);
    Ok(expect)
}

impl Request {
    fn head(&self) -> Result<RequestHead, String> {
        let (scheme, authority, target) = place(&self.url)?;
        let method = self.method.as_deref().unwrap_or("GET");
        let client = self.client.as_deref().unwrap_or("127.0.0.1");
        let ip: IpAddr = client.parse().map_err(|_| format!("`request.client` `{client}` is not an IP address"))?;
        Ok(RequestHead {
            method: Method::from_bytes(method.as_bytes())
                .map_err(|_| format!("`request.method` `{method}` is not a method"))?,
            scheme,
            authority,
            target,
            received: None,
            headers: fields(&self.headers)?,
            client: Client { ip, version: Version::HTTP_11 },
            near: Near {
                client: self.client_region.as_deref().map(Into::into),
                node: self.node_region.as_deref().map(Into::into),
            },
        })
    }

    fn body(&self) -> Result<Option<Bytes>, String> {
        match (&self.json, &self.text, &self.hex) {
            (None, None, None) => Ok(None),
            (Some(json), None, None) => Ok(Some(compact(json.get()))),
            (None, Some(text), None) => Ok(Some(text.clone().into())),
            (None, None, Some(hex)) => {
                unhex(hex).map(Some).ok_or_else(|| "`request.hex` is not pairs of hex digits".to_owned())
            }
            _ => Err("a request has one of `json`, `text` and `hex`".to_owned()),
        }
    }
}

/// Scheme, authority and target of an absolute URL, in the forms in which a node hands them over.
pub(in crate::workbench) fn place(url: &str) -> Result<(Scheme, HeaderValue, http::uri::PathAndQuery), String> {
    let wrong = |reason: &str| format!("`request.url` `{url}` is not http://host/path or https://host/path: {reason}");
    let Url { scheme, authority, path, query } = Url::parse(url).map_err(|reason| wrong(&reason.to_string()))?;
    let target = query.map_or_else(|| path.to_string(), |query| format!("{path}?{query}"));
    let target = target.parse().map_err(|_| wrong("its query has what a request can't"))?;
    let authority = HeaderValue::try_from(authority).map_err(|_| wrong("it has no host"))?;
    Ok((scheme, authority, target))
}

fn fields(raw: &BTreeMap<String, Lines>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, lines) in raw {
        let parsed = self::name(name)?;
        if parsed == header::HOST {
            return Err("`host` is said by `request.url`".to_owned());
        }
        let lines = match lines {
            Lines::One(line) => std::slice::from_ref(line),
            Lines::Several(lines) => lines,
        };
        for line in lines {
            let value = HeaderValue::from_bytes(line.as_bytes())
                .map_err(|_| format!("the header field `{name}` has a control character in it"))?;
            headers.append(parsed.clone(), value);
        }
    }
    Ok(headers)
}

fn name(name: &str) -> Result<HeaderName, String> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("`{name}` is not the name of a header field"))
}

fn responded(response: Option<Response>, suggested: Option<Admission>) -> Result<Option<RecordedResponse>, String> {
    let Some(response) = response else {
        let alone = "`suggested` needs `response` beside it".to_owned();
        return if suggested.is_some() { Err(alone) } else { Ok(None) };
    };
    let status = StatusCode::from_u16(response.status)
        .map_err(|_| format!("`response.status` {} is not a status: those are 100 to 999", response.status))?;
    let suggested =
        suggested.map_or_else(|| Ok(policy::Admission::Pass("no-lifetime".to_owned())), Admission::meant)?;
    let headers = fields(&response.headers)?;
    Ok(Some(RecordedResponse { status, headers, length: response.length, fetch_us: response.fetch_us, suggested }))
}

impl Admission {
    fn meant(self) -> Result<policy::Admission, String> {
        let Storage { ttl_ms, grace_ms, stale_if_error_ms, keep_ms, tags, vary } = match self {
            Self::Store(storage) => storage,
            Self::MarkUncacheableMs(ms) => return Ok(policy::Admission::MarkUncacheable { ms }),
            Self::Pass(reason) => return Ok(policy::Admission::Pass(reason)),
        };
        let vary = vary.iter().map(|field| name(field)).collect::<Result<_, _>>()?;
        Ok(policy::Admission::Store(policy::Storage { ttl_ms, grace_ms, stale_if_error_ms, keep_ms, tags, vary }))
    }
}

impl Candidate {
    fn meant(&self) -> policy::Candidate {
        policy::Candidate {
            pool: Arc::from(self.pool.as_str()),
            model: Some(self.model.as_str()).filter(|model| !model.is_empty()).map(Arc::from),
            stats: PoolStats {
                endpoints: 1,
                healthy: u32::from(!self.draining),
                inflight: self.inflight,
                queued: self.queued,
                p50_us: self.p50_us,
                p99_us: self.p99_us,
                error_ppm: self.error_ppm,
            },
            cost_micro: self.cost_micro,
        }
    }
}

impl Pool {
    const fn meant(self) -> PoolStats {
        let Self { endpoints, healthy, inflight, queued, p50_us, p99_us, error_ppm } = self;
        PoolStats { endpoints, healthy, inflight, queued, p50_us, p99_us, error_ppm }
    }
}

/// JSON as it is written, but for white space between its tokens.
fn compact(json: &str) -> Bytes {
    let (mut quoted, mut escaped) = (false, false);
    json.bytes()
        .filter(|byte| {
            let inside = quoted;
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => quoted = !quoted,
                _ => {}
            }
            inside || !byte.is_ascii_whitespace()
        })
        .collect()
}

fn unhex(text: &str) -> Option<Bytes> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let pair = |pair: &[u8]| u8::try_from(digit(pair.first()?)? << 4 | digit(pair.get(1)?)?).ok();
    text.as_bytes().chunks(2).map(pair).collect()
}
