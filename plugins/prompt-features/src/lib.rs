//! Reduces a prompt to what a model needs: fields that applications put around it (identifiers, times, traces, a
//! customer's whole record) are neither sent nor tell one request from another.

use holm_sdk::{
    Edit, Fault, Feature, Features, Input, Key, Part, Plan, Policy, Shape, Transform, Values, bytes,
    config::Table,
    json::{Value, names},
    parsed,
};

/// The operator's table.
#[derive(Debug)]
struct PromptFeatures {
    /// Pointers (RFC 6901) to what the model needs; everything if there are none.
    keep: Vec<String>,
    /// Pointers to what it doesn't need.
    drop: Vec<String>,
    /// Names of members that are left out wherever they are.
    volatile: Vec<String>,
    /// Header fields that tell responses apart.
    headers: Vec<String>,
}

/// The feature that the key is made of.
const PROMPT: &str = "prompt";

impl Policy for PromptFeatures {
    fn configure(config: &str) -> Result<Self, Fault> {
        let mut table = Table::parse(config)?;
        let mut list = |name| table.texts(name).map(Option::unwrap_or_default);
        let (keep, drop, volatile, headers) = (list("keep")?, list("drop")?, list("volatile")?, list("headers")?);
        table.finish()?;
        if let Some(wrong) = keep.iter().chain(&drop).find(|pointer| !pointer.starts_with('/')) {
            return Err(Fault::new(1, format!("\"{wrong}\" isn't a pointer to a part of the body")));
        }
        // Where only one element of an array is kept, its place would become another.
        if let Some(wrong) = keep.iter().find(|pointer| names(pointer).iter().any(|name| name.parse::<u32>().is_ok())) {
            return Err(Fault::new(1, format!("\"{wrong}\" leads into an array; keep all of it")));
        }
        Ok(Self { keep, drop, volatile, headers })
    }
}

impl Key for PromptFeatures {
    fn plan(&self) -> Plan {
        let mut parts = vec![
            Part::new(Input::Authority, Transform::Identity),
            Part::new(Input::Path, Transform::Identity),
            Part::new(Input::QueryAll, Transform::SortQuery),
            Part::new(Input::Feature(PROMPT.into()), Transform::Identity),
        ];
        parts.extend(self.headers.iter().map(|name| Part::new(Input::Header(name.clone()), Transform::Identity)));
        Plan::Recipe(parts)
    }
}

impl Features for PromptFeatures {
    fn reads(&self) -> Vec<Input> {
        let whole = [String::new()];
        let pointers = if self.keep.is_empty() { &whole[..] } else { &self.keep };
        let values = pointers.iter().map(|pointer| Input::BodyJson(pointer.clone()));
        [Input::BodyDigest].into_iter().chain(values).collect()
    }

    fn extract(&self, values: Values) -> Result<Shape, Fault> {
        let Some(mut body) = self.kept(&values) else {
            // Not JSON, or nothing of what was expected: it is sent as it is, and all of it tells requests apart.
            let digest = bytes(&values, 0).map(|digest| (PROMPT.into(), Feature::Bytes(digest.to_vec())));
            return Ok(Shape { features: digest.into_iter().collect(), ..Shape::default() });
        };
        for pointer in &self.drop {
            body.remove(pointer);
        }
        strip(&mut body, &self.volatile);
        let prompt = body.to_string();
        let edits = if self.keep.is_empty() && self.volatile.is_empty() {
            self.drop.iter().map(|pointer| Edit::remove(pointer)).collect()
        } else {
            vec![Edit::set("", prompt.clone())]
        };
        Ok(Shape { features: vec![(PROMPT.into(), Feature::Text(prompt))], edits, ..Shape::default() })
    }
}

impl PromptFeatures {
    /// The body, or an object with the parts named in `keep`. `None` if there are none.
    fn kept(&self, values: &Values) -> Option<Value> {
        if self.keep.is_empty() {
            return parsed(values, 1);
        }
        let mut kept = Table::default();
        for (pointer, n) in self.keep.iter().zip(1..) {
            if let Some(value) = parsed(values, n) {
                place(&mut kept, &names(pointer), value);
            }
        }
        (kept != Table::default()).then_some(Value::Table(kept))
    }
}

/// Puts a value where it was in the body.
fn place(table: &mut Table, path: &[String], value: Value) {
    match path {
        [] => {}
        [name] => table.set(name, value),
        [name, rest @ ..] => {
            if !matches!(table.get(name), Some(Value::Table(_))) {
                table.set(name, Value::Table(Table::default()));
            }
            if let Some(Value::Table(inner)) = table.get_mut(name) {
                place(inner, rest, value);
            }
        }
    }
}

/// Leaves out the members of these names, however deep.
fn strip(value: &mut Value, volatile: &[String]) {
    match value {
        Value::List(values) => values.iter_mut().for_each(|value| strip(value, volatile)),
        Value::Table(table) => table.retain(|name, value| {
            strip(value, volatile);
            !volatile.iter().any(|one| one == name)
        }),
        _ => {}
    }
}

holm_sdk::policy!(PromptFeatures: features, key);

#[cfg(test)]
mod tests {
    use super::*;

    fn configured(config: &str) -> PromptFeatures {
        PromptFeatures::configure(config).unwrap()
    }

    /// The shape of a body whose declared values are these.
    fn extracted(config: &str, values: &[Option<&str>]) -> Shape {
        let digest = [Some(vec![7; 32])].into_iter();
        let values = values.iter().map(|value| value.map(|text| text.as_bytes().to_vec()));
        configured(config).extract(digest.chain(values).collect()).unwrap()
    }

    fn prompt(shape: &Shape) -> &str {
        match shape.features.as_slice() {
            [(name, Feature::Text(text))] if name == PROMPT => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn kept_parts_stay_where_they_were() {
        let config = r#"{"keep": ["/model", "/a/b", "/a/c", "/a~1b", "/gone"]}"#;
        let shape = extracted(config, &[Some("\"m\""), Some("1.50"), Some("[null]"), Some("{\"x\":\"é\"}"), None]);
        assert_eq!(prompt(&shape), r#"{"model":"m","a":{"b":1.50,"c":[null]},"a/b":{"x":"é"}}"#);
        assert_eq!(shape.edits, [Edit::set("", prompt(&shape))]);
    }

    #[test]
    fn volatile_members_are_left_out_wherever_they_are() {
        let config = r#"{"keep": ["/messages"], "volatile": ["id", "at"], "drop": ["/messages/0/meta"]}"#;
        let shape = extracted(config, &[Some(r#"[{"at":1,"meta":{},"parts":[{"id":2,"text":"hi"}]},"id"]"#)]);
        assert_eq!(prompt(&shape), r#"{"messages":[{"parts":[{"text":"hi"}]},"id"]}"#);
    }

    #[test]
    fn without_a_list_to_keep_only_what_is_dropped_is_edited() {
        let shape = extracted(r#"{"drop": ["/user", "/n/1"]}"#, &[Some(r#"{"n":[1,2],"q":"a","user":"u"}"#)]);
        assert_eq!(prompt(&shape), r#"{"n":[1],"q":"a"}"#);
        assert_eq!(shape.edits, [Edit::remove("/user"), Edit::remove("/n/1")]);
    }

    #[test]
    fn a_body_that_is_something_else_counts_as_a_whole() {
        let digest = vec![(PROMPT.to_owned(), Feature::Bytes(vec![7; 32]))];
        for (config, values) in [("{}", [None]), (r#"{"keep": ["/model"]}"#, [None])] {
            let shape = extracted(config, &values);
            assert_eq!((&shape.features, shape.edits.len()), (&digest, 0), "{config}");
        }
        assert_eq!(configured("{}").extract(vec![None, None]).unwrap(), Shape::default());
    }

    #[test]
    fn the_key_is_a_recipe() {
        let Plan::Recipe(parts) = configured(r#"{"headers": ["x-tenant"]}"#).plan() else { panic!("a call") };
        let inputs: Vec<Input> = parts.into_iter().skip(3).map(|part| part.input).collect();
        assert_eq!(inputs, [Input::Feature(PROMPT.into()), Input::Header("x-tenant".into())]);
    }

    #[test]
    fn pointers_that_cannot_be_kept_are_refused() {
        for (config, words) in [
            (r#"{"keep": ["model"]}"#, "\"model\" isn't a pointer"),
            (r#"{"drop": [""]}"#, "\"\" isn't a pointer"),
            (r#"{"keep": ["/messages/0/content"]}"#, "leads into an array"),
            (r#"{"kept": []}"#, "unknown field \"kept\""),
        ] {
            let fault = PromptFeatures::configure(config).unwrap_err();
            assert!(fault.detail.contains(words), "{config}: {fault:?}");
        }
    }
}
