//! Fits a conversation into a budget of tokens: instructions stay, then the newest messages as far as they fit. What was
//! left out is neither sent nor tells one request from another.

use holm_sdk::{
    Edit, Encoding, Fault, Feature, Features, Header, Input, Key, Part, Plan, Policy, Shape, Tokens, Transform, Values,
    bytes, config::Table, json::Value, parsed,
};

/// The operator's table.
#[derive(Debug)]
struct PromptWindow {
    /// Tokens that the messages may have together.
    budget: u64,
    encoding: Encoding,
    /// Pointers (RFC 6901) to what is sent but doesn't tell requests apart.
    ignore: Vec<String>,
    /// Header fields that tell responses apart.
    headers: Vec<String>,
}

impl Policy for PromptWindow {
    fn configure(config: &str) -> Result<Self, Fault> {
        let mut table = Table::parse(config)?;
        let policy = Self {
            budget: table.number("budget_tokens")?.unwrap_or(4_096),
            encoding: table.encoding("encoding")?.unwrap_or(Encoding::O200kBase),
            ignore: table.texts("ignore")?.unwrap_or_default(),
            headers: table.texts("headers")?.unwrap_or_default(),
        };
        table.finish()?;
        Ok(policy)
    }
}

impl Key for PromptWindow {
    fn plan(&self) -> Plan {
        let mut parts = vec![
            Part::new(Input::Authority, Transform::Identity),
            Part::new(Input::Path, Transform::Identity),
            Part::new(Input::QueryAll, Transform::SortQuery),
            Part::new(Input::Feature("window".into()), Transform::Identity),
            Part::new(Input::Feature("rest".into()), Transform::Identity),
        ];
        parts.extend(self.headers.iter().map(|name| Part::new(Input::Header(name.clone()), Transform::Identity)));
        Plan::Recipe(parts)
    }
}

impl Features for PromptWindow {
    fn reads(&self) -> Vec<Input> {
        let tokens = Tokens { pointer: "/messages".into(), encoding: self.encoding };
        vec![Input::BodyDigest, Input::BodyJson(String::new()), Input::BodyTokens(tokens)]
    }

    fn extract(&self, values: Values) -> Result<Shape, Fault> {
        let Some(Chat { messages, counts, mut rest }) = Chat::read(&values) else {
            // No chat: it is sent as it is, and all of it tells requests apart.
            let digest = bytes(&values, 0).map(|digest| ("rest".into(), Feature::Bytes(digest.to_vec())));
            return Ok(Shape { features: digest.into_iter().collect(), ..Shape::default() });
        };
        for pointer in &self.ignore {
            rest.remove(pointer);
        }
        let kept = self.window(&messages, &counts);
        let (all, tokens) = (kept.len(), tokens(&counts, &kept));
        let messages: Vec<Value> = messages.into_iter().zip(kept).filter_map(|(m, kept)| kept.then_some(m)).collect();
        let (stay, dropped) = (messages.len(), all - messages.len());
        let summary = format!("kept={stay}; dropped={dropped}; tokens={tokens}; budget={}", self.budget);
        let window = Value::List(messages).to_string();
        let edits = if dropped > 0 { vec![Edit::set("/messages", window.clone())] } else { vec![] };
        let features = [("window", window), ("rest", rest.to_string())];
        Ok(Shape {
            features: features.map(|(name, text)| (name.into(), Feature::Text(text))).into(),
            edits,
            headers: vec![Header::set("x-prompt-window", summary)],
        })
    }
}

/// A body that has messages.
struct Chat {
    messages: Vec<Value>,
    /// The tokens of each.
    counts: Vec<u64>,
    /// The body without them.
    rest: Value,
}

impl Chat {
    fn read(values: &Values) -> Option<Self> {
        let mut rest = parsed(values, 1)?;
        let Some(Value::List(messages)) = rest.remove("/messages") else { return None };
        let counts: Vec<u64> = parsed(values, 2)?.as_list()?.iter().map(Value::as_number).collect::<Option<_>>()?;
        (counts.len() == messages.len()).then_some(Self { messages, counts, rest })
    }
}

impl PromptWindow {
    /// Which messages stay: all instructions, the user's newest, and the newest others as far as they fit. There is no
    /// gap between those, and no tool's result without its call, which models refuse.
    fn window(&self, messages: &[Value], counts: &[u64]) -> Vec<bool> {
        let newest = messages.iter().rposition(|message| role(message) == "user");
        let must = |n: usize| matches!(role(&messages[n]), "system" | "developer") || Some(n) == newest;
        let mut kept: Vec<bool> = (0..messages.len()).map(must).collect();
        let mut used = tokens(counts, &kept);
        for n in (0..messages.len()).rev() {
            if kept[n] {
                continue;
            }
            used = used.saturating_add(counts[n]);
            if used > self.budget {
                let results = messages[n + 1..].iter().take_while(|message| role(message) == "tool").count();
                kept[n + 1..][..results].fill(false);
                break;
            }
            kept[n] = true;
        }
        kept
    }
}

fn role(message: &Value) -> &str {
    message.at("/role").and_then(Value::as_text).unwrap_or_default()
}

/// The tokens of the messages that stay.
fn tokens(counts: &[u64], kept: &[bool]) -> u64 {
    counts.iter().zip(kept).filter(|(_, kept)| **kept).fold(0, |sum, (count, _)| sum.saturating_add(*count))
}

holm_sdk::policy!(PromptWindow: features, key);

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of these messages stay, in order, of a budget of ten tokens.
    fn window(messages: &[(&str, u64)]) -> String {
        let policy = PromptWindow::configure(r#"{"budget_tokens": 10}"#).unwrap();
        let role = |(role, _): &(&str, u64)| Value::parse(&format!("{{\"role\":\"{role}\"}}")).unwrap();
        let counts: Vec<u64> = messages.iter().map(|(_, count)| *count).collect();
        let kept = policy.window(&messages.iter().map(role).collect::<Vec<_>>(), &counts);
        kept.iter().map(|kept| if *kept { 'k' } else { '-' }).collect()
    }

    #[test]
    fn the_newest_stay_as_far_as_they_fit() {
        for (messages, kept) in [
            (&[("user", 4), ("assistant", 4), ("user", 2)][..], "kkk"),
            (&[("user", 4), ("assistant", 5), ("user", 2)], "-kk"),
            (&[("user", 1), ("assistant", 9), ("user", 2)], "--k"),
            (&[("system", 6), ("user", 1), ("assistant", 3), ("user", 1)], "k-kk"),
            (&[("user", 1), ("developer", 20), ("assistant", 1), ("user", 5)], "-k-k"),
            (&[("user", 50)], "k"),
            (&[("user", 3), ("assistant", 1), ("assistant", 8)], "k--"),
            (&[("user", 3), ("assistant", 8), ("assistant", 1)], "k-k"),
            (&[("assistant", 8), ("assistant", 8)], "-k"),
            (&[], ""),
        ] {
            assert_eq!(window(messages), kept, "{messages:?}");
        }
    }

    #[test]
    fn no_result_of_a_tool_stays_without_its_call() {
        let messages = [("user", 1), ("assistant", 9), ("tool", 1), ("tool", 1), ("assistant", 1), ("user", 1)];
        assert_eq!(window(&messages), "----kk");
        let messages = [("user", 1), ("assistant", 2), ("tool", 1), ("user", 1)];
        assert_eq!(window(&messages), "kkkk");
    }

    fn extracted(config: &str, body: Option<&str>, counts: Option<&str>) -> Shape {
        let values = [Some("digest"), body, counts].map(|value| value.map(|text| text.as_bytes().to_vec()));
        PromptWindow::configure(config).unwrap().extract(values.into()).unwrap()
    }

    #[test]
    fn what_is_left_out_is_neither_sent_nor_counted() {
        let body =
            r#"{"messages":[{"content":"a","role":"user"},{"content":"b","role":"user"}],"model":"m","user":"u"}"#;
        let shape = extracted(r#"{"budget_tokens": 3, "ignore": ["/user"]}"#, Some(body), Some("[2,2]"));
        let window = r#"[{"content":"b","role":"user"}]"#;
        let wanted = [("window", window), ("rest", r#"{"model":"m"}"#)];
        assert_eq!(shape.features, wanted.map(|(name, text)| (name.to_owned(), Feature::Text(text.into()))));
        assert_eq!(shape.edits, [Edit::set("/messages", window)]);
        assert_eq!(shape.headers, [Header::set("x-prompt-window", "kept=1; dropped=1; tokens=2; budget=3")]);
        assert!(extracted("{}", Some(body), Some("[2,2]")).edits.is_empty(), "all fit");
    }

    #[test]
    fn what_is_no_chat_counts_as_a_whole() {
        let whole = Shape { features: vec![("rest".into(), Feature::Bytes(b"digest".to_vec()))], ..Shape::default() };
        for (body, counts) in [
            (None, None),
            (Some(r#"{"input":"a"}"#), None),
            (Some(r#"{"messages":"a"}"#), Some("1")),
            (Some(r#"{"messages":[]}"#), Some("[1]")),
        ] {
            assert_eq!(extracted("{}", body, counts), whole, "{body:?}");
        }
    }
}
