//! The `route` hook: which pool, or which model, gets a request.

use crate::{Fault, Input, Policy, Values, bindings::route::exports::holm::policy::route};

pub use route::{Candidate, Choice};

/// A policy that chooses the pool, or the model, for a request.
///
/// ```
/// use holm_sdk::{Candidate, Choice, Fault, Input, Policy, Route, Values, ranked};
///
/// /// The cheapest first, of equal ones the faster; whoever is being drained comes last.
/// struct Thrifty;
///
/// impl Policy for Thrifty {
///     fn configure(_config: &str) -> Result<Self, Fault> {
///         Ok(Self)
///     }
/// }
///
/// impl Route for Thrifty {
///     fn reads(&self) -> Vec<Input> {
///         vec![]
///     }
///
///     fn choose(&self, _values: Values, candidates: &[Candidate]) -> Result<Choice, Fault> {
///         let order = ranked(candidates, |candidate| (candidate.draining, candidate.cost_micro, candidate.p50_us));
///         Ok(Choice { order, hedge_after_us: None, deadline_us: None })
///     }
/// }
///
/// holm_sdk::policy!(Thrifty: route);
/// # fn main() {}
/// ```
pub trait Route: Policy {
    /// Returns the inputs of [`Route::choose`], at most 64, in their order.
    fn reads(&self) -> Vec<Input>;

    /// Orders the candidates for one request. Those left out don't get it; one at least stays.
    ///
    /// # Errors
    /// A [`Fault`] leaves the request without the policy's opinion: the route decides what happens then.
    fn choose(&self, values: Values, candidates: &[Candidate]) -> Result<Choice, Fault>;
}

/// Indices of all candidates, those of the least rank first. Equal ones keep their order.
pub fn ranked<R: Ord>(candidates: &[Candidate], rank: impl Fn(&Candidate) -> R) -> Vec<u32> {
    let mut order: Vec<(R, u32)> = candidates.iter().map(rank).zip(0..).collect();
    order.sort();
    order.into_iter().map(|(_, index)| index).collect()
}

/// A candidate that nothing is known of yet.
impl Default for Candidate {
    fn default() -> Self {
        Self {
            pool: String::new(),
            model: String::new(),
            inflight: 0,
            queued: 0,
            p50_us: 0,
            p99_us: 0,
            error_ppm: 0,
            cost_micro: 0,
            draining: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_candidates_keep_their_order() {
        let costs = [3, 1, 2, 1].map(|cost_micro| Candidate { cost_micro, ..Candidate::default() });
        assert_eq!(ranked(&costs, |candidate| candidate.cost_micro), [1, 3, 2, 0]);
        assert_eq!(ranked(&costs, |_| ()), [0, 1, 2, 3]);
        assert_eq!(ranked(&[], |candidate| candidate.p50_us), []);
    }
}
