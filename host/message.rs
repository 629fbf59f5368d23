//! The types that rooms pass to each other: a request, a response and their bodies, independent of any server or client
//! library.

pub mod authority;
pub mod body;
pub mod coding;
pub mod compression;
pub mod connection;
pub mod delta;
pub mod incremental;
pub mod near;
pub mod network;
pub mod pattern;
pub mod problem;
pub mod proxy_status;
pub mod raw_query;
mod request;
mod scheme;
mod span;
pub mod structured;
pub mod tag;
pub mod target;
pub mod url;

pub use body::{Body, BodyError};
pub use near::Near;
pub use request::{Client, Request, RequestHead, is_grpc};
pub use scheme::Scheme;
pub use span::{RequestSpan, SPAN_TARGET};

/// A response on its way to a client or from an origin.
pub type Response = http::Response<Body>;
