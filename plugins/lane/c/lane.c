// The policy `lane` in C. What it does is in ../README.md; the same in other languages lies beside this folder.
#include "holm.h"

// The operator's configuration.
static const char *tenant_header;
static holm_texts_t premium;

static bool configure(const holm_string_t *config, holm_manifest_t *manifest, holm_fault_t *fault) {
    holm_table_t table = holm_table(config);
    tenant_header = holm_table_text(&table, "tenant_header", "x-tenant");
    premium = holm_table_texts(&table, "premium");
    if (!holm_table_end(&table, fault)) return false;
    holm_named(manifest, "lane", "0.1.0");
    HOLM_EXPERIMENT(manifest, "size", holm_header("x-user"), {"small", 9}, {"large", 1});
    HOLM_READS(manifest, HOLM_OF_KEY, holm_header(tenant_header), holm_authority(), holm_path(), holm_query_all(),
               holm_body_json("/model"), holm_body_json("/messages"));
    HOLM_READS(manifest, HOLM_OF_FEATURES, holm_body_json("/priority"), holm_body_length(), holm_header(tenant_header));
    HOLM_READS(manifest, HOLM_OF_ADMIT, holm_response_status(), holm_response_header("content-type"),
               holm_header(tenant_header));
    HOLM_READS(manifest, HOLM_OF_ROUTE, holm_feature("urgent"), holm_feature("premium"), holm_arm("size"));
    HOLM_READS(manifest, HOLM_OF_BATCH, holm_header(tenant_header), holm_feature("urgent"), holm_body_json("/model"));
    HOLM_READS(manifest, HOLM_OF_PREFETCH, holm_path(), holm_query("page"));
    return true;
}

// The tenant first, so that no two tenants share a response.
static bool derive(holm_values_t *values, holm_verdict_t *verdict, holm_fault_t *fault) {
    (void)fault;
    holm_slice_t tenant = holm_lowercased(holm_value(values, 0));
    if (tenant.len == 0) {
        holm_bypass(verdict, "no tenant");
        return true;
    }
    holm_part(verdict, holm_bytes(tenant));
    for (size_t i = 1; i < 6; i++) holm_part(verdict, holm_slot(holm_value(values, i)));
    return true;
}

static bool extract(holm_values_t *values, holm_shape_t *shape, holm_fault_t *fault) {
    (void)fault;
    bool urgent = holm_equals(holm_value(values, 0), "\"high\"");
    bool is_premium = holm_texts_have(&premium, holm_lowercased(holm_value(values, 2)));
    uint64_t size = 0;
    holm_decimal(holm_value(values, 1), &size);
    holm_add_flag(shape, "urgent", urgent);
    holm_add_flag(shape, "premium", is_premium);
    holm_add_integer(shape, "size", (int64_t)size);
    holm_edit(shape, "/user", NULL);
    holm_edit(shape, "/metadata", NULL);
    if (urgent) holm_edit(shape, "/stream", "false");
    holm_edit_header(shape, "x-lane", urgent || is_premium ? "fast" : "slow");
    holm_edit_header(shape, "x-debug", NULL);
    return true;
}

static bool decide(holm_values_t *values, holm_admission_t *admission, holm_fault_t *fault) {
    (void)fault;
    holm_slice_t status = holm_value(values, 0), tenant = holm_lowercased(holm_value(values, 2));
    holm_storage_t *storage = holm_stored(admission);
    if (storage && holm_equals(status, "200")) {
        if (holm_starts_with(holm_value(values, 1), "text/event-stream")) storage->ttl_ms = 0;
        storage->grace_ms = storage->ttl_ms / 2;
        if (tenant.len > 0) {
            holm_string_t tag = holm_string("tenant:");
            holm_append_slice(&tag, tenant);
            HOLM_PUSH(&storage->tags, tag);
        }
    } else if (holm_equals(status, "404")) {
        holm_mark_uncacheable(admission, 5000);
    }
    return true;
}

// Whether candidate `a` is better than `b`. Equal ones keep their order.
static bool better(const holm_candidate_t *a, const holm_candidate_t *b, bool large, bool urgent) {
    bool a_large = holm_contains(a->model, "large"), b_large = holm_contains(b->model, "large");
    if (large && a_large != b_large) return a_large;
    return urgent ? a->p50_us < b->p50_us : a->cost_micro < b->cost_micro;
}

static bool choose(holm_values_t *values, const holm_candidates_t *candidates, holm_choice_t *choice,
                   holm_fault_t *fault) {
    (void)fault;
    bool urgent = holm_equals(holm_value(values, 0), "true"), large = holm_equals(holm_value(values, 2), "large");
    const holm_candidate_t *all = candidates->ptr;
    bool all_drain = true;
    for (size_t i = 0; i < candidates->len; i++) all_drain = all_drain && all[i].draining;
    for (uint32_t i = 0; i < candidates->len; i++) {
        if (all[i].draining && !all_drain) continue;
        HOLM_PUSH(&choice->order, i);
        uint32_t *order = choice->order.ptr;
        for (size_t at = choice->order.len - 1; at > 0 && better(&all[i], &all[order[at - 1]], large, urgent); at--) {
            order[at] = order[at - 1];
            order[at - 1] = i;
        }
    }
    if (choice->order.len > 0 && holm_equals(holm_value(values, 1), "true")) {
        uint64_t p99 = all[choice->order.ptr[0]].p99_us;
        choice->hedge_after_us = HOLM_SOME(p99 < 1000 ? 1000 : p99 > UINT32_MAX ? UINT32_MAX : (uint32_t)p99);
    }
    if (urgent) choice->deadline_us = HOLM_SOME(30000000);
    return true;
}

static bool classify(holm_values_t *values, holm_class_t *class, holm_fault_t *fault) {
    (void)fault;
    bool urgent = holm_equals(holm_value(values, 1), "true");
    class->group = holm_bytes(holm_value(values, 2));
    class->priority = urgent ? 9 : 1;
    if (urgent) class->max_wait_us = HOLM_SOME(0);
    return true;
}

// A client that reads one page of a list reads the next.
static bool suggest(holm_values_t *values, bool hit, holm_hints_t *hints, holm_fault_t *fault) {
    (void)fault;
    uint64_t page;
    holm_slice_t digits = holm_value(values, 1);
    if (!hit || digits.len > 6 || !holm_decimal(digits, &page)) return true;
    holm_hint_t hint = {.path = holm_string_of(holm_value(values, 0)), .confidence_ppm = 900000};
    holm_append(&hint.path, "?page=");
    holm_append_decimal(&hint.path, page + 1);
    HOLM_PUSH(hints, hint);
    return true;
}

HOLM_CONFIGURE(configure)
HOLM_KEY(holm_plan_call, derive)
HOLM_FEATURES(extract)
HOLM_ADMIT(decide)
HOLM_ROUTE(choose)
HOLM_BATCH(classify)
HOLM_PREFETCH(suggest)
