//! The request to drain a node: its JSON, and why it may be refused.

use serde::Deserialize;
use thiserror::Error;

use super::purge::object;

/// What is to be drained, or no longer to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drain {
    /// Calls off a drain whose delay isn't over.
    pub cancel: bool,
    /// Whose nodes.
    pub whom: Whom,
}

/// Which nodes are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Whom {
    /// The one that is asked.
    #[default]
    Node,
    /// All of its region.
    OwnRegion,
    /// All of the region of this name.
    Region(String),
}

/// The body isn't the JSON object that is expected.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "the body is not a drain: {0}; allowed is an object with \"cancel\", true or false, and \"region\", true, false or \
     the name of a region"
)]
pub struct DrainInvalid(String);

/// Why nothing was done.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DrainFailure {
    /// The node stops already.
    #[error("the node doesn't serve yet, or stops already")]
    Stopping,
    /// There is nothing by which others could be asked.
    #[error("the node has neither `[cache.redis]` nor `[global]`, so that it can ask no others to drain")]
    Alone,
    /// The nodes of another region can't be asked.
    #[error("the node isn't of the region `{0}`, and has no `[global]` by which it could ask others")]
    Elsewhere(String),
    /// No node of the region is known.
    #[error("no node of the region `{0}` is known")]
    Unknown(String),
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
    region: Region,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Region {
    Own(bool),
    Named(String),
}

impl Default for Region {
    fn default() -> Self {
        Self::Own(false)
    }
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
        let whom = match region {
            Region::Own(false) => Whom::Node,
            Region::Own(true) => Whom::OwnRegion,
            Region::Named(name) if name.is_empty() => return Err(DrainInvalid("no region has no name".to_owned())),
            Region::Named(name) => Whom::Region(name),
        };
        Ok(Self { cancel, whom })
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
            (r#"{"region":true}"#, Drain { whom: Whom::OwnRegion, cancel: false }),
            (r#"{"cancel":true,"region":false}"#, Drain { whom: Whom::Node, cancel: true }),
            (r#"{"region":"eu"}"#, Drain { whom: Whom::Region("eu".to_owned()), cancel: false }),
        ] {
            assert_eq!(Drain::parse(body.as_bytes()), Ok(wanted), "{body}");
        }
        for body in ["[]", "no", r#"{"regoin":true}"#, r#"{"region":1}"#, r#"{"region":""}"#] {
            let said = Drain::parse(body.as_bytes()).unwrap_err().to_string();
            assert!(said.contains("allowed is an object"), "{said}");
        }
    }
}
