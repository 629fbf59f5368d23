//! The `route` hook.

use holm_bindings::exports::holm::policy::route::{Candidate as RawCandidate, Choice as RawChoice};

use super::bounds::counted;
use crate::{
    plugin::{
        exports::present,
        instance::{Instance, own_fault},
        limits::Limit,
    },
    policy::{Candidate, Choice, Fault},
};

/// Calls `choose`: the order of the candidates.
pub(super) fn choose(
    instance: &mut Instance,
    limit: &Limit,
    values: &[Option<&[u8]>],
    candidates: &[Candidate],
) -> Result<Choice, Fault> {
    let raw: Vec<RawCandidate<'_>> = candidates.iter().map(raw).collect();
    let answer =
        instance.call(limit, |exports, store| present(exports.route.as_ref())?.call_choose(store, values, &raw))?;
    answer.map_err(|fault| own_fault(&fault)).and_then(|choice| checked(&choice, candidates.len(), limit))
}

fn raw(candidate: &Candidate) -> RawCandidate<'_> {
    let stats = &candidate.stats;
    RawCandidate {
        pool: &candidate.pool,
        model: candidate.model.as_deref().unwrap_or_default(),
        inflight: stats.inflight,
        queued: stats.queued,
        p50_us: stats.p50_us,
        p99_us: stats.p99_us,
        error_ppm: stats.error_ppm,
        cost_micro: candidate.cost_micro,
        draining: stats.healthy == 0,
    }
}

fn checked(raw: &RawChoice, candidates: usize, limit: &Limit) -> Result<Choice, Fault> {
    counted("candidates in its order", &raw.order, usize::MAX, limit)?;
    let mut order = Vec::with_capacity(raw.order.len().min(candidates));
    for index in &raw.order {
        let index = usize::try_from(*index).unwrap_or(usize::MAX);
        if index >= candidates {
            return Err(Fault::Malformed(format!("it chose candidate {index} of {candidates}, counted from 0")));
        }
        if order.contains(&index) {
            return Err(Fault::Malformed(format!("it chose candidate {index} twice")));
        }
        order.push(index);
    }
    if order.is_empty() {
        return Err(Fault::Malformed("it chose nobody".to_owned()));
    }
    Ok(Choice { order, hedge_after_us: raw.hedge_after_us, deadline_us: raw.deadline_us })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_chosen_once_and_is_there() {
        let choose = |order: &[u32]| {
            checked(
                &RawChoice { order: order.to_vec(), hedge_after_us: Some(1), deadline_us: None },
                3,
                &Limit::of_bytes(100),
            )
        };
        assert_eq!(choose(&[2, 0]).unwrap().order, [2, 0]);
        for (order, words) in [(&[][..], "nobody"), (&[0, 3], "candidate 3 of 3"), (&[1, 1], "candidate 1 twice")] {
            assert!(choose(order).unwrap_err().to_string().contains(words), "{order:?}");
        }
    }
}
