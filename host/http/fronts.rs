//! The fronts: the transports that connections come in by. A front binds the configured addresses, takes a slot and has
//! each connection admitted (`shared`), brings its requests to a `service::Conversation`, and measures its clients'
//! progress: requests in an `Activity`, whatever else it can see by itself. It ends by the rules of `driver`. `quic`
//! (HTTP/3) will be beside `tcp`.

pub(super) mod tcp;
