//! Joined replies in the content coding that their client wants (RFC 9110, sections 8.4 and 12.5.3).

use http::{
    HeaderMap, HeaderValue,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, ETAG},
};

use crate::{
    cache::control::Directives,
    config,
    message::{
        Body,
        compression::{accepted, compress},
    },
    pipeline::{
        coding::{may_be_coded, name_in_vary},
        metrics::ReplyCodings,
        reply::Reply,
    },
};

/// Returns the reply in the coding that the client likes best of those that the rule offers, or as it is. A client that
/// accepts neither a coding of these nor none gets none: to do without the response would help it less (RFC 9110,
/// section 12.4.1).
pub(super) async fn compressed(
    rule: &config::Compress,
    codings: &ReplyCodings,
    request: &HeaderMap,
    mut reply: Reply,
) -> Reply {
    let plain = match reply.response.body() {
        Body::Full(body) => body.clone(),
        Body::Empty | Body::Stream(_) => return reply,
    };
    let may_be_coded = may_be_coded(rule, reply.response.status(), reply.response.headers());
    if !may_be_coded || Directives::read(request).no_transform {
        return reply;
    }
    name_in_vary(reply.response.headers_mut());
    let accepted = accepted(request, &rule.codings);
    let Some(coding) = accepted.coding.filter(|_| plain.len() >= rule.bytes_min || !accepted.identity) else {
        return reply;
    };
    let Some(coded) = compress(coding, plain.clone()).await else { return reply };
    if coded.len() >= plain.len() && accepted.identity {
        return reply;
    }
    codings.count(coding.as_str(), coded.len(), plain.len());
    describe(reply.response.headers_mut(), &coding.field());
    *reply.response.body_mut() = Body::Full(coded);
    reply
}

/// Describes the body in this coding. It has other bytes than the one that a strong validator is of (RFC 9110, section
/// 8.8.1).
fn describe(headers: &mut HeaderMap, coding: &HeaderValue) {
    headers.insert(CONTENT_ENCODING, coding.clone());
    headers.remove(CONTENT_LENGTH);
    let strong = headers.get(ETAG).map(HeaderValue::as_bytes).filter(|tag| !tag.starts_with(b"W/"));
    if let Some(weak) = strong.and_then(|tag| HeaderValue::from_bytes(&[&b"W/"[..], tag].concat()).ok()) {
        headers.insert(ETAG, weak);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderName, StatusCode, header::VARY};

    use super::*;
    use crate::{
        message::{Response, coding::decode, compression::Compression},
        pipeline::trail::Trail,
    };

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    fn rule() -> config::Compress {
        config::Compress { codings: vec![Compression::Zstd, Compression::Gzip], ..config::Compress::default() }
    }

    fn reply(status: u16, lines: &[(&'static str, &'static str)], body: &Bytes) -> Reply {
        let mut response = Response::new(Body::Full(body.clone()));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        *response.headers_mut() = headers(lines);
        Reply { response, trail: Trail::default() }
    }

    fn body(bytes: usize) -> Bytes {
        Bytes::from("0.25, ".repeat(bytes / 6 + 1)).slice(..bytes)
    }

    async fn for_client(accepts: &'static str, reply: Reply) -> (HeaderMap, Bytes) {
        let request = headers(&[("accept-encoding", accepts)]);
        let (parts, body) = compressed(&rule(), &ReplyCodings::default(), &request, reply).await.response.into_parts();
        (parts.headers, body.collect(u64::MAX).await.unwrap())
    }

    const JSON: (&str, &str) = ("content-type", "Application/JSON; charset=utf-8");

    #[tokio::test]
    async fn a_client_gets_the_body_in_the_coding_it_likes() {
        for (bytes, accepts, wanted) in [
            (5_000, "gzip, zstd", Some("zstd")),
            (5_000, "gzip, zstd;q=0.5", Some("gzip")),
            (5_000, "br", None),
            (5_000, "identity;q=0, br", None),
            (200_000, "gzip", Some("gzip")),
            (1_024, "gzip", Some("gzip")),
            (1_023, "gzip", None),
            (1_023, "gzip, identity;q=0", Some("gzip")),
            (3, "gzip, identity;q=0", Some("gzip")),
            (3, "*;q=0", None),
        ] {
            let plain = body(bytes);
            let (fields, sent) = for_client(accepts, reply(200, &[JSON, ("content-length", "1")], &plain)).await;
            let coding = fields.get(CONTENT_ENCODING).map(|coding| coding.to_str().unwrap());
            assert_eq!(coding, wanted, "{bytes} for {accepts}");
            assert_eq!(fields.contains_key(CONTENT_LENGTH), coding.is_none(), "the server states it");
            assert_eq!(fields[VARY], "accept-encoding");
            assert_eq!(decode(&fields, &sent, 1 << 20).unwrap(), plain, "{bytes} for {accepts}");
        }
    }

    #[tokio::test]
    async fn what_must_not_be_changed_is_not() {
        let plain = body(5_000);
        for (status, lines) in [
            (200, &[][..]),
            (200, &[("content-type", "image/png")]),
            (200, &[("content-type", "application/octet-stream")]),
            (206, &[JSON]),
            (200, &[JSON, ("content-range", "bytes 0-9/10")]),
            (200, &[JSON, ("content-encoding", "br")]),
            (200, &[JSON, ("cache-control", "max-age=60, no-transform")]),
            (200, &[JSON, ("content-digest", "sha-256=:AA==:")]),
            (200, &[JSON, ("repr-digest", "sha-256=:AA==:")]),
        ] {
            let (fields, sent) = for_client("gzip, *", reply(status, lines, &plain)).await;
            assert_eq!((fields, sent), (headers(lines), plain.clone()), "{status} {lines:?}");
        }
        let request = headers(&[("accept-encoding", "gzip"), ("cache-control", "no-transform")]);
        let kept = compressed(&rule(), &ReplyCodings::default(), &request, reply(200, &[JSON], &plain)).await;
        assert_eq!(*kept.response.headers(), headers(&[JSON]));
    }

    #[tokio::test]
    async fn a_body_that_does_not_get_smaller_stays_as_it_is() {
        let mut noise = vec![0; 4_096];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let (fields, sent) = for_client("gzip, zstd", reply(200, &[JSON], &noise.clone().into())).await;
        assert_eq!((fields.get(CONTENT_ENCODING), &sent[..]), (None, &noise[..]));
        assert_eq!(fields[VARY], "accept-encoding", "another body of this route may be coded");
    }

    #[tokio::test]
    async fn errors_are_coded_as_well_and_validators_are_the_codings_own() {
        let plain = body(5_000);
        for (given, wanted) in [("\"a\"", "W/\"a\""), ("W/\"a\"", "W/\"a\"")] {
            let lines = [("content-type", "application/problem+json"), ("etag", given), ("vary", "accept")];
            let (fields, _) = for_client("zstd", reply(500, &lines, &plain)).await;
            assert_eq!(fields[CONTENT_ENCODING], "zstd");
            assert_eq!(fields[ETAG], wanted);
            let varies: Vec<_> = fields.get_all(VARY).iter().collect();
            assert_eq!(varies, ["accept", "accept-encoding"]);
        }
        for given in ["*", "origin, Accept-Encoding"] {
            let (fields, _) = for_client("zstd", reply(200, &[JSON, ("vary", given)], &plain)).await;
            assert_eq!(fields.get_all(VARY).iter().count(), 1, "{given}");
        }
    }
}
