//! Errors as `application/problem+json` (RFC 9457).

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// The members of a problem that is told apart by its status alone.
///
/// When read, each member may be missing (RFC 9457, section 3.1): another service may have the address, or be in
/// between.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem<'a> {
    /// A URI that names the kind of problem; `about:blank` if the status says all.
    #[serde(rename = "type", default = "about_blank")]
    pub kind: Cow<'a, str>,
    /// The same text for every problem of this kind.
    #[serde(default)]
    pub title: Cow<'a, str>,
    /// The status of the response; 0 if it is missing.
    #[serde(default)]
    pub status: u16,
    /// What is wrong this time.
    #[serde(default)]
    pub detail: Cow<'a, str>,
}

impl<'a> Problem<'a> {
    /// Makes a problem of no kind of its own.
    #[must_use]
    pub fn new(status: u16, title: impl Into<Cow<'a, str>>, detail: impl Into<Cow<'a, str>>) -> Self {
        Self { kind: about_blank(), title: title.into(), status, detail: detail.into() }
    }
}

fn about_blank() -> Cow<'static, str> {
    Cow::Borrowed("about:blank")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_missing_has_its_default() {
        let read: Problem<'_> = serde_json::from_value(json!({"detail": "no", "balance": 30})).unwrap();
        assert_eq!(read, Problem::new(0, "", "no"));
        let whole = Problem::new(409, "Conflict", "nothing is on trial");
        let text = r#"{"type":"about:blank","title":"Conflict","status":409,"detail":"nothing is on trial"}"#;
        assert_eq!(serde_json::to_string(&whole).unwrap(), text);
        assert_eq!(serde_json::from_str::<Problem<'_>>(text).unwrap(), whole);
    }
}
