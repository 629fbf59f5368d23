"""Keys by tenant: each has responses of its own, and without a tenant nothing is shared."""

from holm import Hook, Policy, Table, exported, input, slot
from wit_world.exports.key import Keying, Keying_Call, Verdict, Verdict_Bypass, Verdict_Lookup
from wit_world.imports.facts import Input


class PerTenant(Policy):
    name = "{{name}}"
    version = "0.1.0"

    def configure(self, table: Table) -> None:
        self.tenant = input.header(table.text("tenant_header", "x-tenant"))

    def reads(self) -> dict[Hook, list[Input]]:
        return {Hook.KEY: [self.tenant, input.authority, input.path, input.query_all]}

    def plan(self) -> Keying:
        return Keying_Call()

    def derive(self, values: list[bytes | None]) -> Verdict:
        """Values come in the order of `reads`."""
        tenant, authority, path, query = values
        if not tenant:
            return Verdict_Bypass("no tenant")
        return Verdict_Lookup([tenant.lower(), authority or b"", path or b"", slot(query)])


Plugin, Key = exported(PerTenant(), Hook.KEY)
