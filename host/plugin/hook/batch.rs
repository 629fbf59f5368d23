//! The `batch` hook.

use super::bounds::weighed;
use crate::{
    plugin::{
        exports::present,
        instance::{Instance, own_fault},
        limits::Limit,
    },
    policy::{Fault, Grouping},
};

/// Calls `classify`: what one item may share a batch with.
pub(super) fn classify(instance: &mut Instance, limit: &Limit, values: &[Option<&[u8]>]) -> Result<Grouping, Fault> {
    let answer =
        instance.call(limit, |exports, store| present(exports.batch.as_ref())?.call_classify(store, values))?;
    let class = answer.map_err(|fault| own_fault(&fault))?;
    weighed([class.group.len()].into_iter(), limit)?;
    Ok(Grouping {
        group: class.group.into(),
        priority: class.priority,
        weight: class.weight,
        max_wait_us: class.max_wait_us,
        max_size: class.max_size,
    })
}
