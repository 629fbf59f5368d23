//! Counting tokens as OpenAI's models do. A vocabulary is loaded when it is first needed, which takes a moment; after
//! that a count costs about a microsecond for ten words.

use std::sync::OnceLock;

use tiktoken_rs::CoreBPE;

use super::json::Json;

/// The vocabulary that tokens are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Of GPT-4 and its embeddings.
    Cl100kBase,
    /// Of GPT-4o and later.
    O200kBase,
}

impl Encoding {
    /// As the contract calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cl100kBase => "cl100k-base",
            Self::O200kBase => "o200k-base",
        }
    }

    /// Loads the vocabulary if it isn't yet; done when a policy is loaded that needs it, not when a request is waiting.
    pub fn warm(self) {
        self.vocabulary();
    }

    /// Returns a number for text and objects, a list of numbers for an array.
    pub(super) fn count(self, value: &Json) -> String {
        let Json::List(elements) = value else { return self.tokens(value).to_string() };
        let counts: Vec<String> = elements.iter().map(|element| self.tokens(element).to_string()).collect();
        format!("[{}]", counts.join(","))
    }

    /// Tokens of all strings in a value.
    fn tokens(self, value: &Json) -> usize {
        match value {
            Json::List(elements) => elements.iter().map(|element| self.tokens(element)).sum(),
            Json::Object(members) => members.values().map(|member| self.tokens(member)).sum(),
            // What looks like a special token in a client's text is text.
            Json::Text(_) | Json::Word(_) => {
                value.characters().map_or(0, |text| self.vocabulary().encode_ordinary(&text).len())
            }
        }
    }

    fn vocabulary(self) -> &'static CoreBPE {
        static CL100K: OnceLock<CoreBPE> = OnceLock::new();
        static O200K: OnceLock<CoreBPE> = OnceLock::new();
        // The vocabularies are part of the program; whether they can be read is decided when it is built.
        match self {
            Self::Cl100kBase => CL100K.get_or_init(|| tiktoken_rs::cl100k_base().expect("an embedded vocabulary")),
            Self::O200kBase => O200K.get_or_init(|| tiktoken_rs::o200k_base().expect("an embedded vocabulary")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: &serde_json::Value) -> Json {
        Json::read(value.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn strings_objects_and_lists() {
        for (value, wanted) in [
            (json!("hello world"), "2"),
            (json!(""), "0"),
            (json!(17), "0"),
            (json!({"role": "user", "content": "hello world"}), "3"),
            (json!([{"role": "user", "content": "hello world"}, "hello", 1, []]), "[3,1,0,0]"),
            (json!([]), "[]"),
        ] {
            assert_eq!(Encoding::Cl100kBase.count(&read(&value)), wanted, "{value}");
            assert_eq!(Encoding::O200kBase.count(&read(&value)), wanted, "{value}");
        }
        assert_eq!(Encoding::Cl100kBase.count(&read(&json!("<|endoftext|>"))), "7");
    }
}
