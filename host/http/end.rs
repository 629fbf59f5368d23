//! The ways a connection ends, as metrics and the log name them.

/// The timeout that a client exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// Nothing came at all.
    FirstByte,
    /// A request began and its header section didn't end.
    Headers,
    /// No further request came.
    Idle,
    /// The client didn't read the response that it had requested.
    Send,
    /// The client read it more slowly than it may.
    Rate,
}

impl Reason {
    /// Returns the reason as metrics name it.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::FirstByte => "first-byte",
            Self::Headers => "headers",
            Self::Idle => "idle",
            Self::Send => "send",
            Self::Rate => "rate",
        }
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By the client, or after a response that announced it.
    Done,
    /// Gracefully, because the server stops.
    Drained,
    /// Too busy at the end of the drain.
    Cut,
    /// The client took too long.
    Timeout(Reason),
    /// A ping got no response.
    Unresponsive,
    /// The TLS handshake failed.
    Handshake,
    /// What came wasn't HTTP, or its header section was too large.
    Malformed,
    /// A response broke off on this side, and the client must not take it for complete.
    Aborted,
    /// The client broke off in the middle of a request or a response.
    Broken,
}

impl End {
    /// Returns the end as metrics name it.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Drained => "drained",
            Self::Cut => "cut",
            Self::Timeout(reason) => reason.as_str(),
            Self::Unresponsive => "unresponsive",
            Self::Handshake => "handshake",
            Self::Malformed => "malformed",
            Self::Aborted => "aborted",
            Self::Broken => "broken",
        }
    }
}
