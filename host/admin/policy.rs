//! Changes of policies, read from a request's body.

use serde::Deserialize;
use thiserror::Error;

/// A change of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyAction {
    /// Load its component again, or another one.
    Load {
        /// Another component's file; without one, the configured.
        file: Option<String>,
        /// `swap`, `shadow` or `canary`; without one, as configured.
        mode: Option<String>,
        /// Share of the clients, in percent, for a canary.
        percent: Option<u8>,
    },
    /// The generation on trial becomes the active one.
    Promote,
    /// The trial ends, or a former generation becomes the active one.
    Rollback {
        /// How its digest begins; without one, the latest that wasn't rolled back from.
        to: Option<String>,
    },
}

/// Why nothing was done.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PolicyFailure {
    /// There is no such policy.
    #[error("{0}")]
    Unknown(String),
    /// The request is invalid.
    #[error("{0}")]
    Invalid(String),
    /// The component or the change was refused.
    #[error("{0}")]
    Refused(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Load {
    file: Option<String>,
    mode: Option<String>,
    percent: Option<u8>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rollback {
    to: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Promote {}

impl PolicyAction {
    /// Reads the body of a request for `action`: a JSON object, which may be empty.
    ///
    /// # Errors
    /// There is no such action, or the body isn't one of its requests.
    pub(super) fn parse(action: &str, body: &[u8]) -> Result<Self, PolicyFailure> {
        fn read<'b, T: Deserialize<'b>>(body: &'b [u8]) -> Result<T, PolicyFailure> {
            let body = if body.is_empty() { b"{}" } else { body };
            serde_json::from_slice(body).map_err(|error| PolicyFailure::Invalid(error.to_string()))
        }
        match action {
            "load" => {
                let Load { file, mode, percent } = read(body)?;
                if percent.is_some_and(|percent| !(1..=100).contains(&percent)) {
                    return Err(PolicyFailure::Invalid("`percent` is 1 to 100".to_owned()));
                }
                Ok(Self::Load { file, mode, percent })
            }
            "promote" => read::<Promote>(body).map(|Promote {}| Self::Promote),
            "rollback" => {
                let Rollback { to } = read(body)?;
                if to.as_ref().is_some_and(String::is_empty) {
                    let words = "`to` is empty; it is how the digest of a former generation begins, and without it the \
                                 latest is gone back to";
                    return Err(PolicyFailure::Invalid(words.to_owned()));
                }
                Ok(Self::Rollback { to })
            }
            other => {
                let words = format!("a policy has no action `{other}`; allowed are load, promote, rollback");
                Err(PolicyFailure::Unknown(words))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_asked() {
        let load = |file: Option<&str>, mode: Option<&str>, percent| PolicyAction::Load {
            file: file.map(Into::into),
            mode: mode.map(Into::into),
            percent,
        };
        for (action, body, wanted) in [
            ("load", "", load(None, None, None)),
            ("load", r#"{"file":"a.wasm","mode":"canary","percent":5}"#, load(Some("a.wasm"), Some("canary"), Some(5))),
            ("promote", "{}", PolicyAction::Promote),
            ("rollback", r#"{"to":"ab"}"#, PolicyAction::Rollback { to: Some("ab".into()) }),
        ] {
            assert_eq!(PolicyAction::parse(action, body.as_bytes()), Ok(wanted), "{action} {body}");
        }
        for (action, body) in [
            ("load", "[]"),
            ("load", r#"{"percent":0}"#),
            ("promote", r#"{"to":"ab"}"#),
            ("rollback", r#"{"at":1}"#),
            ("rollback", r#"{"to":""}"#),
        ] {
            let refused = PolicyAction::parse(action, body.as_bytes());
            assert!(matches!(refused, Err(PolicyFailure::Invalid(_))), "{action} {body}: {refused:?}");
        }
        assert!(matches!(PolicyAction::parse("drop", b""), Err(PolicyFailure::Unknown(_))));
    }
}
