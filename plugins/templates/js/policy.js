// Keys by tenant: each has responses of its own, and without a tenant nothing is shared.

import { exported, input, lower, slot } from "./gen/holm.js";

class PerTenant {
  name = "{{name}}";
  version = "0.1.0";

  configure(table) {
    this.tenant = input.header(table.text("tenant_header", "x-tenant"));
  }

  reads() {
    return { key: [this.tenant, input.authority, input.path, input.queryAll] };
  }

  // Values come in the order of `reads`.
  derive([tenant, authority, path, query]) {
    if (!tenant?.length) return { tag: "bypass", val: "no tenant" };
    return { tag: "lookup", val: [lower(tenant), authority, path, slot(query)] };
  }
}

export const { plugin, key } = exported(new PerTenant());
