use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{super::item::SHARED_BYTES_MAX, *};
use crate::origin::protocol::item::outcome_ref;

fn asked(body: &str) -> Result<Split, Malformed> {
    asked_with(&HeaderMap::new(), body)
}

fn asked_with(headers: &HeaderMap, body: &str) -> Result<Split, Malformed> {
    let indivisible = ["late_chunking".to_owned()];
    let (target, body) = (PathAndQuery::from_static("/"), Bytes::copy_from_slice(body.as_bytes()));
    let rules = SplitRules { items_max: 4, indivisible: &indivisible, translation: None };
    split(&Received { target: &target, headers, body: &body }, &rules)
}

fn items(body: &str) -> Vec<Item> {
    asked(body).unwrap().items
}

fn joined(items: &[Item]) -> Bytes {
    join_items(&items.iter().collect::<Vec<_>>())
}

fn responded(body: &str, items: &[Item]) -> Result<Vec<Outcome>, BadResponse> {
    let (headers, body) = (HeaderMap::new(), Bytes::copy_from_slice(body.as_bytes()));
    split_results(Message { headers: &headers, body: &body }, &items.iter().collect::<Vec<_>>())
}

/// Returns a response with these entries.
fn list(entries: &[Value]) -> String {
    json!({"object": "list", "data": entries}).to_string()
}

/// Returns the embedding in each response that is a list of one.
fn embeddings(outcomes: Vec<Outcome>) -> Vec<Value> {
    let one = |body: &Bytes| {
        let list: Value = serde_json::from_slice(body).unwrap();
        assert_eq!(list["data"][0]["index"], 0, "{list}");
        list["data"][0]["embedding"].clone()
    };
    bodies(outcomes).iter().map(one).collect()
}

fn bodies(outcomes: Vec<Outcome>) -> Vec<Bytes> {
    outcomes.into_iter().map(|outcome| outcome.unwrap().body).collect()
}

/// Returns the tokens of each item.
fn tokens(outcomes: &[Outcome]) -> Vec<u64> {
    outcomes.iter().map(|outcome| outcome.as_ref().unwrap().tokens).collect()
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
fn what_is_no_request_is_refused() {
    for (body, message, param) in [
        ("{", "the body is not JSON: EOF while parsing an object at line 1 column 1", Value::Null),
        ("[]", "the body must be a JSON object, not an array", Value::Null),
        (r#"{"input":["a","a","a","a","a"]}"#, "5 items are more than the 4 that one request may have", "input".into()),
    ] {
        let reply = OpenAi.refusal(&asked(body).unwrap_err());
        let error: Value = serde_json::from_slice(&reply.body).unwrap();
        let wanted = json!({ "error": {
            "message": message, "type": "invalid_request_error", "param": param, "code": null
        }});
        assert_eq!((reply.status, error), (400, wanted), "{body}");
    }
    assert!(matches!(asked(r#"{"input":NaN}"#), Err(Malformed::NotJson(_))));
}

#[test]
fn what_cannot_be_split_is_sent_as_it_came() {
    for body in [
        "{}",
        r#"{ "model": "m", "messages": [{"role": "user", "content": "a"}] }"#,
        r#"{"input":[]}"#,
        r#"{"input":null}"#,
        r#"{"input":7}"#,
        r#"{"input":{"text":"a"}}"#,
        r#"{"input":[{"text":"a"},{"image":"b"}]}"#,
        r#"{"input":["a",1]}"#,
        r#"{"input":["a",[1]]}"#,
        r#"{"input":["a",null]}"#,
        r#"{"input":[[1],"a"]}"#,
        r#"{"input":[[1],[]]}"#,
        r#"{"input":[1,-2]}"#,
        r#"{"input":[[1,true]]}"#,
        r#"{"input":[["a"]]}"#,
        r#"{"input":["a","b"],"late_chunking":true}"#,
        r#"{"input":["a","b"],"late_chunking":{}}"#,
        r#"{"input":["a","b"],"encoding_format":"bytes"}"#,
    ] {
        let split = asked(body).unwrap();
        assert_eq!((split.form, split.items.len()), (ReplyForm::Whole, 1), "{body}");
        let item = &split.items[0];
        assert!(item.whole && item.shareable && item.body == body, "{body}: {item:?}");
        assert_eq!(joined(&split.items), body);
        let shared = items(r#"{"input":"a"}"#).remove(0);
        assert_ne!(item.group, shared.group);
        let mixed = responded(r#"{"data":[{"embedding":[1]},{"embedding":[2]}]}"#, &[item.clone(), shared]);
        assert_eq!(mixed, Err(BadResponse::Count { asked: 2, found: 1 }), "{body}");
    }
    for body in [
        r#"{"input":["a","b"],"late_chunking":false}"#,
        r#"{"input":["a","b"],"late_chunking":null,"encoding_format":"base64"}"#,
        r#"{"input":["a","b"],"encoding_format":null}"#,
    ] {
        let split = asked(body).unwrap();
        assert_eq!((split.form, split.items.len()), (ReplyForm::Many, 2), "{body}");
    }
    let body = r#"{"input":{"text":"a","text":"b"}}"#;
    let repeated = items(body);
    assert_eq!(joined(&repeated), body);
    assert!(!repeated[0].shareable, "which of the two a model reads isn't known");
}

#[test]
fn what_is_sent_as_it_came_has_its_clients_media_type() {
    for (given, sent, shareable) in [
        (&[][..], &["application/json"][..], true),
        (&["application/json"], &["application/json"], true),
        (&["Application/JSON; Charset=UTF-8"], &["Application/JSON; Charset=UTF-8"], true),
        (&["application/json;"], &["application/json;"], true),
        (&["application/json; charset=utf-16"], &["application/json; charset=utf-16"], false),
        (&["application/x-www-form-urlencoded"], &["application/x-www-form-urlencoded"], false),
        (&["application/vnd.a+json"], &["application/vnd.a+json"], false),
        (&["application/json", "text/plain"], &["application/json", "text/plain"], false),
        (&[""], &[""], false),
    ] {
        let lines = given.iter().map(|line| (CONTENT_TYPE, HeaderValue::from_static(line)));
        let headers: HeaderMap = lines.collect();
        let whole = asked_with(&headers, r#"{"messages":[]}"#).unwrap().items.remove(0);
        let request = OpenAi.join(&PathAndQuery::from_static("/"), &[&whole]);
        let fields: Vec<&str> =
            request.headers.get_all(CONTENT_TYPE).iter().map(|line| line.to_str().unwrap()).collect();
        assert_eq!((&fields[..], whole.shareable), (sent, shareable), "{given:?}");
        let item = asked_with(&headers, r#"{"input":"a"}"#).unwrap().items.remove(0);
        let request = OpenAi.join(&PathAndQuery::from_static("/"), &[&item]);
        assert!(item.shareable && request.headers["content-type"] == "application/json", "{given:?}");
    }
}

#[test]
fn the_response_to_what_was_not_split_is_the_reply() {
    let items = items(r#"{"messages":[]}"#);
    let field = |media_type| HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(media_type))]);
    for (headers, body, storable) in [
        (HeaderMap::new(), &b"{ \"data\" : [] }"[..], true),
        (HeaderMap::new(), &b"{\"data\":[NaN]}"[..], false),
        (field("application/json"), &b"{\"data\":"[..], false),
        (field("application/octet-stream"), &b"\xff\x00"[..], true),
    ] {
        let body = Bytes::from_static(body);
        let outcomes = split_results(Message { headers: &headers, body: &body }, &[&items[0]]).unwrap();
        let given = ItemResponse { storable, ..ItemResponse::from(body.clone()) };
        assert_eq!(outcomes, [Ok(given)]);
        let reply = OpenAi.join_outcomes(ReplyForm::Whole, &[outcome_ref(&outcomes[0])]);
        assert_eq!((reply.status, reply.headers.len(), reply.body), (200, 0, body));
    }
}

#[test]
fn members_that_are_large_are_not_multiplied_but_a_large_input_is_fine() {
    let large = "x".repeat(SHARED_BYTES_MAX);
    let split = asked(&format!(r#"{{"input":["{large}","b"],"user":"u"}}"#)).unwrap();
    assert_eq!((split.form, split.items.len()), (ReplyForm::Many, 2));
    let split = asked(&format!(r#"{{"input":["a","b"],"user":"{large}"}}"#)).unwrap();
    assert_eq!((split.form, split.items.len()), (ReplyForm::Whole, 1));
}

/// Entries for three inputs, with these members for an `index`.
fn indexed(indexes: [Option<Value>; 3]) -> Vec<Value> {
    let entry = |(place, index): (usize, Option<Value>)| {
        let mut entry = json!({"embedding": [place, 10 + place]});
        if let Some(index) = index {
            entry["index"] = index;
        }
        entry
    };
    indexes.into_iter().enumerate().map(entry).collect()
}

#[test]
fn an_index_says_whose_an_embedding_is() {
    let items = items(r#"{"input":["a","b","c"]}"#);
    let (none, null) = (|| None, || Some(Value::Null));
    let at = |index: usize| Some(json!(index));
    let float = |index: &str| Some(serde_json::from_str(index).unwrap());
    // What the model says, and the places in its list of the embeddings that the three inputs get.
    for (indexes, wanted) in [
        ([at(0), at(1), at(2)], [0, 1, 2]),
        ([at(2), at(1), at(0)], [2, 1, 0]),
        ([at(1), at(2), at(0)], [2, 0, 1]),
        ([none(), none(), none()], [0, 1, 2]),
        ([null(), null(), null()], [0, 1, 2]),
        ([null(), none(), null()], [0, 1, 2]),
        ([none(), at(1), at(2)], [0, 1, 2]),
        ([at(2), at(1), none()], [2, 1, 0]),
        ([at(0), null(), at(1)], [0, 2, 1]),
        ([float("0.0"), float("1.0"), float("2.00")], [0, 1, 2]),
        ([float("1.0"), at(0), none()], [1, 0, 2]),
    ] {
        let shown = format!("{indexes:?}");
        let outcomes = responded(&list(&indexed(indexes)), &items).unwrap();
        assert_eq!(embeddings(outcomes), wanted.map(|place: usize| json!([place, 10 + place])), "{shown}");
    }
    for (indexes, position) in [
        ([at(0), at(0), at(0)], 1),
        ([at(0), at(1), at(1)], 2),
        ([at(1), at(2), at(3)], 2),
        ([none(), none(), at(2)], 1),
        ([none(), at(2), null()], 2),
        ([at(0), Some(json!("1")), at(2)], 1),
        ([at(0), Some(json!(-1)), at(2)], 1),
        ([at(0), float("1.5"), at(2)], 1),
        ([at(0), float("1e0"), at(2)], 1),
        ([at(0), Some(json!([1])), at(2)], 1),
    ] {
        let refused = responded(&list(&indexed(indexes)), &items);
        assert_eq!(refused, Err(BadResponse::Index { position }));
    }
}

#[test]
fn the_index_of_the_only_embedding_is_zero_and_nothing_else_changes() {
    let items = items(r#"{"input":"a"}"#);
    for (response, wanted) in [
        (r#"{"data":[{ "index" : 0, "embedding":[1.50] }]} "#, None),
        (r#"{"data":[{"index":9,"index":0,"embedding":[1]}]}"#, None),
        (
            r#"{"data":[{"index": 7, "embedding":[1.50]}], "index":7}"#,
            Some(r#"{"data":[{"index": 0, "embedding":[1.50]}], "index":7}"#),
        ),
        (r#"{"data":[{"embedding":[1],"index":"x"}]}"#, Some(r#"{"data":[{"embedding":[1],"index":0}]}"#)),
        (r#"{"data":[{"index":null,"embedding":[1]}]}"#, Some(r#"{"data":[{"index":0,"embedding":[1]}]}"#)),
        (r#"{"data":[{"index":0.0,"embedding":[1]}]}"#, Some(r#"{"data":[{"index":0,"embedding":[1]}]}"#)),
        (r#"{"data":[{"index":[1],"embedding":[1]}]}"#, Some(r#"{"data":[{"index":0,"embedding":[1]}]}"#)),
        (
            "{\"data\" : [ {\"embedding\":[1e0]\n} ],\"x\":[{}]}",
            Some("{\"data\" : [ {\"embedding\":[1e0]\n,\"index\":0} ],\"x\":[{}]}"),
        ),
        (
            r#"{"data":[],"data":[{"embedding":[1]}],"usage":{"seconds":NaN}}"#,
            Some(r#"{"data":[],"data":[{"embedding":[1],"index":0}],"usage":{"seconds":NaN}}"#),
        ),
        // What can't be read is as the model wrote it.
        (r#"{"data":[{"index":7,"embedding":[NaN]}]}"#, None),
    ] {
        let outcomes = responded(response, &items).unwrap();
        assert_eq!(bodies(outcomes), [wanted.unwrap_or(response)], "{response}");
    }
}

#[test]
fn a_text_is_an_embedding_only_if_it_is_base64_and_asked_for() {
    let plain = items(r#"{"input":["a","b","c"]}"#);
    let inputs = |member: &str| items(&format!(r#"{{"input":["a","b","c"],{member}}}"#));
    let coded = inputs(r#""encoding_format":"base64""#);
    for (embedding, is_good) in [
        (r#""AACAPw==""#, true),
        (r#""+/8=""#, true),
        (r#""\u002b\/8=""#, true),
        (r#""AACAPw""#, false),
        (r#""A===""#, false),
        (r#""AA=A""#, false),
        (r#""====""#, false),
        (r#""""#, false),
        (r#""out of memory""#, false),
        (r#""AAA\"""#, false),
    ] {
        assert_eq!(all_good(&coded, embedding), is_good, "{embedding}");
        assert!(!all_good(&plain, embedding), "{embedding}");
        // By the name that other models have for it; a text that only mentions it doesn't ask.
        assert_eq!(all_good(&inputs(r#""embedding_type":["base64"]"#), embedding), is_good, "{embedding}");
        assert!(!all_good(&inputs(r#""user":"say \"base64\"""#), embedding), "{embedding}");
    }
}

/// Whether a batch of three has such an embedding for each.
fn all_good(items: &[Item], embedding: &str) -> bool {
    let entries = vec![format!(r#"{{"embedding":{embedding}}}"#); 3].join(",");
    responded(&format!(r#"{{"data":[{entries}]}}"#), items).unwrap().iter().all(Result::is_ok)
}

#[test]
fn an_embedding_is_made_of_numbers() {
    let plain = items(r#"{"input":["a","b","c"]}"#);
    let coded = items(r#"{"input":["a","b","c"],"encoding_format":"base64"}"#);
    for (embedding, is_good) in [
        ("[1,-2.5e-3]", true),
        ("[[1,2],[3,4]]", true),
        (r#"{"indices":[1,7],"values":[0.5,1]}"#, true),
        ("true", false),
        ("false", false),
        ("7", false),
        ("{}", false),
        ("[[]]", false),
        ("[true]", false),
        (r#"{"error":"out of memory"}"#, false),
        (r#"{"values":{"a":[1]}}"#, false),
        (r#"{"values":[]}"#, false),
        (r#"[{"a":[1]}]"#, false),
    ] {
        assert_eq!(all_good(&plain, embedding), is_good, "{embedding}");
        assert_eq!(all_good(&coded, embedding), is_good, "a model may not know base64: {embedding}");
    }
    let several = r#"{"float":[1],"base64":"AACAPw=="}"#;
    assert_eq!((all_good(&coded, several), all_good(&plain, several)), (true, false));
}

#[test]
fn an_embedding_that_cannot_be_read_costs_the_others_nothing() {
    let items = items(r#"{"input":["a","b","c","d"]}"#);
    for bad in [
        r#"{"embedding":[NaN,1.0]}"#,
        r#"{"embedding":[1.0,-Infinity]}"#,
        r#"{"embedding":NaN}"#,
        r#"{"embedding":null}"#,
        r#"{"embedding":[null,1.0]}"#,
        r#"{"embedding":["a","b"]}"#,
        r#"{"embedding":[1.0]}"#,
        r#"{"embedding":[1.0,2.0,3.0]}"#,
        r#"{"embedding":[]}"#,
        r#"{"embedding":""}"#,
        r#"{"embedding":"AAAA"}"#,
        r#"{"embedding":true}"#,
        r#"{"embedding":{}}"#,
        r#"{"embedding":{"values":[1]}}"#,
        r#"{"error":"too long"}"#,
        r#"{"embedding":[1.0,2.0],"score":NaN}"#,
    ] {
        let good = |n| format!(r#"{{"embedding":[{n},2.5e-3]}}"#);
        let response = format!(r#"{{"data":[{},{},{bad},{}]}}"#, good(0), good(1), good(3));
        let outcomes = responded(&response, &items).unwrap();
        let is_odd_only = ["[1.0]", "3.0]", "values"].iter().any(|odd| bad.contains(odd));
        for (n, outcome) in outcomes.iter().enumerate() {
            match outcome {
                Err(error) => {
                    assert!(n == 2 && error.status == 502 && error.retry_alone, "{bad}: {n}: {error:?}");
                    assert_eq!(error.differs, is_odd_only, "{bad}");
                }
                Ok(response) => {
                    let wanted = format!(r#"{{"data":[{{"embedding":[{n},2.5e-3],"index":0}}]}}"#);
                    assert_eq!(
                        (n == 2, response.storable, &response.body[..]),
                        (false, true, wanted.as_bytes()),
                        "{bad}"
                    );
                }
            }
        }
        // Alone it is passed on as it is. That another length is a fault, or another form, can't be told then.
        let alone = format!(r#"{{"data": [{bad}]}}"#);
        let outcome = responded(&alone, &items[..1]).unwrap().remove(0).unwrap();
        let wanted = if is_odd_only { alone.replace("}]}", ",\"index\":0}]}") } else { alone };
        assert_eq!((&outcome.body[..], outcome.storable), (wanted.as_bytes(), is_odd_only), "{bad}");
    }
}

#[test]
fn embeddings_of_which_most_do_not_agree_are_nobodys() {
    let items = items(r#"{"input":["a","b"]}"#);
    let outcomes = responded(r#"{"data":[{"embedding":[1]},{"embedding":[1,2]}]}"#, &items).unwrap();
    assert!(outcomes.iter().all(|outcome| outcome.as_ref().is_err_and(|error| error.retry_alone)), "{outcomes:?}");
    for response in [
        r#"{"data":[{"embedding":[[1,2],[3,4]]},{"embedding":[[1,2]]}]}"#,
        r#"{"data":[{"embeddings":[[1,2],[3,4]]},{"embeddings":[[1,2]]}]}"#,
        r#"{"data":[{"embedding":{"values":[1]}},{"embedding":{"values":[1,2]}}]}"#,
    ] {
        assert!(responded(response, &items).unwrap().iter().all(Result::is_ok), "{response}");
    }
}

#[test]
fn what_is_no_json_beside_the_embeddings_is_left_out_and_the_rest_not_stored() {
    let items = items(r#"{"input":["a","b"]}"#);
    let response =
        r#"{"data":[{"embedding":[1]},{"embedding":[2]}],"took":{"seconds":NaN},"usage":{"prompt_tokens":2}}"#;
    let outcomes = responded(response, &items).unwrap();
    let wanted = r#"{"data":[{"embedding":[1],"index":0}],"usage":{"prompt_tokens":1}}"#;
    let first = outcomes[0].as_ref().unwrap();
    assert_eq!((&first.body[..], first.storable, first.joinable), (wanted.as_bytes(), false, true));
    // A response to one alone stays as it is, and can be joined with others nevertheless.
    let said = r#"{"data":[{"embedding":[1, 2],"index":0}],"seconds":NaN}"#;
    let alone = responded(said, &items[..1]).unwrap().remove(0).unwrap();
    assert_eq!((&alone.body[..], alone.storable, alone.joinable), (said.as_bytes(), false, true));
    let reply = many(&[Ok(alone), Ok(ItemResponse::from(Bytes::from_static(br#"{"data":[{"embedding":[2]}]}"#)))]);
    let wanted = r#"{"data":[{"embedding":[1, 2],"index":0},{"embedding":[2],"index":1}]}"#;
    assert_eq!((reply.status, &reply.body[..]), (200, wanted.as_bytes()));
    // One that isn't an embedding can't.
    for bad in ["[NaN, 1]", "null", "[]"] {
        let said = format!(r#"{{"data":[{{"embedding":{bad},"index":0}}]}}"#);
        let alone = responded(&said, &items[..1]).unwrap().remove(0).unwrap();
        assert_eq!((&alone.body[..], alone.storable, alone.joinable), (said.as_bytes(), false, false));
    }
}

#[test]
fn results_are_sorted_renumbered_and_their_digits_untouched() {
    let items = items(r#"{"input":["aaaaaaaa","b"]}"#);
    let response = r#"{"object":"list","data":[
        {"object":"embedding","index":1,"embedding":[1.0e-9, 2]},
        {"object":"embedding","index":0,"embedding":[0.50,-0]}
    ],"model":"m","usage":{"prompt_tokens":14,"total_tokens":13,"details":null}}"#;
    let outcomes = responded(response, &items).unwrap();
    assert_eq!(tokens(&outcomes), [12, 2]);
    let bodies = bodies(outcomes);
    let first = concat!(
        r#"{"model":"m","object":"list","data":[{"embedding":[0.50,-0],"object":"embedding","index":0}],"#,
        r#""usage":{"details":null,"prompt_tokens":12,"total_tokens":12}}"#
    );
    let second = concat!(
        r#"{"model":"m","object":"list","data":[{"embedding":[1.0e-9, 2],"object":"embedding","index":0}],"#,
        r#""usage":{"details":null,"prompt_tokens":2,"total_tokens":1}}"#
    );
    assert_eq!(bodies, [first, second]);
}

#[test]
fn the_reply_to_many_is_numbered_and_summed_up() {
    let response = |body: &'static str| Ok(ItemResponse::from(Bytes::from_static(body.as_bytes())));
    let reply = many(&[
        response(r#"{"model":"m","data":[{"index":0,"embedding":[1.10]}],"usage":{"total_tokens":2,"note":"x"}}"#),
        response(r#"{"model":"n","data":[{"embedding":[2]}]}"#),
        response(r#"{"model":"m","data":[{"index":0,"embedding":[3]}],"usage":{"total_tokens":5,"note":"y"}}"#),
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
    let response = "{ \"data\": [ {\"embedding\": [1.00], \"index\":0} ], \"id\": \"x\" }\n";
    let outcomes = responded(response, &items).unwrap();
    let reply = many(&outcomes);
    assert_eq!(
        (&reply.body[..], reply.headers["content-type"].as_bytes()),
        (response.as_bytes(), &b"application/json"[..])
    );
    assert_eq!(bodies(outcomes), [response]);
}

#[test]
fn the_tokens_of_a_single_item_are_those_of_its_response() {
    let items = items(r#"{"input":"a"}"#);
    for (usage, wanted) in [
        (r#"{"prompt_tokens":7,"total_tokens":9}"#, 7),
        (r#"{"total_tokens":9}"#, 0),
        (r#"{"prompt_tokens":"7"}"#, 0),
        ("null", 0),
    ] {
        let response = format!(r#"{{"data":[{{"embedding":[1]}}],"usage":{usage}}}"#);
        assert_eq!(tokens(&responded(&response, &items).unwrap()), [wanted], "{usage}");
    }
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
fn what_cannot_be_read_is_the_reply_to_one_and_a_failure_of_several() {
    let page = || Err(ItemError::response(200, Bytes::from_static(b"<h1>Sorry</h1>")));
    let alone = many(&[page()]);
    assert_eq!((alone.status, alone.headers.len(), &alone.body[..]), (200, 0, &b"<h1>Sorry</h1>"[..]));
    let reply = many(&[page(), page()]);
    let error: Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!((reply.status, error["error"]["type"].as_str()), (502, Some("server_error")), "{error}");
    let refusal = Err(ItemError::response(400, Bytes::from_static(br#"{"detail":"no"}"#)));
    let reply = many(&[refusal, page()]);
    assert_eq!((reply.status, reply.headers.len(), &reply.body[..]), (400, 0, &br#"{"detail":"no"}"#[..]));
}

#[test]
fn a_response_that_fits_no_item_is_refused() {
    let items = items(r#"{"input":["a","b"]}"#);
    for (response, wanted) in [
        (r#"{"data":[{"embedding":1}]}"#, Some(BadResponse::Count { asked: 2, found: 1 })),
        (
            r#"{"data":[{"embedding":1},{"embedding":1},{"embedding":1}]}"#,
            Some(BadResponse::Count { asked: 2, found: 3 }),
        ),
        (r#"{"data":[{"embedding":1,"index":0},{"embedding":1,"index":0}]}"#, Some(BadResponse::Index { position: 1 })),
        (r#"{"data":[{"embedding":1,"index":2},{"embedding":1}]}"#, Some(BadResponse::Index { position: 0 })),
        (r#"{"data":[{"embedding":1,"index":"0"},{"embedding":1}]}"#, Some(BadResponse::Index { position: 0 })),
        (r#"{"data":{}}"#, None),
        (r#"{"error":{"message":"x"}}"#, None),
        ("[]", None),
        ("upstream request timeout", None),
    ] {
        let refused = responded(response, &items).unwrap_err();
        match wanted {
            Some(wanted) => assert_eq!(refused, wanted, "{response}"),
            None => assert!(matches!(refused, BadResponse::Unreadable { .. }), "{response}: {refused:?}"),
        }
    }
}

#[test]
fn an_input_counts_by_its_tokens_or_its_bytes() {
    assert_eq!(length(b"[1,22,333]"), 3);
    assert_eq!(length(b"\"ab\""), 2);
    assert_eq!(length(b"\"\""), 1);
    assert_eq!(length(b""), 1);
}

#[test]
fn what_rounding_leaves_goes_to_the_largest_remainders() {
    for (total, weights, wanted) in [
        (4, &[1, 1, 1][..], &[2_u64, 1, 1][..]),
        (14, &[8, 1], &[12, 2]),
        (13, &[8, 1], &[12, 1]),
        (0, &[3, 4], &[0, 0]),
        (2, &[1, 1, 1, 1], &[1, 1, 0, 0]),
        (6, &[1, 2, 3], &[1, 2, 3]),
        (u64::MAX, &[u64::MAX, u64::MAX], &[u64::MAX / 2 + 1, u64::MAX / 2]),
        (7, &[], &[]),
    ] {
        assert_eq!(shares(total, weights), wanted, "{total}, {weights:?}");
    }
}

#[test]
fn what_cannot_be_divided_or_summed_up_is_left_out_and_of_one_item_stays() {
    let usage = r#""usage":{"cost":0.5,"details":{"text":4},"note":"x","part":[1],"total_tokens":4}"#;
    let items = items(r#"{"input":["a","b"]}"#);
    let alone = format!(r#"{{"data":[{{"embedding":[1]}}],{usage}}}"#);
    let numbered = alone.replace("[1]}", "[1],\"index\":0}");
    assert_eq!(bodies(responded(&alone, &items[..1]).unwrap()), [numbered]);
    let both = format!(r#"{{"data":[{{"embedding":[1]}},{{"embedding":[2]}}],{usage}}}"#);
    let first = responded(&both, &items).unwrap().remove(0).unwrap().body;
    assert_eq!(first, r#"{"data":[{"embedding":[1],"index":0}],"usage":{"note":"x","total_tokens":2}}"#);
    let one = || Ok(ItemResponse::from(Bytes::from(alone.clone())));
    let reply = many(&[one(), one()]);
    assert!(reply.body.ends_with(br#""usage":{"note":"x","total_tokens":8}}"#), "{reply:?}");
    let none = Ok(ItemResponse::from(Bytes::from_static(br#"{"data":[{"embedding":[1]}],"usage":null}"#)));
    let reply = many(&[none, one()]);
    let reply = std::str::from_utf8(&reply.body).unwrap();
    assert_eq!(reply.matches("\"usage\"").count(), 1, "{reply}");
}

#[test]
fn counts_are_found_wherever_the_usage_is() {
    let two = |a: u64, b: u64| vec![("a".to_owned(), a), ("b".to_owned(), b)];
    for (body, wanted) in [
        (r#"{"data":[{"embedding":[1]}],"usage":{"a":1,"b":2}}"#, two(1, 2)),
        (r#"{"data":[], "usage" : {"b":2,"a":1,"c":0.5,"d":{"e":1},"f":null} } "#, two(1, 2)),
        (r#"{"usage":{"a":1,"b":2},"data":[{"embedding":[1]}]}"#, two(1, 2)),
        (r#"{"usage":{"a":1,"b":2},"data":[{"usage":{"a":7,"b":7}}]}"#, two(1, 2)),
        (r#"{"usage":{"a":1,"b":2},"of":{"usage":{"a":7,"b":7}}}"#, two(1, 2)),
        (r#"{"usage":{"a":1,"b":2},"kind":"usage"}"#, two(1, 2)),
        (r#"{"usage":{"a":1,"b":2},"kinds":["x","usage"]}"#, two(1, 2)),
        (r#"{"usage":{"a":1,"b":2},"x,\"usage\"":{"a":7,"b":7}}"#, two(1, 2)),
        (r#"{"data":[{"embedding":[NaN]}],"usage":{"a":1,"b":2}}"#, two(1, 2)),
        (r#"{"data":[{"usage":{"a":7,"b":7}}]}"#, vec![]),
        (r#"{"usage":7}"#, vec![]),
        (r#"{"usage":null}"#, vec![]),
        (r#"{"data":[]}"#, vec![]),
        ("usage", vec![]),
        ("", vec![]),
    ] {
        assert_eq!(counts(body.as_bytes()), wanted, "{body}");
    }
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
        for (share, weight) in shares.iter().zip(&weights) {
            for (other, lighter) in shares.iter().zip(&weights).filter(|(_, other)| *other < weight) {
                prop_assert!(share >= other, "{} for {}, {} for {}", share, weight, other, lighter);
            }
        }
    }
}

#[test]
fn what_is_usual_decides_which_embedding_is_odd_and_not_the_others_of_its_response() {
    let mut items = items(r#"{"input":["a","b","c"]}"#);
    let two = r#"{"data":[{"embedding":[1]},{"embedding":[1,2]}]}"#;
    let three = r#"{"data":[{"embedding":[1]},{"embedding":[1,2]},{"embedding":[3]}]}"#;
    for (usual, response, wanted) in [
        (None, two, &[false, false][..]),
        (Some(Shape::Numbers(2)), two, &[false, true]),
        (None, three, &[true, false, true]),
        (Some(Shape::Numbers(2)), three, &[false, true, false]),
        (Some(Shape::Numbers(3)), three, &[false, false, false]),
    ] {
        items[0].usual = usual;
        let outcomes = responded(response, &items[..wanted.len()]).unwrap();
        let sound: Vec<bool> = outcomes.iter().map(Result::is_ok).collect();
        assert_eq!(sound, wanted, "{usual:?}: {response}");
        assert!(outcomes.iter().flat_map(|outcome| outcome.as_ref().err()).all(|error| error.differs));
    }
    let alone = r#"{"data":[{"embedding":[1,2],"index":0}]}"#;
    for (usual, trusted) in [(None, true), (Some(Shape::Numbers(2)), true), (Some(Shape::Numbers(3)), false)] {
        items[0].usual = usual;
        let outcome = responded(alone, &items[..1]).unwrap().remove(0).unwrap();
        assert_eq!((outcome.storable, outcome.joinable, &outcome.body[..]), (trusted, trusted, alone.as_bytes()));
        assert_eq!(outcome.shape, Some(Shape::Numbers(2)));
    }
}
