use proptest::prelude::*;

use super::*;

fn normal(path: &str) -> String {
    normal_path(path).map_or_else(|invalid| format!("{invalid:?}"), Cow::into_owned)
}

#[test]
fn a_name_stays_one_segment() {
    assert_eq!(segment("tenant-key_2.x"), "tenant-key_2.x");
    assert_eq!(segment("a/b?c ü"), "a%2Fb%3Fc%20%C3%BC");
}

#[test]
fn paths_have_one_form() {
    for (path, wanted) in [
        ("/", "/"),
        ("/a", "/a"),
        ("/a/", "/a/"),
        ("//", "/"),
        ("//a", "/a"),
        ("/a//b///c", "/a/b/c"),
        ("/./a", "/a"),
        ("/a/.", "/a/"),
        ("/a/./", "/a/"),
        ("/x/../a", "/a"),
        ("/a/..", "/"),
        ("/a/b/../..", "/"),
        ("/a//../b", "/b"),
        ("/x/%2e%2e/a", "/a"),
        ("/x/%2E./a", "/a"),
        ("/x/.%2e/a", "/a"),
        ("/%2e/a", "/a"),
        ("/...", "/..."),
        ("/.a/..b/c..", "/.a/..b/c.."),
        ("/%61", "/a"),
        ("/%7euser", "/~user"),
        ("/%2D%5F%2e%7E", "/-_.~"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/café", "/caf%C3%A9"),
        ("/a%2fb", "/a%2Fb"),
        ("/a%5cb", "/a%5Cb"),
        ("/a\\b", "/a%5Cb"),
        ("/x/..%2fa", "/x/..%2Fa"),
        ("/a b", "/a%20b"),
        ("/\"{}|^`<>[]", "/%22%7B%7D%7C%5E%60%3C%3E%5B%5D"),
        ("/!$&'()*+,;=:@", "/!$&'()*+,;=:@"),
        ("/%21%2b%3b%40", "/%21%2B%3B%40"),
        ("/a;x=1/b;c", "/a;x=1/b;c"),
        ("/%", "/%"),
        ("/%z%", "/%z%"),
        ("/%zz", "/%zz"),
        ("/%4", "/%4"),
        ("/%%34%31", "/%%341"),
        ("/%4%31", "/%4%31"),
        ("/%2541", "/%2541"),
        ("/a%00b", "/a%00b"),
        ("/..", "AboveRoot"),
        ("/../a", "AboveRoot"),
        ("/a/../../b", "AboveRoot"),
        ("//../a", "AboveRoot"),
        ("/%2e%2E/a", "AboveRoot"),
    ] {
        assert_eq!(normal(path), wanted, "{path}");
    }
}

#[test]
fn a_normal_path_is_not_copied() {
    for path in ["/", "/catalogue/item", "/caf%C3%A9", "/a%2Fb;x=1/", "/.well-known/x.y"] {
        assert!(matches!(normal_path(path), Ok(Cow::Borrowed(_))), "{path}");
    }
    let given = PathAndQuery::from_static("/a?b=%7e");
    let (target, received) = normalise(given.clone()).unwrap();
    assert_eq!((target.as_str().as_ptr(), received), (given.as_str().as_ptr(), None));
}

#[test]
fn a_target_keeps_its_query_and_what_was_received() {
    for (given, wanted) in [("//a?b//../c=%7e", "/a?b//../c=%7e"), ("/%61?", "/a?"), ("/x/..", "/")] {
        let (target, received) = normalise(given.parse().unwrap()).unwrap();
        assert_eq!((target.as_str(), received.unwrap().as_str()), (wanted, given));
    }
    assert_eq!(normalise(PathAndQuery::from_static("/../a")), Err(TargetInvalid::AboveRoot));
    let long = format!("/{}", "é".repeat(30_000));
    assert_eq!(normalise(long.parse().unwrap()), Err(TargetInvalid::TooLong));
}

#[test]
fn queries_keep_their_order_and_their_delimiters() {
    for (query, wanted) in [
        ("", ""),
        ("b=2&a=1&&", "b=2&a=1&&"),
        ("a=%7e%2f%26", "a=~%2F%26"),
        ("x={\"a\":1}", "x=%7B%22a%22:1%7D"),
        ("a[]=|^`\\<>", "a%5B%5D=%7C%5E%60%5C%3C%3E"),
        ("n=é é", "n=%C3%A9%20%C3%A9"),
        ("next=http://x/y?z=+1", "next=http://x/y?z=+1"),
        ("%", "%"),
    ] {
        assert_eq!(normal_query(query), wanted);
    }
}

#[test]
fn lax_servers_read_other_paths() {
    for (path, wanted) in [
        ("/a/b", &[][..]),
        ("/caf%C3%A9", &[]),
        ("/a%2Fb", &["/a/b"]),
        ("/x/..%2Faccount", &["/account"]),
        ("/%2Faccount", &["/account"]),
        ("/..%5C..%2Faccount", &["/account"]),
        ("/account;x", &["/account"]),
        ("/x/..;/account", &["/account"]),
        ("/;/account", &["/account"]),
        ("/account%3Bx", &["/account;x", "/account"]),
        ("/x/..;y%2Faccount", &["/x/..;y/account", "/", "/account"]),
    ] {
        assert_eq!(readings(path), wanted, "{path}");
    }
}

#[test]
fn what_servers_resolve_differently_is_known() {
    for (path, wanted) in [
        ("/a/b", false),
        ("/a//b", false),
        ("/a/https://b", false),
        ("/%61", false),
        ("//a", true),
        ("/a/../b", true),
        ("/a/%2e%2e/b", true),
        ("/a/.", true),
    ] {
        assert_eq!(is_unresolved(path), wanted, "{path}");
    }
}

#[test]
fn a_prefix_is_compared_decoded_and_ends_at_a_border() {
    for (prefix, path, wanted) in [
        ("/", "/any", true),
        ("/", "/%20", true),
        ("/api", "/api", true),
        ("/api", "/api/x", true),
        ("/api", "/api;v=1/x", true),
        ("/api", "/apix", false),
        ("/api", "/api%2Fx", false),
        ("/api", "/api%3Bx", false),
        ("/api/", "/api/x", true),
        ("/api/", "/api", false),
        ("/@me", "/%40me/x", true),
        ("/%40me", "/@me", true),
        ("/caf%C3%A9", "/caf%C3%A9/x", true),
        ("/a%2Fb", "/a%2Fb", true),
        ("/a%2Fb", "/a/b", false),
        ("/a/b", "/a%2Fb", false),
        ("/100%25", "/100%", true),
        ("/api/x", "/ap%20", false),
    ] {
        assert_eq!(reaches(prefix, path), wanted, "{prefix} {path}");
    }
}

#[test]
fn names_of_parameters_are_compared_decoded() {
    for (one, other, wanted) in [
        ("user", "user", true),
        ("user", "us%65r", true),
        ("%75ser", "us%65r", true),
        ("a[b]", "a%5Bb%5d", true),
        ("a b", "a+b", true),
        ("a+b", "a%20b", true),
        ("a+b", "a%2Bb", false),
        ("user", "User", false),
        ("user", "use", false),
        ("user", "user%", false),
    ] {
        assert_eq!(is_same_parameter(one, other), wanted, "{one} {other}");
        assert_eq!(is_same_parameter(other, one), wanted, "{other} {one}");
    }
}

/// Paths of what is worth mixing.
fn odd() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "/", "//", ".", "..", "%2e", "%2E", "a", "B", "4", "1", "%", "%4", "%61", "%41", "%2f", "%2F", "%5c", "\\",
        ";", "%3b", "é", "%c3%a9", "%25", "+", "%2b", "{", " ", "?",
    ]);
    prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
}

/// Returns the same path in other words: letters escaped, digits of escapes in the other case, slashes doubled, detours
/// made.
fn respelled(path: &str, choices: &[u8]) -> String {
    let mut whole = String::new();
    let mut rest = path;
    let mut choices = choices.iter().cycle();
    while let Some(first) = rest.chars().next() {
        let choice = choices.next().copied().unwrap_or_default();
        let taken = if escaped(rest.as_bytes()).is_some() { ESCAPE } else { first.len_utf8() };
        let (piece, behind) = rest.split_at(taken);
        rest = behind;
        match (first, choice % 4) {
            ('%', 1) => whole.push_str(&piece.to_ascii_lowercase()),
            ('/', 1) => whole.push_str("//"),
            ('/', 2) => whole.push_str("/./"),
            ('/', 3) => whole.push_str("/z/%2e%2E/"),
            (first, 1 | 2) if first.is_ascii_alphanumeric() => whole.push_str(&format!("%{:02x}", first as u8)),
            _ => whole.push_str(piece),
        }
    }
    whole
}

proptest! {
    #[test]
    fn what_is_normal_stays_and_is_clean(path in odd()) {
        if let Ok(once) = normal_path(&path) {
            prop_assert!(matches!(normal_path(&once), Ok(Cow::Borrowed(_))) || once.contains('%'), "{} {}", path, once);
            prop_assert_eq!(normal(&once), once.clone().into_owned());
            prop_assert!(once.starts_with('/') && once.is_ascii());
            prop_assert!(!once.contains("//") && !once.split('/').any(|segment| segment == "." || segment == ".."));
        }
        let query = normal_query(&path).into_owned();
        prop_assert_eq!(normal_query(&query).into_owned(), query.clone());
    }

    #[test]
    fn every_spelling_has_the_same_form(path in "(/[a-zA-Z0-9~_-]{1,3}(%2F|%C3%A9|%40|;v=1)?){1,4}/?", choices: [u8; 7]) {
        let other = respelled(&path, &choices);
        prop_assert_eq!(normal(&other), normal(&path), "{}", other);
    }

    #[test]
    fn a_form_decodes_to_what_the_path_decodes_to(path in "/[a-zA-Z013-9%é+;{]{0,20}") {
        let bytes = |text: &str| decoded(text.as_bytes()).map(|(byte, _)| byte).collect::<Vec<_>>();
        prop_assert_eq!(bytes(&normal(&path)), bytes(&path));
    }

    #[test]
    fn readings_are_resolved(path in odd()) {
        if let Ok(once) = normal_path(&path) {
            for reading in readings(&once) {
                prop_assert!(reading.starts_with('/') && reading != once);
                prop_assert!(!reading.contains("//") && !reading.contains("/../"));
            }
        }
    }
}
