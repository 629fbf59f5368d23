//! Pools that speak another protocol than their clients.

use super::*;

/// A pool that speaks another protocol, and a route that leads there.
fn translated(pool: &str, route: &str) -> String {
    format!(
        "{LISTENING}[pool.web]\nendpoints = [\"http://h\"]\n{pool}\n[pool.other]\nendpoints = [\"http://o\"]\n\
         [[route]]\nname = \"a\"\nmode = \"infer\"\n{route}"
    )
}

#[test]
fn wrong_translations_are_named_where_they_stand() {
    let (embeddings, kserve) = ("protocol = \"openai-embeddings\"\npool = \"web\"", "protocol = \"kserve\"");
    let table: [(&str, &str, &[&str]); 13] = [
        ("protocol = \"kserv\" # !", embeddings, &["`protocol` can't be `kserv`", "did you mean `kserve`?"]),
        ("protocol = \"plain\" # !", embeddings, &["`protocol` can't be `plain`"]),
        ("translate = { model = \"m\" } # !", embeddings, &["only a pool with a `protocol` of its own"]),
        (
            "protocol = \"kserve\"\ntranslate.datatype = \"FP16\" # !",
            embeddings,
            &["`datatype` can't be `FP16`", "`FP32`"],
        ),
        ("protocol = \"kserve\"\ntranslate.path = \"v2\" # !", embeddings, &["\"v2\" is no path"]),
        ("protocol = \"kserve\"\ntranslate.path = \"/{name}\" # !", embeddings, &["\"/{name}\" is no path"]),
        ("protocol = \"kserve\"\ntranslate.input = \"\" # !", embeddings, &["`input` can't be \"\""]),
        ("protocol = \"kserve\"\ntranslate.model = \"..\" # !", embeddings, &["`model` can't be \"..\""]),
        ("protocol = \"kserve-grpc\"\nhttp = \"1.1\" # !", embeddings, &["speaks HTTP/2", "`http = \"2\"`"]),
        (kserve, "protocol = \"plain\"\npool = \"web\" # !", &["`protocol = \"plain\"` can't be translated"]),
        (kserve, "protocol = \"json-array\"\npool = \"web\" # !", &["the pool `web` needs `translate.model`"]),
        (
            kserve,
            "protocol = \"openai-embeddings\"\npool = \"web\"\ncandidates = [{ pool = \"web\" }, { pool = \"other\" }] # !",
            &["the pools `web` and `other` are sent different requests"],
        ),
        (
            kserve,
            "protocol = \"openai-embeddings\"\npool = \"web\"\ncandidates = [{ pool = \"web\", model = \"m\" }] # !",
            &["has no `model`", "`translate.model`"],
        ),
    ];
    for (pool, route, phrases) in table {
        check_refusal(&translated(pool, route), phrases);
    }
}

#[test]
fn a_route_is_translated_if_its_pool_speaks_another_protocol() {
    let of = |pool: &str, client: &str| {
        let config = valid(&translated(pool, &format!("protocol = \"{client}\"\npool = \"web\"")));
        let translation = config.routes[0].translation.as_ref().map(|translation| translation.protocol);
        (translation, config.pools["web"].http)
    };
    let (kserve, grpc) = ("protocol = \"kserve\"", "protocol = \"kserve-grpc\"");
    assert_eq!(of(kserve, "openai-embeddings"), (Some(PoolProtocol::KServe), OriginHttp::Http1));
    assert_eq!(of(kserve, "kserve"), (None, OriginHttp::Http1));
    assert_eq!(of(grpc, "kserve"), (Some(PoolProtocol::KServeGrpc), OriginHttp::Http2));
    assert_eq!(of("", "openai-embeddings"), (None, OriginHttp::Http1));
    let array = "protocol = \"json-array\"\ntranslate.path = \"/predict\"";
    assert_eq!(of(array, "msgpack-array").0, Some(PoolProtocol::JsonArray));
    // Requests over HTTP aren't items.
    let http = valid(&format!("{LISTENING}[pool.web]\nendpoints = [\"http://h\"]\n{kserve}"));
    assert_eq!(http.routes[0].translation, None);
}
