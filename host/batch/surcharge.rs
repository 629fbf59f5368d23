//! What the requests that a divided batch took beyond the first are charged, and to whom. Pure.

use super::shares::{Tenant, by_tenant};

/// The requests that a divided batch took beyond the first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Further {
    /// The places of the items in each of them.
    pub requests: Vec<Vec<usize>>,
    /// The places of the items that were found to be at fault.
    pub unfit: Vec<usize>,
}

/// Returns what each tenant is charged for these requests. `costs` has the tenant and the cost of each item of the batch,
/// and `price` makes what a request costs of its items and the sum of their costs.
///
/// The tenants whose items were at fault pay, by the cost of those; all of the batch do if none was found to be.
pub(super) fn surcharge(
    costs: &[(Tenant, u64)],
    further: &Further,
    price: impl Fn(usize, u64) -> u64,
) -> Vec<(Tenant, u64)> {
    let of = |places: &[usize]| places.iter().filter_map(|at| costs.get(*at).copied()).collect::<Vec<_>>();
    let request = |places: &Vec<usize>| price(places.len(), sum(&of(places)));
    let total = further.requests.iter().map(request).fold(0, u64::saturating_add);
    let at_fault = of(&further.unfit);
    let payers = by_tenant(if at_fault.is_empty() { costs } else { &at_fault });
    split(total, &payers)
}

fn sum(costs: &[(Tenant, u64)]) -> u64 {
    costs.iter().map(|(_, cost)| *cost).fold(0, u64::saturating_add)
}

/// Divides a cost among tenants by theirs, to the last unit.
fn split(total: u64, payers: &[(Tenant, u64)]) -> Vec<(Tenant, u64)> {
    let all = u128::from(sum(payers)).max(1);
    let until = |part: u128| u128::from(total) * part.min(all) / all;
    let (mut parts, mut before) = (Vec::with_capacity(payers.len()), 0);
    for (tenant, cost) in payers {
        let after = before + u128::from(*cost);
        // A part of a u64.
        parts.push((*tenant, u64::try_from(until(after) - until(before)).unwrap_or(u64::MAX)));
        before = after;
    }
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: Tenant = Tenant::of_digest(1);
    const B: Tenant = Tenant::of_digest(2);

    /// The requests beyond the first, the items at fault, who pays.
    type Case = (&'static [&'static [usize]], &'static [usize], Vec<(Tenant, u64)>);

    /// A request costs what its items do, and at least ten.
    fn charged(costs: &[(Tenant, u64)], requests: &[&[usize]], unfit: &[usize]) -> Vec<(Tenant, u64)> {
        let requests = requests.iter().map(|places| places.to_vec()).collect();
        surcharge(costs, &Further { requests, unfit: unfit.to_vec() }, |_, cost| cost.max(10))
    }

    #[test]
    fn the_tenant_at_fault_pays() {
        let costs = [(A, 4), (B, 4), (A, 4), (B, 12)];
        let cases: [Case; 6] = [
            (&[], &[1], vec![(B, 0)]),
            (&[&[0, 1], &[2, 3]], &[1], vec![(B, 26)]),
            (&[&[0, 1], &[2, 3]], &[0, 1], vec![(A, 13), (B, 13)]),
            (&[&[0, 1], &[0], &[1], &[2, 3]], &[1, 3], vec![(B, 46)]),
            // Nothing is known of any: by what each has in the batch.
            (&[&[0, 1, 2], &[3]], &[], vec![(A, 8), (B, 16)]),
            // A place that isn't there is nobody's.
            (&[&[7]], &[9], vec![(A, 3), (B, 7)]),
        ];
        for (requests, unfit, wanted) in cases {
            assert_eq!(charged(&costs, requests, unfit), wanted, "{requests:?} for {unfit:?}");
        }
    }

    proptest! {
        #[test]
        fn all_is_paid_and_nothing_twice(total in any::<u64>(), costs in prop::collection::vec(1_u64..1 << 40, 1..9)) {
            let payers: Vec<_> = (1_u64..).map(Tenant::of_digest).zip(costs).collect();
            let parts = split(total, &payers);
            let paid: u128 = parts.iter().map(|(_, part)| u128::from(*part)).sum();
            prop_assert_eq!(paid, u128::from(total));
        }
    }
}
