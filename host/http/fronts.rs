//! The ways that connections come in. A front binds the configured addresses, takes a slot and has each connection
//! admitted (`shared`), brings its requests to a `service::Conversation`, and measures what its clients do: requests in
//! an `Activity`, whatever else it can see by itself. It ends by the rules of `driver`. `quic` (HTTP/3) will stand
//! beside `tcp`.

pub(super) mod tcp;
