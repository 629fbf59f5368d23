//! One policy with an opinion in every hook. The same stands beside it in other languages; `../requests.jsonl` says what
//! all of them decide.

use holm_sdk::{
    Admission, Admit, Batch, Candidate, Choice, Class, Edit, Experiment, Fault, Feature, Features, Header, Hint, Input,
    Key, Plan, Policy, Prefetch, Route, Shape, Values, Verdict, bytes, config::Table, ranked, slot, text,
};

/// The operator's table.
struct Lane {
    /// The header field that names the tenant.
    tenant_header: String,
    /// Tenants, in lower case, whose requests go first.
    premium: Vec<String>,
}

impl Lane {
    fn tenant(&self) -> Input {
        Input::Header(self.tenant_header.clone())
    }
}

impl Policy for Lane {
    fn configure(config: &str) -> Result<Self, Fault> {
        let mut table = Table::parse(config)?;
        let tenant_header = table.text("tenant_header")?.unwrap_or_else(|| "x-tenant".into());
        let premium = table.texts("premium")?.unwrap_or_default();
        table.finish()?;
        Ok(Self { tenant_header, premium })
    }

    fn experiments(&self) -> Vec<Experiment> {
        let arms = vec![("small".into(), 9), ("large".into(), 1)];
        vec![Experiment { name: "size".into(), unit: Input::Header("x-user".into()), arms }]
    }
}

impl Key for Lane {
    fn plan(&self) -> Plan {
        let body = ["/model", "/messages"].map(|pointer| Input::BodyJson(pointer.into()));
        let place = [self.tenant(), Input::Authority, Input::Path, Input::QueryAll];
        Plan::Call(place.into_iter().chain(body).collect())
    }

    fn derive(&self, values: Values) -> Result<Verdict, Fault> {
        let Some(tenant) = lower(&values, 0) else {
            return Ok(Verdict::Bypass("no tenant".into()));
        };
        let others = values.iter().skip(1).map(|value| slot(value.as_deref()));
        Ok(Verdict::Lookup(std::iter::once(tenant).chain(others).collect()))
    }
}

impl Features for Lane {
    fn reads(&self) -> Vec<Input> {
        vec![Input::BodyJson("/priority".into()), Input::BodyLength, self.tenant()]
    }

    fn extract(&self, values: Values) -> Result<Shape, Fault> {
        let urgent = bytes(&values, 0) == Some(b"\"high\"");
        let size = text(&values, 1).and_then(|length| length.parse().ok()).unwrap_or(0);
        let tenant = lower(&values, 2);
        let premium = tenant.is_some_and(|tenant| self.premium.iter().any(|premium| premium.as_bytes() == tenant));
        let (flag, size) = (Feature::Flag, Feature::Integer(size));
        let features = [("urgent", flag(urgent)), ("premium", flag(premium)), ("size", size)];
        let mut edits = vec![Edit::remove("/user"), Edit::remove("/metadata")];
        edits.extend(urgent.then(|| Edit::set("/stream", "false")));
        let lane = if urgent || premium { "fast" } else { "slow" };
        let headers = vec![Header::set("x-lane", lane), Header::remove("x-debug")];
        Ok(Shape { features: features.map(|(name, value)| (name.into(), value)).into(), edits, headers })
    }
}

impl Admit for Lane {
    fn reads(&self) -> Vec<Input> {
        vec![Input::ResponseStatus, Input::ResponseHeader("content-type".into()), self.tenant()]
    }

    fn decide(&self, values: Values, suggested: Admission) -> Result<Admission, Fault> {
        Ok(match (text(&values, 0), suggested) {
            (Some("200"), Admission::Store(mut storage)) => {
                if bytes(&values, 1).is_some_and(|kind| kind.starts_with(b"text/event-stream")) {
                    storage.ttl_ms = 0;
                }
                storage.grace_ms = storage.ttl_ms / 2;
                let tenant = lower(&values, 2);
                storage.tags.extend(tenant.map(|tenant| format!("tenant:{}", String::from_utf8_lossy(&tenant))));
                Admission::Store(storage)
            }
            (Some("404"), _) => Admission::MarkUncacheable(5_000),
            (_, suggested) => suggested,
        })
    }
}

impl Route for Lane {
    fn reads(&self) -> Vec<Input> {
        vec![Input::Feature("urgent".into()), Input::Feature("premium".into()), Input::Arm("size".into())]
    }

    fn choose(&self, values: Values, candidates: &[Candidate]) -> Result<Choice, Fault> {
        let [urgent, premium, large] =
            [(0, "true"), (1, "true"), (2, "large")].map(|(n, is)| text(&values, n) == Some(is));
        let mut order = ranked(candidates, |candidate| {
            let other = large && !candidate.model.contains("large");
            (candidate.draining, other, if urgent { candidate.p50_us } else { candidate.cost_micro })
        });
        // Those that drain are last by now.
        let serving = candidates.iter().filter(|candidate| !candidate.draining).count();
        order.truncate(if serving > 0 { serving } else { candidates.len() });
        let first = order.first().and_then(|index| candidates.get(*index as usize)).filter(|_| premium);
        let hedge_after_us = first.map(|first| u32::try_from(first.p99_us).unwrap_or(u32::MAX).max(1_000));
        Ok(Choice { order, hedge_after_us, deadline_us: urgent.then_some(30_000_000) })
    }
}

impl Batch for Lane {
    fn reads(&self) -> Vec<Input> {
        vec![self.tenant(), Input::Feature("urgent".into()), Input::BodyJson("/model".into())]
    }

    fn classify(&self, values: Values) -> Result<Class, Fault> {
        let urgent = text(&values, 1) == Some("true");
        let (group, priority) = (bytes(&values, 2).unwrap_or_default().to_vec(), if urgent { 9 } else { 1 });
        Ok(Class { group, priority, max_wait_us: urgent.then_some(0), ..Class::default() })
    }
}

impl Prefetch for Lane {
    fn reads(&self) -> Vec<Input> {
        vec![Input::Path, Input::Query("page".into())]
    }

    fn suggest(&self, values: Values, hit: bool) -> Result<Vec<Hint>, Fault> {
        let digits = |page: &&str| matches!(page.len(), 1..=6) && page.bytes().all(|byte| byte.is_ascii_digit());
        let page = text(&values, 1).filter(digits).and_then(|page| page.parse::<u32>().ok());
        let next = text(&values, 0).zip(page).map(|(path, page)| format!("{path}?page={}", page + 1));
        let hint = |path| Hint { path, headers: vec![], confidence_ppm: 900_000 };
        Ok(next.filter(|_| hit).map(hint).into_iter().collect())
    }
}

/// The value in slot `n`, in lower case, if there is one.
fn lower(values: &[Option<Vec<u8>>], n: usize) -> Option<Vec<u8>> {
    bytes(values, n).filter(|value| !value.is_empty()).map(<[u8]>::to_ascii_lowercase)
}

holm_sdk::policy!(Lane: key, features, admit, route, batch, prefetch);
