//! The tenants whose items failed in company again and again. For a while they share batches with each other's items
//! no more, so that nobody else waits until a batch is divided. Pure: the time is an argument.

use std::{collections::HashMap, time::Duration};

use super::shares::Tenant;
use crate::clock::Uptime;

/// Items that fail in company before a tenant is set apart: one or two may be anybody's.
const FAILED_MIN: u32 = 3;

/// A table of tenants, each until its time is over.
#[derive(Debug)]
pub struct Apart {
    tenants_max: usize,
    lasts: Duration,
    rows: HashMap<Tenant, Row>,
}

#[derive(Debug)]
struct Row {
    failed: u32,
    until: Uptime,
}

impl Apart {
    /// Returns an empty table of at most `tenants_max` tenants. What failed counts for `lasts`, and for as long a tenant
    /// is apart.
    #[must_use]
    pub fn new(tenants_max: usize, lasts: Duration) -> Self {
        Self { tenants_max, lasts, rows: HashMap::new() }
    }

    /// Notes that an item of a tenant failed, while others of its batch didn't.
    pub fn failed(&mut self, tenant: Tenant, now: Uptime) {
        if !self.rows.contains_key(&tenant) && self.rows.len() >= self.tenants_max {
            self.rows.retain(|_, row| now < row.until);
            if self.rows.len() >= self.tenants_max {
                return;
            }
        }
        let row = self.rows.entry(tenant).or_insert(Row { failed: 0, until: now });
        if row.until <= now {
            row.failed = 0;
        }
        row.failed = row.failed.saturating_add(1);
        row.until = now.plus(self.lasts);
    }

    /// Whether a tenant's items are to share batches with each other only.
    #[must_use]
    pub fn holds(&self, tenant: Tenant, now: Uptime) -> bool {
        self.rows.get(&tenant).is_some_and(|row| row.failed >= FAILED_MIN && now < row.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: fn(u64) -> Uptime = Uptime;

    #[test]
    fn a_tenant_is_apart_after_some_failures_and_for_a_while() {
        let mut apart = Apart::new(8, Duration::from_millis(100));
        let (one, other) = (Tenant::of_digest(1), Tenant::of_digest(2));
        for now in [0, 10] {
            apart.failed(one, T(now));
            assert!(!apart.holds(one, T(now)));
        }
        apart.failed(one, T(20));
        assert!(apart.holds(one, T(119)) && !apart.holds(one, T(120)) && !apart.holds(other, T(20)));
        apart.failed(one, T(110));
        assert!(apart.holds(one, T(209)), "each failure makes it last");
        apart.failed(one, T(300));
        assert!(!apart.holds(one, T(300)), "what failed long ago doesn't count");
    }

    #[test]
    fn a_full_table_takes_nobody_in_whose_place_is_not_free() {
        let mut apart = Apart::new(1, Duration::from_millis(100));
        let (one, other) = (Tenant::of_digest(1), Tenant::of_digest(2));
        for _ in 0..3 {
            apart.failed(one, T(0));
            apart.failed(other, T(0));
        }
        assert!(apart.holds(one, T(1)) && !apart.holds(other, T(1)));
        for _ in 0..3 {
            apart.failed(other, T(200));
        }
        assert!(apart.holds(other, T(201)));
    }
}
