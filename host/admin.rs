//! The admin API: health, readiness, metrics, purge, pools, batching, policies and configuration, and its client.
//!
//! [`Api`] serves it as an axum router over a [`Control`], the trait of the node's operations, which `app` implements.
//! Responses are the types of [`crate::report`]. [`client`] is the other end, for the command line.
//!
//! [`Gate`] says which requests may use it: by its token, if it has one, and by the names by which it is called.
//!
//! It has an address of its own, but a browser on the same machine can reach that too. So what changes something is a
//! POST of `application/json`, which no page of another site can send: a form can't, and a script would need a CORS
//! preflight, which is refused here.

mod api;
pub mod client;
mod config;
mod control;
mod drain;
mod gate;
mod policy;
mod purge;
mod reply;
mod trust;
mod why;

pub use self::{
    api::Api,
    config::ConfigFailure,
    control::{BoxFuture, Control, SignOffReport},
    drain::{Drain, DrainFailure, DrainInvalid, Whom},
    gate::{Gate, TOKEN_VARIABLE, Token, TokenInvalid},
    policy::{PolicyAction, PolicyFailure},
    purge::{Extent, PrefixInvalid, Purge, PurgeFailure, PurgeInvalid, Scope},
    trust::{Trust, TrustError},
    why::{Why, WhyInvalid},
};
