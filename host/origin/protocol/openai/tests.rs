use proptest::prelude::*;

use super::*;
use crate::origin::protocol::item::outcome_ref;

fn asked(body: &str) -> Result<Split, Malformed> {
    split(&Bytes::copy_from_slice(body.as_bytes()), 4)
}

fn items(body: &str) -> Vec<Item> {
    asked(body).unwrap().items
}

fn joined(items: &[Item]) -> Bytes {
    join_items(&items.iter().collect::<Vec<_>>())
}

fn answered(body: &str, items: &[Item]) -> Result<Vec<Outcome>, BadResponse> {
    split_results(&Bytes::copy_from_slice(body.as_bytes()), &items.iter().collect::<Vec<_>>())
}

fn bodies(outcomes: Vec<Outcome>) -> Vec<Bytes> {
    outcomes.into_iter().map(|outcome| outcome.unwrap().body).collect()
}

/// Returns the reply to a list of items.
fn many(outcomes: &[Outcome]) -> JoinedReply {
    OpenAi.join_outcomes(ReplyForm::Many, &outcomes.iter().map(outcome_ref).collect::<Vec<_>>())
}

#[test]
fn every_kind_of_input_is_split_as_if_each_had_been_asked_alone() {
    for (body, form, wanted, sent) in [
        (
            r#"{"model": "m", "input": "a b"}"#,
            ReplyForm::Single,
            vec![r#"{"input":"a b","model":"m"}"#],
            r#"{"input":"a b","model":"m"}"#,
        ),
        (
            r#"{"user":"u","input":["a","\u0062"],"model":"m"}"#,
            ReplyForm::Many,
            vec![r#"{"input":"a","model":"m","user":"u"}"#, r#"{"input":"b","model":"m","user":"u"}"#],
            r#"{"input":["a","b"],"model":"m","user":"u"}"#,
        ),
        (r#"{"input":["a"]}"#, ReplyForm::Many, vec![r#"{"input":"a"}"#], r#"{"input":"a"}"#),
        (r#"{"input":[1, 2]}"#, ReplyForm::Single, vec![r#"{"input":[1,2]}"#], r#"{"input":[1,2]}"#),
        (
            r#"{"dimensions":1.50,"input":[[1],[2, 3]]}"#,
            ReplyForm::Many,
            vec![r#"{"input":[1],"dimensions":1.50}"#, r#"{"input":[2,3],"dimensions":1.50}"#],
            r#"{"input":[[1],[2,3]],"dimensions":1.50}"#,
        ),
        (
            r#"{"input":"a","model":"x","model":"y"}"#,
            ReplyForm::Single,
            vec![r#"{"input":"a","model":"y"}"#],
            r#"{"input":"a","model":"y"}"#,
        ),
    ] {
        let split = asked(body).unwrap();
        assert_eq!(split.form, form, "{body}");
        for (item, wanted) in split.items.iter().zip(&wanted) {
            assert_eq!(item.body, *wanted, "{body}");
            assert_eq!(item.canonical, *wanted, "{body}");
        }
        assert_eq!(split.items.len(), wanted.len(), "{body}");
        assert_eq!(joined(&split.items), sent, "{body}");
    }
}

#[test]
fn items_share_a_group_only_if_a_list_can_hold_them() {
    let group = |body| items(body).remove(0).group;
    let base = group(r#"{"model":"m","input":"a"}"#);
    for (body, same) in [
        (r#"{"input":["b","c"], "model":"m"}"#, true),
        (r#"{"model":"n","input":"a"}"#, false),
        (r#"{"model":"m","input":"a","user":"u"}"#, false),
        (r#"{"model":"m","input":"a","encoding_format":"base64"}"#, false),
        (r#"{"model":"m","input":[1]}"#, false),
        (r#"{"model":"m","input":[[1]]}"#, false),
    ] {
        assert_eq!(group(body) == base, same, "{body}");
    }
    assert_eq!(group(r#"{"input":[1]}"#), group(r#"{"input":[[2],[3]]}"#));
}

#[test]
fn what_is_not_an_input_is_refused_with_its_place() {
    for (body, message, param) in [
        ("{", "the body is not JSON: EOF while parsing an object at line 1 column 1", Value::Null),
        ("[]", "the body must be a JSON object, not an array", Value::Null),
        ("{}", "`input` is missing", "input".into()),
        (r#"{"input":[]}"#, "`input` must not be empty", "input".into()),
        (r#"{"input":[[1],[]]}"#, "`input[1]` must not be empty", "input".into()),
        (
            r#"{"input":null}"#,
            "`input` must be a string, an array of strings, an array of token ids or an array of such arrays, not null",
            "input".into(),
        ),
        (r#"{"input":["a",1]}"#, "`input[1]` must be a string like the first, not a number", "input".into()),
        (
            r#"{"input":[[1],"a"]}"#,
            "`input[1]` must be an array of token ids like the first, not a string",
            "input".into(),
        ),
        (r#"{"input":[1,-2]}"#, "`input[1]` must be a token id, digits only, not a number", "input".into()),
        (r#"{"input":[[1,true]]}"#, "`input[0][1]` must be a token id, digits only, not a boolean", "input".into()),
        (
            r#"{"input":[{}]}"#,
            "`input[0]` must be a string, a token id or an array of token ids, not an object",
            "input".into(),
        ),
        (r#"{"input":["a","a","a","a","a"]}"#, "5 items are more than the 4 that one request may have", "input".into()),
    ] {
        let reply = OpenAi.refusal(&asked(body).unwrap_err());
        let error: Value = serde_json::from_slice(&reply.body).unwrap();
        let wanted = serde_json::json!({ "error": {
            "message": message, "type": "invalid_request_error", "param": param, "code": null
        }});
        assert_eq!((reply.status, error), (400, wanted), "{body}");
    }
}

#[test]
fn large_members_are_not_multiplied_but_a_large_input_is_fine() {
    let large = "x".repeat(SHARED_BYTES_MAX);
    assert!(asked(&format!(r#"{{"input":["{large}","b"],"user":"u"}}"#)).is_ok());
    let refused = asked(&format!(r#"{{"input":["a","b"],"user":"{large}"}}"#));
    assert!(matches!(refused, Err(Malformed::SharedTooLarge { .. })), "{refused:?}");
}

#[test]
fn results_are_sorted_renumbered_and_their_digits_untouched() {
    let items = items(r#"{"input":["aaaaaaaa","b"]}"#);
    let answer = r#"{"object":"list","data":[
        {"object":"embedding","index":1,"embedding":[1.0e-9, 2]},
        {"object":"embedding","index":0,"embedding":"AAAAPw=="}
    ],"model":"m","usage":{"prompt_tokens":14,"total_tokens":13,"details":null}}"#;
    let bodies = bodies(answered(answer, &items).unwrap());
    let first = concat!(
        r#"{"model":"m","object":"list","data":[{"embedding":"AAAAPw==","object":"embedding","index":0}],"#,
        r#""usage":{"details":null,"prompt_tokens":10,"total_tokens":10}}"#
    );
    let second = concat!(
        r#"{"model":"m","object":"list","data":[{"embedding":[1.0e-9, 2],"object":"embedding","index":0}],"#,
        r#""usage":{"details":null,"prompt_tokens":4,"total_tokens":3}}"#
    );
    assert_eq!(bodies, [first, second]);
}

#[test]
fn the_reply_to_many_is_numbered_and_summed_up() {
    let answer = |body: &'static str| Ok(ItemResponse::from(Bytes::from_static(body.as_bytes())));
    let reply = many(&[
        answer(r#"{"model":"m","data":[{"index":0,"embedding":[1.10]}],"usage":{"total_tokens":2,"note":"x"}}"#),
        answer(r#"{"model":"n","data":[{"embedding":[2]}]}"#),
        answer(r#"{"model":"m","data":[{"index":0,"embedding":[3]}],"usage":{"total_tokens":5,"note":"y"}}"#),
    ]);
    let wanted = concat!(
        r#"{"model":"m","data":[{"embedding":[1.10],"index":0},{"embedding":[2],"index":1},"#,
        r#"{"embedding":[3],"index":2}],"usage":{"note":"x","total_tokens":7}}"#
    );
    assert_eq!((reply.status, &reply.body[..]), (200, wanted.as_bytes()));
}

#[test]
fn one_result_stays_as_it_is() {
    let items = items(r#"{"input":["a"]}"#);
    let answer = "{ \"data\": [ {\"embedding\": [1.00]} ], \"id\": \"x\" }\n";
    let outcomes = answered(answer, &items).unwrap();
    let reply = many(&outcomes);
    assert_eq!(
        (&reply.body[..], reply.headers["content-type"].as_bytes()),
        (answer.as_bytes(), &b"application/json"[..])
    );
    assert_eq!(bodies(outcomes), [answer]);
}

#[test]
fn the_first_error_is_the_whole_reply() {
    let ok = || Ok(ItemResponse::from(Bytes::from_static(br#"{"data":[{"embedding":[]}]}"#)));
    let failed = |status, body: &'static str| Err(ItemError::new(status, Bytes::from_static(body.as_bytes())));
    let reply = many(&[ok(), failed(429, "slow down"), failed(500, "oops")]);
    assert_eq!((reply.status, &reply.body[..]), (429, &b"slow down"[..]));
    let spoilt = Ok(ItemResponse::from(Bytes::from_static(b"{}")));
    assert_eq!(many(&[ok(), spoilt]).status, 502);
}

#[test]
fn a_response_that_fits_no_item_is_refused() {
    let items = items(r#"{"input":["a","b"]}"#);
    for (answer, wanted) in [
        (r#"{"data":[{"embedding":1}]}"#, Some(BadResponse::Count { asked: 2, found: 1 })),
        (
            r#"{"data":[{"embedding":1},{"embedding":1},{"embedding":1}]}"#,
            Some(BadResponse::Count { asked: 2, found: 3 }),
        ),
        (r#"{"data":[{"embedding":1,"index":0},{"embedding":1,"index":0}]}"#, Some(BadResponse::Index { position: 1 })),
        (r#"{"data":[{"embedding":1,"index":2},{"embedding":1}]}"#, Some(BadResponse::Index { position: 0 })),
        (r#"{"data":[{"embedding":1,"index":"0"},{"embedding":1}]}"#, Some(BadResponse::Index { position: 0 })),
        (r#"{"data":[{"embedding":1},{"error":1}]}"#, None),
        (r#"{"data":{}}"#, None),
        (r#"{"error":{"message":"x"}}"#, None),
        ("[]", None),
        ("upstream request timeout", None),
    ] {
        let refused = answered(answer, &items).unwrap_err();
        match wanted {
            Some(wanted) => assert_eq!(refused, wanted, "{answer}"),
            None => assert!(matches!(refused, BadResponse::Unreadable { .. }), "{answer}: {refused:?}"),
        }
    }
}

#[test]
fn an_input_counts_by_its_tokens_or_its_bytes() {
    assert_eq!(length(b"[1,22,333]"), 3);
    assert_eq!(length(b"\"ab\""), 4);
    assert_eq!(length(b""), 1);
}

proptest! {
    #[test]
    fn shares_add_up_and_follow_the_weights(
        total in any::<u64>(),
        weights in prop::collection::vec(1_u64..1_000_000, 1..40),
    ) {
        let shares = shares(total, &weights);
        prop_assert_eq!(shares.iter().map(|share| u128::from(*share)).sum::<u128>(), u128::from(total));
        let whole: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
        for (share, weight) in shares.iter().zip(&weights) {
            let exact = u128::from(total) * u128::from(*weight) / whole;
            prop_assert!(u128::from(*share).abs_diff(exact) <= 1, "{} instead of {}", share, exact);
        }
    }
}
