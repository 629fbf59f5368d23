//! What routes say beside host, path and pool.

use super::*;

#[test]
fn wrong_conditions_and_edits_are_named_where_they_stand() {
    let table: [(&str, &[&str]); 28] = [
        ("path = \"/x\"\n[[route]]\nname = \"b\" # !", &["the route `b` has no pool", "`redirect`"]),
        ("methods = [\"get\"] # !", &["\"get\" is no method", "case counts"]),
        ("methods = [\"GET\", \"GET\"] # !", &["`GET` is named twice"]),
        ("headers = { \"x y\" = true } # !", &["\"x y\" is no header's name"]),
        ("headers = { Host = \"a\" } # !", &["`host` is no condition", "`hosts`"]),
        ("headers = { x-a = true, X-A = \"1\" } # !", &["`x-a` is named twice"]),
        ("headers = { x-a = false } # !", &["a condition can't be `false`"]),
        ("headers = { x-a = \" 1\" } # !", &["\" 1\" is no value of a header field"]),
        ("headers = { x-a = 1 } # !", &["the text that it has to be, or `true`"]),
        ("query = { \"a=b\" = true } # !", &["\"a=b\" is no name of a parameter"]),
        ("query = { a = \"b&c\" } # !", &["\"b&c\" is no value of a parameter", "`%26`"]),
        ("query = { a = true, \"%61\" = true } # !", &["is named twice"]),
        ("rewrite = {} # !", &["`rewrite` changes nothing"]),
        ("rewrite = { prefix = \"v2\" } # !", &["`prefix` can't be \"v2\": it doesn't begin with `/`"]),
        ("rewrite = { prefix = \"/v2/\" } # !", &["it ends with `/`"]),
        ("rewrite = { prefix = \"/v2/../x\" } # !", &["it isn't in its normal form"]),
        ("rewrite = { prefix = \"/v2/..%2Fx\" } # !", &["it isn't in its normal form"]),
        ("rewrite = { strip_prefix = \"/\" } # !", &["nothing is stripped"]),
        (
            "path = \"/api\"\nrewrite = { strip_prefix = \"/api/v1\" } # !",
            &["not all paths of the route begin with it"],
        ),
        (
            "rewrite = { prefix = \"/v2\" }\nforward_path = \"as-received\" # !",
            &["a path is rewritten in its normal form"],
        ),
        ("request_headers = { set = { host = \"a\" } } # !", &["`host` can't be edited"]),
        ("request_headers = { remove = [\"If-None-Match\"] } # !", &["`if-none-match` can't be edited"]),
        ("request_headers = { set = { x-a = \"1\\r\\nx-b: 2\" } } # !", &["is no value of a header field"]),
        ("response_headers = { remove = [\"Vary\"] } # !", &["`vary` can't be edited"]),
        ("response_headers = { set = { x-a = \"1\" }, remove = [\"x-a\"] } # !", &["`x-a` is named twice"]),
        ("response_headers = { add = {} } # !", &["unknown key `add`", "`set`"]),
        ("requests_max = 0 # !", &["`requests_max` can't be 0", "1 to 1_000_000"]),
        ("response_ms = 0 # !", &["`response_ms` can't be 0 ms"]),
    ];
    for (text, phrases) in table {
        check_refusal(&format!("[[route]]\nname = \"a\"\npool = \"web\"\n{text}\n{SERVED}"), phrases);
    }
}

#[test]
fn wrong_parents_are_named_where_they_stand() {
    let (own, shield) = ("name = \"a\"\npool = \"web\"", "[pool.shield]\nendpoints = [\"http://127.0.0.1:9001\"]\n");
    let table: [(&str, &[&str]); 5] = [
        ("parents = \"shild\" # !", &["there is no pool `shild`", "did you mean `shield`?"]),
        ("parents = \"web\" # !", &["the pool `web` can't be both the origin of a route and its parents"]),
        (
            "candidates = [{ pool = \"shield\" }]\nparents = \"shield\" # !",
            &["the pool `shield` can't be both the origin of a route and its parents"],
        ),
        ("parents_share_purges = true # !", &["a route without `parents` shares no purges with them"]),
        (
            "mode = \"infer\"\nprotocol = \"plain\"\nparents = \"shield\" # !",
            &["only a route of `mode = \"http\"` has `parents`"],
        ),
    ];
    for (text, phrases) in table {
        check_refusal(&format!("[[route]]\n{own}\n{text}\n{shield}{SERVED}"), phrases);
    }
    let shares = format!("[[route]]\n{own}\nparents = \"shield\"\nparents_share_purges = true\n{shield}{SERVED}");
    let route = &valid(&shares).routes[0];
    assert_eq!((route.parents.as_deref(), route.parents_share_purges), (Some("shield"), true));
}

#[test]
fn wrong_responses_of_a_routes_own_are_named_where_they_stand() {
    let table: [(&str, &[&str]); 11] = [
        ("redirect = { status = 200, to = \"/x\" } # !", &["`status` of a redirect can't be 200", "308"]),
        ("redirect = { to = \"https://{path}\" } # !", &["is no target of a redirect", "no host"]),
        ("redirect = { to = \"/{path}\" } # !", &["is no target of a redirect", "not behind another `/`"]),
        ("redirect = { to = \"/x\" }\nrespond = {} # !", &["`redirect` or `respond`, not both"]),
        ("respond = {}\nrewrite = { prefix = \"/x\" } # !", &["has no `rewrite`"]),
        ("respond = {}\nrequests_max = 1 # !", &["has no `requests_max`"]),
        ("respond = { status = 304 } # !", &["`status` of a fixed response can't be 304"]),
        ("respond = { status = 204, body = \"x\" } # !", &["a response of 204 has no body"]),
        ("respond = { content_type = \"text\" } # !", &["\"text\" is no media type"]),
        ("respond = {}\nprotocol = \"plain\"\nmode = \"infer\" # !", &["has no `mode`"]),
        ("redirect = { to = \"/x\" }\npool = \"web\" # !", &["a route with `redirect` or `respond` has no `pool`"]),
    ];
    for (text, phrases) in table {
        check_refusal(&format!("[[route]]\nname = \"a\"\n{text}\n{SERVED}"), phrases);
    }
}

#[test]
fn routes_that_cannot_be_told_apart_or_are_never_reached_are_named() {
    let refusal = |first: &str, second: &str| {
        let text = format!(
            "[[route]]\nname = \"a\"\npool = \"web\"\n{first}\n[[route]]\npool = \"web\"\n{second}\nname = \"b\"\n{SERVED}"
        );
        parse("t.toml", &text).err().map(|error| error.to_string())
    };
    let (apart, unreached) = ("can't be told apart", "is never reached");
    for (first, second, wanted) in [
        ("", "", Some(apart)),
        ("", "path = \"/x\"", None),
        ("path = \"/%40me\"", "path = \"/@me\"", Some(apart)),
        ("hosts = [\"a.org\"]", "", None),
        ("hosts = [\"a.org\", \"b.org\"]", "hosts = [\"b.org\", \"c.org\"]", Some(apart)),
        ("hosts = [\"*.a.org\"]", "hosts = [\"x.a.org\"]", None),
        ("methods = [\"GET\"]", "", None),
        ("methods = [\"GET\", \"HEAD\"]", "methods = [\"HEAD\", \"GET\"]", Some(apart)),
        ("methods = [\"GET\", \"HEAD\"]", "methods = [\"HEAD\"]", Some(unreached)),
        ("methods = [\"HEAD\"]", "methods = [\"GET\", \"HEAD\"]", None),
        ("headers = { x-a = true }", "headers = { x-a = \"1\" }", Some(unreached)),
        ("headers = { x-a = \"1\" }", "headers = { x-a = true }", None),
        ("headers = { x-a = true }", "headers = { x-b = true }", None),
        ("headers = { x-a = true }", "headers = { x-a = \"1\", x-b = true }", None),
        ("query = { v = \"1\" }", "query = { v = \"2\" }", None),
        // Reached at one of its hosts.
        (
            "hosts = [\"a.org\"]\nmethods = [\"GET\", \"HEAD\"]",
            "hosts = [\"a.org\", \"b.org\"]\nmethods = [\"HEAD\"]",
            None,
        ),
    ] {
        let said = refusal(first, second);
        match wanted {
            None => assert_eq!(said, None, "{first}\n{second}"),
            Some(phrase) => {
                assert!(said.as_ref().is_some_and(|said| said.contains(phrase)), "{first}\n{second}\n{said:?}")
            }
        }
    }
    let many: String = (0..65)
        .map(|n| format!("[[route]]\nname = \"r{n}\"\npool = \"web\"\nheaders = {{ x-tenant = \"{n}\" }}\n"))
        .collect();
    let said = parse("t.toml", &format!("{many}{SERVED}")).expect_err("too many").to_string();
    assert!(said.contains("more than 64 routes are for the same host and path"), "{said}");
}
