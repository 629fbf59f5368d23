//! The policies of a running node, through its admin API.

mod listing;

use std::{path::PathBuf, time::Duration};

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::error::Error;
use crate::{
    admin::client::{self, Access},
    message::target,
    report::{Loaded, PolicyInfo, Problem},
};

/// What a node may take to compile a component: Python's takes seconds, on a busy machine more.
const TIME: Duration = Duration::from_secs(120);

/// A node.
#[derive(Clone, Debug)]
pub struct Remote {
    /// Its admin API.
    pub admin: Access,
}

/// How a generation begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Introduce {
    /// As the node's configuration says.
    Configured,
    /// At once.
    Swap,
    /// Called beside the active one; it decides nothing.
    Shadow,
    /// Decides for so many percent of the clients.
    Canary(u8),
}

impl Remote {
    /// The policies, their generations, trials and experiments; all or the one of a name.
    ///
    /// # Errors
    /// The node doesn't respond, or has no such policy.
    pub async fn list(&self, name: Option<&str>) -> Result<String, Error> {
        let response = self.call(Method::GET, "/policies", None).await?;
        let Ok(policies) = serde_json::from_value::<Vec<PolicyInfo>>(response) else {
            return Err(Error::Step {
                step: "the node's list of policies can't be read",
                cause: OTHER_VERSION.to_owned(),
            });
        };
        listing::shown(&policies, name).map_err(Error::Asked)
    }

    /// Loads a policy's component again, or another file in its place.
    ///
    /// # Errors
    /// The node doesn't respond, or refuses.
    pub async fn load(&self, name: &str, file: Option<PathBuf>, how: Introduce) -> Result<String, Error> {
        let mut body = json!({});
        if let Some(file) = file {
            // The node may run in another folder.
            let file = std::path::absolute(&file).map_err(Error::unreadable(file))?;
            body["file"] = json!(file);
        }
        match how {
            Introduce::Configured => {}
            Introduce::Swap => body["mode"] = json!("swap"),
            Introduce::Shadow => body["mode"] = json!("shadow"),
            Introduce::Canary(percent) => {
                body["mode"] = json!("canary");
                body["percent"] = json!(percent);
            }
        }
        self.act(name, "load", &body).await
    }

    /// Makes the generation on trial the active one.
    ///
    /// # Errors
    /// The node doesn't respond, or nothing is on trial.
    pub async fn promote(&self, name: &str) -> Result<String, Error> {
        self.act(name, "promote", &json!({})).await
    }

    /// Ends a trial, or goes back to a former generation: the latest, or the one whose digest begins so.
    ///
    /// # Errors
    /// The node doesn't respond, or has no such generation.
    pub async fn rollback(&self, name: &str, to: Option<&str>) -> Result<String, Error> {
        let body = to.map_or_else(|| json!({}), |to| json!({"to": to}));
        self.act(name, "rollback", &body).await
    }

    async fn act(&self, name: &str, action: &str, body: &Value) -> Result<String, Error> {
        let path = format!("/policies/{}/{action}", target::segment(name));
        let response = self.call(Method::POST, &path, Some(body)).await?;
        match serde_json::from_value::<Loaded>(response) {
            Ok(loaded) => Ok(in_words(name, &loaded)),
            Err(error) => {
                let cause = format!("{OTHER_VERSION} ({error})");
                Err(Error::Step { step: "the node's response can't be read", cause })
            }
        }
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Error> {
        let (status, response) = client::call(&self.admin, method, path, body, TIME).await?;
        if status == StatusCode::OK {
            return Ok(response);
        }
        Err(Error::Refused { admin: self.admin.address.clone(), status, detail: reason(response) })
    }
}

const OTHER_VERSION: &str = "is it a holm of another version?";

/// The detail of a problem, if it is one.
fn reason(response: Value) -> String {
    let problem = serde_json::from_value::<Problem<'_>>(response);
    let detail = problem.ok().map(|problem| problem.detail.into_owned()).filter(|detail| !detail.is_empty());
    detail.unwrap_or_else(|| "it says no reason".to_owned())
}

fn in_words(name: &str, loaded: &Loaded) -> String {
    let Loaded { generation, state, unchanged } = loaded;
    let what = match state.as_str() {
        "active" => "decides for all requests".to_owned(),
        "shadow" => "is called beside the active generation and decides nothing".to_owned(),
        "canary" => "decides for a share of the clients".to_owned(),
        other => format!("is {other}"),
    };
    let as_before = if *unchanged { ", as before: nothing has changed" } else { "" };
    format!("{name}@{generation} {what}{as_before}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Trust;

    #[test]
    fn a_nodes_response_is_put_into_words() {
        for (state, unchanged, words) in [
            ("active", false, "p@1a decides for all requests"),
            ("active", true, "p@1a decides for all requests, as before: nothing has changed"),
            ("shadow", false, "p@1a is called beside the active generation and decides nothing"),
            ("canary", false, "p@1a decides for a share of the clients"),
            ("new", false, "p@1a is new"),
        ] {
            let loaded = Loaded { generation: "1a".into(), state: state.into(), unchanged };
            assert_eq!(in_words("p", &loaded), words);
        }
    }

    #[test]
    fn why_a_node_refuses_is_what_its_problem_says() {
        let said = json!({"type": "about:blank", "title": "Conflict", "status": 409, "detail": "nothing is on trial"});
        assert_eq!(reason(said), "nothing is on trial");
        for other in [json!({}), json!([1]), json!({"detail": ""}), json!({"detail": 7})] {
            assert_eq!(reason(other), "it says no reason");
        }
    }

    #[tokio::test]
    async fn nobody_there_is_said() {
        let remote =
            Remote { admin: Access { address: "127.0.0.1:1".to_owned(), token: None, trust: Trust::default() } };
        let error = remote.promote("p").await.unwrap_err().to_string();
        assert!(error.contains("no connection to the admin API at 127.0.0.1:1"), "{error}");
    }
}
