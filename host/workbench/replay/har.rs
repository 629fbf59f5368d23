//! A HAR file, as browsers and proxies record it, as records.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use serde::Deserialize;

use super::super::{
    error::Error,
    record::{Record, RecordedResponse, place},
    time,
};
use crate::{
    cache::{
        admit::{self, Exchange, Refusal, Rules},
        tag,
    },
    config::{Cache, Route},
    message::{Client, Near, RequestHead},
    policy::{Admission, Storage},
};

#[derive(Deserialize)]
struct Har {
    log: Log,
}

#[derive(Deserialize)]
struct Log {
    entries: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    started_date_time: String,
    request: Request,
    response: Response,
    timings: Option<Timings>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    method: String,
    url: String,
    #[serde(default)]
    headers: Vec<Field>,
    post_data: Option<PostData>,
}

#[derive(Deserialize)]
struct PostData {
    text: Option<String>,
}

#[derive(Deserialize)]
struct Response {
    status: u16,
    #[serde(default)]
    headers: Vec<Field>,
}

#[derive(Deserialize)]
struct Field {
    name: String,
    value: String,
}

/// In milliseconds.
#[derive(Deserialize)]
struct Timings {
    wait: Option<f64>,
}

/// Hands over each entry, numbered from 1, or that it is no request.
pub(super) fn each(path: &Path, take: &mut dyn FnMut(Result<Record, ()>)) -> Result<(), Error> {
    let text = fs::read(path).map_err(Error::unreadable(path))?;
    let har: Har = serde_json::from_slice(&text).map_err(|error| {
        let what = format!("not a HAR file, which is a JSON object with `log.entries`: {error}");
        Error::File { path: path.to_owned(), what }
    })?;
    for (at, entry) in har.log.entries.into_iter().enumerate() {
        let entry: Result<Entry, _> = serde_json::from_value(entry);
        take(entry.ok().and_then(|entry| record(entry, at + 1)).ok_or(()));
    }
    Ok(())
}

fn record(entry: Entry, at: usize) -> Option<Record> {
    let Entry { started_date_time, request, response, timings } = entry;
    let (scheme, authority, target) = place(&request.url).ok()?;
    let head = RequestHead {
        method: Method::from_bytes(request.method.as_bytes()).ok()?,
        scheme,
        authority,
        target,
        received: None,
        headers: fields(&request.headers),
        client: Client { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), version: Version::HTTP_11 },
        near: Near::default(),
    };
    let record = Record {
        name: Some(format!("entry {at}, {} {}", head.method, head.url())),
        body: request.post_data.and_then(|data| data.text).map(Into::into),
        at: time::parse(&started_date_time).unwrap_or_default(),
        ..Record::new(0, head)
    };
    let wait_ms = timings.and_then(|timings| timings.wait).unwrap_or(0.0);
    // A request that was blocked or never got a response has the status 0.
    let responded = StatusCode::from_u16(response.status).ok().and_then(|status| {
        let headers = fields(&response.headers);
        let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let fetch_us = (wait_ms * 1_000.0).max(0.0) as u64;
        let suggested = suggestion(&record, status, &headers, length)?;
        Some(RecordedResponse { status, headers, length, fetch_us, suggested })
    });
    Some(Record { responded, ..record })
}

/// The fields that are sent: what begins with `:` is HTTP/2's way to say method and place.
fn fields(fields: &[Field]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for field in fields {
        let parsed = (HeaderName::from_bytes(field.name.as_bytes()), HeaderValue::from_bytes(field.value.as_bytes()));
        if let (Ok(name), Ok(value)) = parsed
            && name != header::HOST
        {
            headers.append(name, value);
        }
    }
    headers
}

/// What the host would do by RFC 9111, on a route that adds nothing; a POST is taken for an item. `None` if no
/// policy is called for such a response.
fn suggestion(record: &Record, status: StatusCode, response: &HeaderMap, length: Option<u64>) -> Option<Admission> {
    let infer = record.head.method == Method::POST;
    let route = Route::new("", "");
    let exchange = Exchange {
        lent: false,
        method: &record.head.method,
        request: &record.head.headers,
        status,
        response,
        length,
        received: record.at,
        targeted: if infer { &[] } else { &route.targeted },
    };
    let rules = Rules {
        infer,
        defaults: &route.freshness,
        store_set_cookie: route.store_set_cookie,
        object_bytes_max: Cache::default().object_bytes_max,
    };
    Some(match admit::decide(&exchange, &rules) {
        admit::Admission::Refuse(Refusal::Method | Refusal::Status | Refusal::TooLarge | Refusal::RequestNoStore) => {
            return None;
        }
        admit::Admission::Refuse(refusal) => Admission::Pass(refusal.as_str().to_owned()),
        admit::Admission::Store(storage) => Admission::Store(Storage {
            ttl_ms: storage.lifetimes.ttl_ms,
            grace_ms: storage.lifetimes.grace_ms,
            stale_if_error_ms: storage.lifetimes.stale_if_error_ms,
            keep_ms: storage.lifetimes.keep_ms,
            tags: tag::names(response, &[]).map(|name| String::from_utf8_lossy(name).into_owned()).collect(),
            vary: storage.vary.unwrap_or_default(),
        }),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(har: &Value) -> Result<Vec<Option<Record>>, Error> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.har");
        fs::write(&path, har.to_string()).unwrap();
        let mut records = Vec::new();
        each(&path, &mut |record| records.push(record.ok())).map(|()| records)
    }

    fn field(name: &str, value: &str) -> Value {
        json!({"name": name, "value": value})
    }

    #[test]
    fn an_entry_is_a_request_and_its_response() {
        let entry = json!({
            "startedDateTime": "2025-11-21T03:16:00.007+01:00",
            "request": {
                "method": "GET", "url": "https://Shop.example/p?q=1#top", "httpVersion": "h2",
                "headers": [field(":authority", "shop.example"), field("Host", "x"), field("X-Tenant", "acme")],
                "cookies": [], "queryString": [], "headersSize": -1, "bodySize": 4,
                "postData": {"mimeType": "text/plain", "text": "body"}
            },
            "response": {
                "status": 200, "headers": [
                    field("cache-control", "max-age=60"), field("vary", "Accept"), field("content-length", "12"),
                    field("surrogate-key", "a b"),
                ], "content": {}
            },
            "timings": {"send": 0, "wait": 1.5, "receive": 1}
        });
        let blocked = json!({"request": {"method": "GET", "url": "http://a/"}, "response": {"status": 0}});
        let data = json!({"request": {"method": "GET", "url": "data:text/plain,x"}, "response": {"status": 200}});
        let records = read(&json!({"log": {"entries": [entry, blocked, data, 7]}})).unwrap();
        let [Some(record), Some(blocked), None, None] = records.as_slice() else { panic!("{records:?}") };
        assert_eq!(
            (record.title().as_str(), record.at.0),
            ("entry 1, GET https://shop.example/p?q=1", 1_763_691_360_007)
        );
        assert_eq!(record.head.headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-tenant"]);
        assert_eq!(record.body.as_deref(), Some(&b"body"[..]));
        let responded = record.responded.as_ref().unwrap();
        assert_eq!((responded.status.as_u16(), responded.length, responded.fetch_us), (200, Some(12), 1_500));
        let Admission::Store(storage) = &responded.suggested else { panic!("{:?}", responded.suggested) };
        assert_eq!((storage.ttl_ms, storage.tags.join(","), storage.vary.len()), (60_000, "a,b".to_owned(), 1));
        assert!(blocked.responded.is_none());
    }

    #[test]
    fn only_what_admit_decides_about_has_a_response() {
        for (method, status, wanted) in [
            ("GET", 200, Some(Admission::Pass("no-lifetime".into()))),
            ("POST", 200, Some(Admission::Pass("no-lifetime".into()))),
            ("DELETE", 200, None),
            ("GET", 206, None),
        ] {
            let entry = json!({"request": {"method": method, "url": "http://a/"}, "response": {"status": status}});
            let records = read(&json!({"log": {"entries": [entry]}})).unwrap();
            let responded = records[0].as_ref().unwrap().responded.as_ref();
            assert_eq!(responded.map(|responded| responded.suggested.clone()), wanted, "{method} {status}");
        }
    }

    #[test]
    fn what_is_no_har_is_said() {
        for other in [json!([]), json!({"log": {}}), json!({"entries": []})] {
            let error = read(&other).unwrap_err().to_string();
            assert!(error.contains("not a HAR file, which is a JSON object with `log.entries`"), "{error}");
        }
    }
}
