//! What a hook may read. The contract has kinds and arguments as words; here they are types.

use crate::bindings::base::{exports::holm::policy::plugin, holm::policy::facts};

/// An input of a hook. `wit/policy.wit` specifies the value of each kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The request method, as sent.
    Method,
    /// `http` or `https`.
    Scheme,
    /// Host and port, lower case.
    Authority,
    /// The path in its normal form, percent-encoded.
    Path,
    /// The values of one query parameter, percent-encoded, several joined by `&`.
    Query(String),
    /// The whole query as sent, without `?`.
    QueryAll,
    /// The values of one header field, several joined by `, `.
    Header(String),
    /// The value of one cookie.
    Cookie(String),
    /// The client's network of so many bits, such as `203.0.113.0/24`.
    ClientPrefix(u8),
    /// The client's region, in lower case, as a trusted proxy stated it.
    ClientRegion,
    /// The node's region.
    NodeRegion,
    /// blake3 of the body: 32 bytes.
    BodyDigest,
    /// The JSON text at a pointer (RFC 6901), members sorted, without white space.
    BodyJson(String),
    /// The first so many bytes of the body.
    BodyPrefix(u32),
    /// The body's length in decimal.
    BodyLength,
    /// The number of tokens of a text of the body.
    BodyTokens(Tokens),
    /// Output of the `features` hook, by name.
    Feature(String),
    /// The arm of a declared experiment.
    Arm(String),
    /// The response's status in decimal. This and the next three are for `admit` alone.
    ResponseStatus,
    /// The values of one header field of the response.
    ResponseHeader(String),
    /// The response's length in decimal, where it is known.
    ResponseLength,
    /// Microseconds until the response's head, cut to a multiple of this.
    FetchUs(u32),
    /// Seconds since 1970, cut to a multiple of this.
    Clock(u32),
    /// The state of a pool as a JSON object.
    PoolStats(String),
}

/// A text in a JSON body, and the vocabulary that its tokens are counted by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// The pointer to the text (RFC 6901).
    pub pointer: String,
    /// The vocabulary.
    pub encoding: Encoding,
}

/// OpenAI's vocabularies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Of GPT-4 and its embeddings.
    Cl100kBase,
    /// Of GPT-4o and later.
    O200kBase,
}

/// An experiment whose arm the host draws, from a stable hash of `unit` and by the arms' weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Experiment {
    /// Its name, which hooks read it by.
    pub name: String,
    /// The unit that arms are drawn for.
    pub unit: Input,
    /// The arms with their weights.
    pub arms: Vec<(String, u32)>,
}

impl Encoding {
    /// As the contract calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Cl100kBase => "cl100k-base",
            Self::O200kBase => "o200k-base",
        }
    }
}

impl Input {
    /// Its kind and its arguments, as the contract calls them.
    fn words(self) -> (&'static str, Vec<String>) {
        match self {
            Self::Method => ("method", vec![]),
            Self::Scheme => ("scheme", vec![]),
            Self::Authority => ("authority", vec![]),
            Self::Path => ("path", vec![]),
            Self::Query(name) => ("query", vec![name]),
            Self::QueryAll => ("query-all", vec![]),
            Self::Header(name) => ("header", vec![name]),
            Self::Cookie(name) => ("cookie", vec![name]),
            Self::ClientPrefix(bits) => ("client-prefix", vec![bits.to_string()]),
            Self::ClientRegion => ("client-region", vec![]),
            Self::NodeRegion => ("node-region", vec![]),
            Self::BodyDigest => ("body-digest", vec![]),
            Self::BodyJson(pointer) => ("body-json", vec![pointer]),
            Self::BodyPrefix(bytes) => ("body-prefix", vec![bytes.to_string()]),
            Self::BodyLength => ("body-length", vec![]),
            Self::BodyTokens(Tokens { pointer, encoding }) => ("body-tokens", vec![pointer, encoding.name().into()]),
            Self::Feature(name) => ("feature", vec![name]),
            Self::Arm(experiment) => ("arm", vec![experiment]),
            Self::ResponseStatus => ("response-status", vec![]),
            Self::ResponseHeader(name) => ("response-header", vec![name]),
            Self::ResponseLength => ("response-length", vec![]),
            Self::FetchUs(step) => ("fetch-us", vec![step.to_string()]),
            Self::Clock(step) => ("clock", vec![step.to_string()]),
            Self::PoolStats(pool) => ("pool-stats", vec![pool]),
        }
    }
}

impl From<Input> for facts::Input {
    fn from(input: Input) -> Self {
        let (kind, arguments) = input.words();
        Self { kind: kind.into(), arguments }
    }
}

impl From<Experiment> for plugin::Experiment {
    fn from(experiment: Experiment) -> Self {
        let Experiment { name, unit, arms } = experiment;
        Self { name, unit: unit.into(), arms }
    }
}

/// As a hook's `reads` returns them.
pub(crate) fn words(inputs: Vec<Input>) -> Vec<facts::Input> {
    inputs.into_iter().map(Into::into).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_become_the_words_of_the_contract() {
        let tokens = Tokens { pointer: "/messages".into(), encoding: Encoding::O200kBase };
        for (input, kind, arguments) in [
            (Input::QueryAll, "query-all", &[][..]),
            (Input::Header("Accept".into()), "header", &["Accept"]),
            (Input::ClientPrefix(24), "client-prefix", &["24"]),
            (Input::ClientRegion, "client-region", &[]),
            (Input::NodeRegion, "node-region", &[]),
            (Input::BodyJson(String::new()), "body-json", &[""]),
            (Input::BodyTokens(tokens), "body-tokens", &["/messages", "o200k-base"]),
            (Input::Clock(3_600), "clock", &["3600"]),
        ] {
            let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
            assert_eq!(facts::Input::from(input), facts::Input { kind: kind.into(), arguments });
        }
    }
}
