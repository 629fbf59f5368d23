//! The hooks that a policy may have.

/// One of the contract's hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hook {
    /// What the answer depends on.
    Key,
    /// What matters in a request, and what of it travels.
    Features,
    /// Whether an answer is kept, and for how long.
    Admit,
    /// Who answers.
    Route,
    /// Which questions travel together.
    Batch,
    /// What will be asked next.
    Prefetch,
}

impl Hook {
    /// All of them, in the contract's order.
    pub const ALL: [Self; 6] = [Self::Key, Self::Features, Self::Admit, Self::Route, Self::Batch, Self::Prefetch];

    /// As the contract calls it.
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

    /// Its place in [`Hook::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The hook of this name.
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
