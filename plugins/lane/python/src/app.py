"""Lanes: urgent requests and premium tenants first. In five languages; see ../../requests.jsonl for the verdicts."""

import re
from dataclasses import replace

from holm import Hook, Policy, Table, exported, input, slot, text
from wit_world.exports.admit import Admission, Admission_MarkUncacheable, Admission_Store
from wit_world.exports.batch import Class
from wit_world.exports.features import Edit, Header, Shape, Value, Value_Flag, Value_Integer
from wit_world.exports.key import Keying, Keying_Call, Verdict, Verdict_Bypass, Verdict_Lookup
from wit_world.exports.plugin import Experiment
from wit_world.exports.prefetch import Hint
from wit_world.exports.route import Candidate, Choice
from wit_world.imports.facts import Input

MICROSECONDS_MAX = 0xFFFF_FFFF
PAGE = re.compile("[0-9]{1,6}")

Values = list[bytes | None]


class Lane(Policy):
    name = "lane"
    version = "0.1.0"
    experiments = [Experiment("size", input.header("x-user"), [("small", 9), ("large", 1)])]

    def configure(self, table: Table) -> None:
        self.tenant = input.header(table.text("tenant_header", "x-tenant"))
        self.premium = frozenset(table.texts("premium", []))

    def reads(self) -> dict[Hook, list[Input]]:
        model = input.body_json("/model")
        place = [input.authority, input.path, input.query_all]
        urgent = input.feature("urgent")
        return {
            Hook.KEY: [self.tenant, *place, model, input.body_json("/messages")],
            Hook.FEATURES: [input.body_json("/priority"), input.body_length, self.tenant],
            Hook.ADMIT: [input.response_status, input.response_header("content-type"), self.tenant],
            Hook.ROUTE: [urgent, input.feature("premium"), input.arm("size")],
            Hook.BATCH: [self.tenant, urgent, model],
            Hook.PREFETCH: [input.path, input.query("page")],
        }

    def plan(self) -> Keying:
        return Keying_Call()

    def derive(self, values: Values) -> Verdict:
        tenant, *others = values
        if not tenant:
            return Verdict_Bypass("no tenant")
        return Verdict_Lookup([tenant.lower(), *map(slot, others)])

    def extract(self, values: Values) -> Shape:
        priority, length, tenant = values
        urgent = priority == b'"high"'
        premium = tenant is not None and text(tenant.lower()) in self.premium
        features: list[tuple[str, Value]] = [
            ("urgent", Value_Flag(urgent)),
            ("premium", Value_Flag(premium)),
            ("size", Value_Integer(int(length or 0))),
        ]
        edits = [Edit("/user", None), Edit("/metadata", None)]
        if urgent:
            edits.append(Edit("/stream", "false"))
        headers = [Header("x-lane", "fast" if urgent or premium else "slow"), Header("x-debug", None)]
        return Shape(features, edits, headers)

    def decide(self, values: Values, suggested: Admission) -> Admission:
        status, content_type, tenant = values
        if status == b"404":
            return Admission_MarkUncacheable(5000)
        if status != b"200" or not isinstance(suggested, Admission_Store):
            return suggested
        stored = suggested.value
        # A stream of events is stored for the clients that wait for it now, and no longer.
        ttl_ms = 0 if (content_type or b"").startswith(b"text/event-stream") else stored.ttl_ms
        tags = [*stored.tags, f"tenant:{text(tenant.lower())}"] if tenant else stored.tags
        return Admission_Store(replace(stored, ttl_ms=ttl_ms, grace_ms=ttl_ms // 2, tags=tags))

    def choose(self, values: Values, candidates: list[Candidate]) -> Choice:
        urgent, premium, arm = (text(value) for value in values)
        in_haste = urgent == "true"

        def rank(index: int) -> tuple[bool, int, int]:
            one = candidates[index]
            unwanted = arm == "large" and "large" not in one.model
            return unwanted, one.p50_us if in_haste else one.cost_micro, index

        everything = range(len(candidates))
        ready = [index for index in everything if not candidates[index].draining]
        order = sorted(ready or everything, key=rank)
        hedged = bool(order) and premium == "true"
        return Choice(
            order,
            min(max(candidates[order[0]].p99_us, 1000), MICROSECONDS_MAX) if hedged else None,
            30_000_000 if in_haste else None,
        )

    def classify(self, values: Values) -> Class:
        _tenant, urgent, model = values
        in_haste = urgent == b"true"
        return Class(model or b"", 9 if in_haste else 1, 0, 0 if in_haste else None, None)

    def suggest(self, values: Values, hit: bool) -> list[Hint]:
        path, page = map(text, values)
        if not hit or not PAGE.fullmatch(page):
            return []
        return [Hint(f"{path}?page={int(page) + 1}", [], 900_000)]


Plugin, Key, Features, Admit, Route, Batch, Prefetch = exported(Lane(), *Hook)
