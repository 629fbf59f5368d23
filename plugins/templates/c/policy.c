// Keys by tenant: each has responses of its own, and without a tenant nothing is shared.
#include "holm.h"

// The operator's configuration: the header field that names the tenant.
static const char *tenant_header;

static bool configure(const holm_string_t *config, holm_manifest_t *manifest, holm_fault_t *fault) {
    holm_table_t table = holm_table(config);
    tenant_header = holm_table_text(&table, "tenant_header", "x-tenant");
    if (!holm_table_end(&table, fault)) return false;
    holm_named(manifest, "{{name}}", "0.1.0");
    HOLM_READS(manifest, HOLM_OF_KEY, holm_header(tenant_header), holm_authority(), holm_path(), holm_query_all());
    return true;
}

// Values come in the order of HOLM_READS.
static bool derive(holm_values_t *values, holm_verdict_t *verdict, holm_fault_t *fault) {
    (void)fault;
    holm_slice_t tenant = holm_lowercased(holm_value(values, 0));
    if (tenant.len == 0) {
        holm_bypass(verdict, "no tenant");
        return true;
    }
    holm_part(verdict, holm_bytes(tenant));
    holm_part(verdict, holm_bytes(holm_value(values, 1)));
    holm_part(verdict, holm_bytes(holm_value(values, 2)));
    holm_part(verdict, holm_slot(holm_value(values, 3)));
    return true;
}

HOLM_CONFIGURE(configure)
HOLM_KEY(holm_plan_call, derive)
