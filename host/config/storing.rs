//! The rules of a route by which responses are stored, told apart from the rest of it.

use super::{Defaults, Extensions, Mode, Route};

impl Route {
    /// Returns the rules by which its responses are stored, spelled out: equal if and only if the rules are. Keys begin
    /// with it, so its form changes only where cold tiers are worth it.
    #[must_use]
    pub fn storing_rules(&self) -> String {
        // Every field is named, so that a new one can't be forgotten here.
        let Self {
            name: _,
            hosts: _,
            path: _,
            forward_path: _,
            mode,
            // Keys have it in any case.
            translation: _,
            range_miss: _,
            pool: _,
            candidates: _,
            policy: _,
            on_fault: _,
            ignore_headers: _,
            key_without_body: _,
            indivisible: _,
            tenant: _,
            tenant_weights: _,
            compress: _,
            deltas: _,
            freshness,
            tag_headers,
            websocket: _,
            targeted,
            reload: _,
            store_set_cookie,
            underscores_in_headers,
            extensions,
            conditions: _,
            // Keys have these in any case.
            rewrite: _,
            request_headers: _,
            response_headers: _,
            own: _,
            body_bytes_max: _,
            response: _,
            requests_max: _,
            refresh_ahead: _,
            parents: _,
            parents_share_purges: _,
            replicate: _,
            // Keys have it in any case.
            key_client_region: _,
        } = self;
        let Extensions { query_key, query_body_bytes_max: _, cache_groups, no_vary_search: _ } = extensions;
        let Defaults { ttl, heuristic_max, grace, stale_if_error, stale_if_unreachable, keep } = freshness;
        let is_http = matches!(mode, Mode::Http);
        format!(
            "http={is_http} ttl={ttl:?} heuristic={heuristic_max:?} grace={grace:?} error={stale_if_error:?} \
             unreachable={stale_if_unreachable:?} keep={keep:?} tags={tag_headers:?} targeted={targeted:?} \
             cookies={store_set_cookie:?} underscores={underscores_in_headers} groups={cache_groups} \
             query={query_key:?}"
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderName;

    use super::*;
    use crate::config::{Protocol, QueryKey, Reload, StoreSetCookie, TenantBy};

    #[test]
    fn every_rule_of_storing_is_told_apart_and_nothing_else_is() {
        const SECOND: Duration = Duration::from_secs(1);
        let base = Route::new("r", "p").storing_rules();
        let changes: [fn(&mut Route); 13] = [
            |route| route.mode = Mode::Infer(Protocol::Plain),
            |route| route.freshness.ttl = Some(SECOND),
            |route| route.freshness.heuristic_max += SECOND,
            |route| route.freshness.grace += SECOND,
            |route| route.freshness.stale_if_error += SECOND,
            |route| route.freshness.stale_if_unreachable += SECOND,
            |route| route.freshness.keep += SECOND,
            |route| route.tag_headers.push(HeaderName::from_static("x-tag")),
            |route| drop(route.targeted.pop()),
            |route| route.store_set_cookie = StoreSetCookie::Never,
            |route| route.underscores_in_headers = true,
            |route| route.extensions.cache_groups = false,
            |route| route.extensions.query_key = QueryKey::Exact,
        ];
        let mut seen = vec![base.clone()];
        for (at, change) in changes.into_iter().enumerate() {
            let mut route = Route::new("r", "p");
            change(&mut route);
            let rules = route.storing_rules();
            assert!(!seen.contains(&rules), "change {at}: {rules}");
            assert!(!rules.contains('\n'), "{rules}");
            seen.push(rules);
        }
        let same: [fn(&mut Route); 4] = [
            |route| route.pool = "other".to_owned(),
            |route| route.reload = Reload::Ignore,
            |route| route.tenant = TenantBy::Client,
            |route| route.compress.bytes_min += 1,
        ];
        for (at, change) in same.into_iter().enumerate() {
            let mut route = Route::new("r", "p");
            change(&mut route);
            assert_eq!(route.storing_rules(), base, "change {at}");
        }
    }
}
