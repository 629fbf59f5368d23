use proptest::prelude::*;

use super::*;

const THEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    let field =
        |(name, value): &(&'static str, &'static str)| (HeaderName::from_static(name), HeaderValue::from_static(value));
    lines.iter().map(field).collect()
}

#[test]
fn ranges_of_a_body_of_ten_bytes() {
    use Selection::{One, Several, Unsatisfiable};
    for (field, wanted) in [
        ("bytes=0-4", One(0..5)),
        ("Bytes = 0-4", Selection::Whole),
        ("BYTES=0-4", One(0..5)),
        ("bytes= 0-4 ,", One(0..5)),
        ("bytes=0-", One(0..10)),
        ("bytes=9-", One(9..10)),
        ("bytes=5-99", One(5..10)),
        ("bytes=-3", One(7..10)),
        ("bytes=-10", One(0..10)),
        ("bytes=-99", One(0..10)),
        ("bytes=0-99999999999999999999999999", One(0..10)),
        ("bytes=-99999999999999999999999999", One(0..10)),
        ("bytes=10-", Unsatisfiable),
        ("bytes=10-20", Unsatisfiable),
        ("bytes=-0", Unsatisfiable),
        ("bytes=99999999999999999999999999-", Unsatisfiable),
        ("bytes=10-,-0", Unsatisfiable),
        ("bytes=0-1,4-5", Several(vec![0..2, 4..6])),
        ("bytes=-2, 0-0", Several(vec![8..10, 0..1])),
        ("bytes=0-0,,20-30,-1", Several(vec![0..1, 9..10])),
        ("bytes=0-0,20-30", One(0..1)),
        ("bytes=0-4,2-6", One(0..7)),
        ("bytes=0-4,5-9", One(0..10)),
        ("bytes=8-8,0-1,1-3,7-9", Several(vec![7..10, 0..4])),
    ] {
        let selection = Ranges::parse(field).map_or(Selection::Whole, |ranges| ranges.select(10));
        assert_eq!(selection, wanted, "{field}");
    }
    for ignored in [
        "",
        "bytes",
        "bytes=",
        "bytes=,",
        "bytes=-",
        "bytes=a-b",
        "bytes=1",
        "bytes=1-2-3",
        "bytes=4-3",
        "bytes=+1-2",
        "bytes=1 - 2",
        "bytes=0-1,x",
        "lines=0-4",
        "bytes 0-4",
        "bytes=0x1-2",
    ] {
        assert_eq!(Ranges::parse(ignored), None, "{ignored}");
    }
}

#[test]
fn a_body_without_bytes_has_no_range() {
    for (field, wanted) in [
        ("bytes=0-", Selection::Unsatisfiable),
        ("bytes=-0", Selection::Unsatisfiable),
        ("bytes=-5", Selection::Whole),
        ("bytes=0-,-5", Selection::Whole),
    ] {
        assert_eq!(Ranges::parse(field).unwrap().select(0), wanted, "{field}");
    }
}

#[test]
fn more_ranges_than_may_be_are_ignored_and_so_are_two_fields() {
    let named = |count: usize| format!("bytes={}", vec!["0-1"; count].join(","));
    assert!(Ranges::parse(&named(RANGES_MAX)).is_some());
    assert_eq!(Ranges::parse(&named(RANGES_MAX + 1)), None);
    assert!(Ranges::of(&headers(&[("range", "bytes=0-1")])).is_some());
    assert_eq!(Ranges::of(&headers(&[("range", "bytes=0-1"), ("range", "bytes=2-3")])), None);
    assert_eq!(Ranges::of(&HeaderMap::new()), None);
}

#[test]
fn only_get_asks_for_a_range() {
    let request = headers(&[("range", "bytes=0-1")]);
    assert!(is_asked_for(&Method::GET, &request));
    assert!(!is_asked_for(&Method::HEAD, &request) && !is_asked_for(&Method::POST, &request));
    assert!(!is_asked_for(&Method::GET, &headers(&[("range", "lines=0-1")])));
}

#[test]
fn if_range_is_compared_strongly() {
    let dated = &[("last-modified", THEN), ("date", LATER)][..];
    for (condition, response, wanted) in [
        (&[][..], &[][..], true),
        (&[("if-range", "\"a\"")], &[("etag", "\"a\"")], true),
        (&[("if-range", "\"a\"")], &[("etag", "\"b\"")], false),
        (&[("if-range", "\"a\"")], &[("etag", "W/\"a\"")], false),
        (&[("if-range", "W/\"a\"")], &[("etag", "W/\"a\"")], false),
        (&[("if-range", "W/\"a\"")], &[("etag", "\"a\"")], false),
        (&[("if-range", "\"a\"")], &[], false),
        (&[("if-range", "\"a\""), ("if-range", "\"a\"")], &[("etag", "\"a\"")], false),
        (&[("if-range", "\"a\", \"b\"")], &[("etag", "\"a\"")], false),
        (&[("if-range", "\"")], &[("etag", "\"")], false),
        (&[("if-range", "*")], &[("etag", "\"a\"")], false),
        (&[("if-range", THEN)], dated, true),
        (&[("if-range", LATER)], dated, false),
        (&[("if-range", THEN)], &[("last-modified", THEN), ("date", THEN)], false),
        (&[("if-range", THEN)], &[("last-modified", THEN)], false),
        (&[("if-range", THEN)], &[("date", LATER)], false),
        (&[("if-range", "soon")], dated, false),
    ] {
        assert_eq!(is_same(&headers(condition), &headers(response)), wanted, "{condition:?} of {response:?}");
    }
}

/// What a GET with these fields is sent of a response with these.
fn extent(request: &[(&'static str, &'static str)], candidate: &Candidate<'_>) -> Extent {
    Extent::of(&headers(request), candidate, || 7)
}

#[test]
fn only_a_200_of_known_length_is_cut() {
    let response = headers(&[("etag", "\"a\"")]);
    let whole = Candidate { status: StatusCode::OK, headers: &response, length: Some(10), is_arriving: false };
    let range = &[("range", "bytes=0-4")][..];
    assert!(matches!(extent(range, &whole), Extent::Partial(_)));
    assert!(matches!(extent(&[("range", "bytes=0-4"), ("if-range", "\"a\"")], &whole), Extent::Partial(_)));
    assert_eq!(extent(&[("range", "bytes=10-")], &whole), Extent::Unsatisfiable(10));
    for (request, candidate) in [
        (&[][..], whole),
        (range, Candidate { length: None, ..whole }),
        (range, Candidate { status: StatusCode::NOT_FOUND, ..whole }),
        (range, Candidate { status: StatusCode::PARTIAL_CONTENT, ..whole }),
        (&[("range", "bytes=0-4"), ("if-range", "\"b\"")], whole),
        // Neither is a 416 if the client has another one.
        (&[("range", "bytes=10-"), ("if-range", "\"b\"")], whole),
        (&[("range", "lines=0-4")], whole),
    ] {
        assert_eq!(extent(request, &candidate), Extent::Whole, "{request:?} {candidate:?}");
    }
}

#[test]
fn a_part_is_described_as_such() {
    let response = headers(&[
        ("content-type", "text/plain"),
        ("content-length", "10"),
        ("content-range", "bytes 1-2/3"),
        ("content-md5", "x"),
        ("content-digest", "x"),
        ("repr-digest", "x"),
        ("etag", "\"a\""),
    ]);
    let candidate = Candidate { status: StatusCode::OK, headers: &response, length: Some(10), is_arriving: false };
    let Extent::Partial(partial) = extent(&[("range", "bytes=-3")], &candidate) else { panic!("it is a part") };
    assert_eq!(partial.sections(), &Sections::One(7..10));
    let mut described = response.clone();
    partial.describe(&mut described);
    let wanted = headers(&[
        ("content-type", "text/plain"),
        ("content-length", "3"),
        ("content-range", "bytes 7-9/10"),
        ("repr-digest", "x"),
        ("etag", "\"a\""),
    ]);
    assert_eq!(described, wanted);
    assert_eq!(unsatisfied(10), "bytes */10");
}

#[test]
fn several_parts_are_one_multipart_body() {
    let response = headers(&[("content-type", "text/plain"), ("content-length", "10")]);
    let candidate = Candidate { status: StatusCode::OK, headers: &response, length: Some(10), is_arriving: false };
    let request = &[("range", "bytes=-1,0-1")][..];
    let Extent::Partial(partial) = extent(request, &candidate) else { panic!("it is a part") };
    let body: Vec<u8> = partial.sections().clone().into_list().into_iter().fold(Vec::new(), |mut body, section| {
        body.extend_from_slice(&section.before);
        let (from, to) = (usize::try_from(section.range.start).unwrap(), usize::try_from(section.range.end).unwrap());
        body.extend_from_slice(&b"0123456789"[from..to]);
        body
    });
    let wanted = "--00000000000000000000000000000007\r\n\
                  Content-Type: text/plain\r\n\
                  Content-Range: bytes 9-9/10\r\n\r\n\
                  9\r\n\
                  --00000000000000000000000000000007\r\n\
                  Content-Type: text/plain\r\n\
                  Content-Range: bytes 0-1/10\r\n\r\n\
                  01\r\n\
                  --00000000000000000000000000000007--\r\n";
    assert_eq!(String::from_utf8(body).unwrap(), wanted);
    assert_eq!(partial.sections().bytes(), Some(wanted.len() as u64));
    let mut described = response.clone();
    partial.describe(&mut described);
    assert_eq!(described["content-type"], "multipart/byteranges; boundary=00000000000000000000000000000007");
    assert_eq!(described["content-length"], wanted.len().to_string().as_str());
    assert!(!described.contains_key("content-range"));

    // What arrives is sent as it comes.
    let Extent::Partial(partial) = extent(request, &Candidate { is_arriving: true, ..candidate }) else {
        panic!("it is a part")
    };
    let ranges: Vec<_> = partial.sections().clone().into_list().into_iter().map(|section| section.range).collect();
    assert_eq!(ranges, [0..2, 9..10, 0..0]);

    let coded = headers(&[("content-encoding", "gzip")]);
    assert_eq!(extent(request, &Candidate { headers: &coded, ..candidate }), Extent::Whole);
    let one = extent(&[("range", "bytes=0-1")], &Candidate { headers: &coded, ..candidate });
    assert!(matches!(one, Extent::Partial(_)), "the bytes of the coded body");
}

/// Specs as a client may write them.
fn specs() -> impl Strategy<Value = Vec<Spec>> {
    let number = || prop_oneof![0_u64..40, Just(u64::MAX), Just(u64::MAX - 1)];
    let spec = prop_oneof![
        (number(), number()).prop_map(|(one, other)| Spec::From { first: one.min(other), last: Some(one.max(other)) }),
        number().prop_map(|first| Spec::From { first, last: None }),
        number().prop_map(Spec::Suffix),
    ];
    prop::collection::vec(spec, 1..=RANGES_MAX)
}

/// Whether a spec names the byte at `at` of `length`.
fn names(spec: Spec, at: u64, length: u64) -> bool {
    match spec {
        Spec::From { first, last } => first <= at && last.is_none_or(|last| at <= last),
        Spec::Suffix(bytes) => length - at <= bytes,
    }
}

proptest! {
    /// Exactly the bytes that are named, each once, in an order in which the client named them.
    #[test]
    fn each_byte_that_is_named_is_selected_once(specs in specs(), length in 0_u64..40) {
        let named: Vec<u64> = (0..length).filter(|at| specs.iter().any(|spec| names(*spec, *at, length))).collect();
        let selection = Ranges(specs.clone()).select(length);
        let ranges = match selection {
            Selection::Whole => {
                prop_assert_eq!(length, 0);
                return Ok(());
            }
            Selection::Unsatisfiable => Vec::new(),
            Selection::One(range) => vec![range],
            Selection::Several(ranges) => {
                prop_assert!(ranges.len() > 1);
                ranges
            }
        };
        let mut selected: Vec<u64> = ranges.iter().cloned().flatten().collect();
        selected.sort_unstable();
        prop_assert_eq!(selected, named);
        let mut ascending = ranges.clone();
        ascending.sort_by_key(|range| range.start);
        prop_assert!(ascending.windows(2).all(|pair| pair[0].end < pair[1].start), "{:?}", ranges);
        let first_spec = |range: &Range<u64>| {
            let is_in = |spec: &Spec| spec.within(length).is_some_and(|named| range.contains(&named.start));
            specs.iter().position(is_in)
        };
        let order: Vec<_> = ranges.iter().map(first_spec).collect();
        prop_assert!(order.is_sorted(), "{:?} of {:?}", ranges, specs);
    }

    /// Whatever is written and however long the body is.
    #[test]
    fn nothing_panics_and_nothing_leaves_the_body(
        field in "(bytes=)?[-0-9, =a]{0,60}",
        length in any::<u64>(),
    ) {
        let Some(ranges) = Ranges::parse(&field) else { return Ok(()) };
        let all = match ranges.select(length) {
            Selection::One(range) => vec![range],
            Selection::Several(ranges) => ranges,
            Selection::Whole | Selection::Unsatisfiable => Vec::new(),
        };
        prop_assert!(all.iter().all(|range| range.start < range.end && range.end <= length), "{:?}", all);
    }
}

#[test]
fn the_first_byte_of_one_range() {
    for (field, wanted) in [
        ("bytes=7-", Some(7)),
        ("bytes=7-9", Some(7)),
        ("bytes=-3", Some(0)),
        ("bytes=0-1,7-9", None),
        ("bytes=7-9,-1", None),
    ] {
        assert_eq!(Ranges::parse(field).unwrap().first_of_one(), wanted, "{field}");
    }
}
