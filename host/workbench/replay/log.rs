//! A node's access log as records. It has no header fields and no bodies.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    net::IpAddr,
    path::Path,
};

use http::{HeaderMap, Method, Version};
use serde::Deserialize;

use super::super::{
    error::Error,
    record::{Record, place},
    time,
};
use crate::message::{Client, Near, RequestHead};

/// What is read of a line.
#[derive(Deserialize)]
struct Line {
    time: String,
    client: IpAddr,
    method: String,
    scheme: String,
    authority: String,
    target: String,
    lookup: String,
}

/// Hands over each request of the log, one after the other, or that a line is none.
pub(super) fn each(path: &Path, take: &mut dyn FnMut(Result<Record, ()>)) -> Result<(), Error> {
    let file = File::open(path).map_err(Error::unreadable(path))?;
    for (at, line) in BufReader::new(file).split(b'\n').enumerate() {
        let line = line.map_err(Error::unreadable(path))?;
        if !line.trim_ascii().is_empty() {
            take(record(&line, at + 1).ok_or(()));
        }
    }
    Ok(())
}

/// `None` if the line is no request, or if its target was too long for the log.
fn record(line: &[u8], at: usize) -> Option<Record> {
    let line: Line = serde_json::from_slice(line).ok()?;
    // A target that was too long ends in an ellipsis.
    if !line.target.is_ascii() {
        return None;
    }
    let url = format!("{}://{}{}", line.scheme, line.authority, line.target);
    let (scheme, authority, target) = place(&url).ok()?;
    let head = RequestHead {
        method: Method::from_bytes(line.method.as_bytes()).ok()?,
        scheme,
        authority,
        target,
        received: None,
        headers: HeaderMap::new(),
        client: Client { ip: line.client, version: Version::HTTP_11 },
        near: Near::default(),
    };
    let hit = matches!(line.lookup.as_str(), "hit" | "stale");
    Some(Record { at: time::parse(&line.time)?, hit: Some(hit), ..Record::new(at, head) })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(text: &str) -> Vec<Option<Record>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.jsonl");
        fs::write(&path, text).unwrap();
        let mut records = Vec::new();
        each(&path, &mut |record| records.push(record.ok())).unwrap();
        records
    }

    #[test]
    fn a_line_is_a_request() {
        let line = concat!(
            r#"{"time":"2025-11-21T02:16:00.007Z","id":"r-1","client":"192.0.2.7","version":"HTTP/2","method":"POST","#,
            r#""scheme":"https","authority":"shop.example:8443","target":"/p?b=2","status":200,"bytes_out":9,"#,
            r#""duration_us":7,"route":"default","lookup":"stale","stored":false,"collapsed":false,"attempts":1}"#
        );
        let cut = line.replace("/p?b=2", "/long…");
        let records = read(&format!("{line}\n\n  listening on …\n{cut}\n{}", line.replace("stale", "miss")));
        let [Some(record), None, None, Some(miss)] = records.as_slice() else { panic!("{records:?}") };
        assert_eq!(record.head.url(), "https://shop.example:8443/p?b=2");
        assert_eq!((record.line, record.head.method.as_str(), record.at.0), (1, "POST", 1_763_691_360_007));
        assert_eq!((record.head.client.ip.to_string().as_str(), record.hit), ("192.0.2.7", Some(true)));
        assert_eq!((miss.line, miss.hit), (5, Some(false)));
    }
}
