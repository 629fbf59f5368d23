//! The request to drain a node: its JSON, and why it may be refused.

use serde::Deserialize;
use thiserror::Error;

use super::purge::object;

/// What is to be drained, or no longer to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drain {
    /// Calls off a drain whose delay isn't over.
    pub cancel: bool,
    /// All nodes of the region, not this one alone.
    pub region: bool,
}

/// The body isn't the JSON object that is expected.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("the body is not a drain: {0}; allowed is an object with \"cancel\" and \"region\", both true or false")]
pub struct DrainInvalid(String);

/// Why nothing was done.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DrainFailure {
    /// The node stops already.
    #[error("the node doesn't serve yet, or stops already")]
    Stopping,
    /// There is no Redis by which others could be asked.
    #[error("the node has no `[cache.redis]`, so that it can ask no others to drain")]
    Alone,
    /// The others can't be asked.
    #[error("{0}")]
    Unreachable(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(default)]
    cancel: bool,
    #[serde(default)]
    region: bool,
}

impl Drain {
    /// Reads the JSON of a drain; an empty body is `{}`.
    ///
    /// # Errors
    /// [`DrainInvalid`] says what is allowed.
    pub fn parse(body: &[u8]) -> Result<Self, DrainInvalid> {
        if body.is_empty() {
            return Ok(Self::default());
        }
        let Raw { cancel, region } = object(body).map_err(DrainInvalid)?;
        Ok(Self { cancel, region })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_is_of_the_node_unless_it_says_otherwise() {
        for (body, wanted) in [
            ("", Drain::default()),
            ("{}", Drain::default()),
            (r#"{"region":true}"#, Drain { region: true, cancel: false }),
            (r#"{"cancel":true,"region":false}"#, Drain { region: false, cancel: true }),
        ] {
            assert_eq!(Drain::parse(body.as_bytes()), Ok(wanted), "{body}");
        }
        for body in ["[]", "no", r#"{"regoin":true}"#, r#"{"region":"eu"}"#] {
            let said = Drain::parse(body.as_bytes()).unwrap_err().to_string();
            assert!(said.contains("allowed is an object"), "{said}");
        }
    }
}
