//! The hooks that a policy may have.

/// One of the contract's hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hook {
    /// What the response depends on.
    Key,
    /// What matters in a request, and what of it is sent upstream.
    Features,
    /// Whether a response is stored, and for how long.
    Admit,
    /// The order in which candidates are tried.
    Route,
    /// Which items share a batch.
    Batch,
    /// What will be requested next.
    Prefetch,
}

impl Hook {
    /// All of them, in the contract's order.
    pub const ALL: [Self; 6] = [Self::Key, Self::Features, Self::Admit, Self::Route, Self::Batch, Self::Prefetch];

    /// Returns its name in the contract.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Features => "features",
            Self::Admit => "admit",
            Self::Route => "route",
            Self::Batch => "batch",
            Self::Prefetch => "prefetch",
        }
    }

    /// Returns its place in [`Hook::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Returns the hook of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hook| hook.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_place_and_its_name() {
        for (at, hook) in Hook::ALL.into_iter().enumerate() {
            assert_eq!((hook.index(), Hook::named(hook.name())), (at, Some(hook)));
        }
        assert_eq!(Hook::named("keys"), None);
    }
}
