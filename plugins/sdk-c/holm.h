// The SDK for policies in C, on top of the bindings that `holm policy build` writes to gen/ (policy.h).
//
// Ownership. A hook's arguments are its own while it runs: a holm_slice_t points into them, and their bytes may be
// changed in place. What it returns is freed once the host has read it, so it must come from malloc: the functions here
// that return a string, bytes or an input make a copy, and to add one to a result hands it over. The macros at the end
// (HOLM_KEY and so on) free the arguments, and a half-made result if the hook fails. A hook frees nothing itself.
// Memory that can't be had ends the call with a trap.
#ifndef HOLM_H
#define HOLM_H

#include <stdlib.h>
#include <string.h>

#include "policy.h"

typedef holm_policy_facts_input_t holm_input_t;
typedef holm_policy_facts_inputs_t holm_inputs_t;
typedef holm_policy_facts_values_t holm_values_t;
typedef holm_policy_facts_fault_t holm_fault_t;
typedef exports_holm_policy_plugin_manifest_t holm_manifest_t;
typedef policy_string_t holm_string_t;
typedef policy_list_u8_t holm_bytes_t;

// The types of a hook are there if the policy exports it, so these are macros.
#define holm_keying_t exports_holm_policy_key_keying_t
#define holm_verdict_t exports_holm_policy_key_verdict_t
#define holm_shape_t exports_holm_policy_features_shape_t
#define holm_admission_t exports_holm_policy_admit_admission_t
#define holm_storage_t exports_holm_policy_admit_storage_t
#define holm_candidate_t exports_holm_policy_route_candidate_t
#define holm_candidates_t exports_holm_policy_route_list_candidate_t
#define holm_choice_t exports_holm_policy_route_choice_t
#define holm_class_t exports_holm_policy_batch_class_t
#define holm_hint_t exports_holm_policy_prefetch_hint_t
#define holm_hints_t exports_holm_policy_prefetch_list_hint_t

// ---- Values

// Bytes that somebody else owns. Not present and empty are two things; what isn't present has the length 0 as well.
typedef struct holm_slice {
    uint8_t *ptr;
    size_t len;
    bool present;
} holm_slice_t;

// A hook's value; not present if there are fewer.
holm_slice_t holm_value(const holm_values_t *values, size_t index);
// Both are false if the slice isn't present.
bool holm_equals(holm_slice_t slice, const char *text);
bool holm_starts_with(holm_slice_t slice, const char *text);
bool holm_contains(holm_string_t string, const char *text);
// Turns ASCII letters to lower case, in place.
holm_slice_t holm_lowercased(holm_slice_t slice);
// Reads a decimal number of digits only. False if it is something else, or too large.
bool holm_decimal(holm_slice_t slice, uint64_t *number);

// ---- Bytes, strings and lists to return

// Copies. A string must be UTF-8: holm_string_of replaces what isn't by U+FFFD, as the host would trap on it.
holm_bytes_t holm_bytes(holm_slice_t slice);
holm_string_t holm_string(const char *text);
holm_string_t holm_string_of(holm_slice_t slice);
// Keeps "not present" and "empty" apart in a key: a byte 0, or a byte 1 and the value.
holm_bytes_t holm_slot(holm_slice_t slice);

// A string that grows; begin with {0}.
void holm_append(holm_string_t *string, const char *text);
void holm_append_slice(holm_string_t *string, holm_slice_t slice);
void holm_append_decimal(holm_string_t *string, uint64_t number);

// Adds an element to a list of the bindings, whatever its type.
#define HOLM_PUSH(list, ...)                                                             \
    ((list)->ptr = holm_grown((list)->ptr, (list)->len, sizeof *(list)->ptr),            \
     (list)->ptr[(list)->len] = (__VA_ARGS__), (void)(list)->len++)
void *holm_grown(void *list, size_t len, size_t size);

// Fills in a fault, and is false: `return holm_fail(fault, 1, "no tenant");`
bool holm_fail(holm_fault_t *fault, uint16_t code, const char *detail);

// Writes to the node's log at its level `debug`; HOLM_POLICY_DIAGNOSTICS_LEVEL_INFO and so on.
void holm_log(holm_policy_diagnostics_level_t level, const char *message);

// ---- The manifest, and what hooks read

// The vocabulary that tokens are counted by.
typedef enum holm_encoding { HOLM_CL100K_BASE, HOLM_O200K_BASE } holm_encoding_t;

holm_input_t holm_method(void);
holm_input_t holm_scheme(void);
holm_input_t holm_authority(void);
holm_input_t holm_path(void);
holm_input_t holm_query(const char *name);
holm_input_t holm_query_all(void);
holm_input_t holm_header(const char *name);
holm_input_t holm_cookie(const char *name);
holm_input_t holm_client_prefix(uint8_t bits);
holm_input_t holm_client_region(void);
holm_input_t holm_node_region(void);
holm_input_t holm_body_digest(void);
holm_input_t holm_body_json(const char *pointer);
holm_input_t holm_body_prefix(uint32_t bytes);
holm_input_t holm_body_length(void);
holm_input_t holm_body_tokens(const char *pointer, holm_encoding_t encoding);
holm_input_t holm_feature(const char *name);
holm_input_t holm_arm(const char *experiment);
holm_input_t holm_response_status(void);
holm_input_t holm_response_header(const char *name);
holm_input_t holm_response_length(void);
holm_input_t holm_fetch_us(uint32_t multiple);
holm_input_t holm_clock(uint32_t multiple);
holm_input_t holm_pool_stats(const char *pool);

typedef enum holm_hook {
    HOLM_OF_KEY,
    HOLM_OF_FEATURES,
    HOLM_OF_ADMIT,
    HOLM_OF_ROUTE,
    HOLM_OF_BATCH,
    HOLM_OF_PREFETCH,
    HOLM_HOOKS,
} holm_hook_t;
typedef struct holm_weight {
    const char *arm;
    uint32_t weight;
} holm_weight_t;

void holm_named(holm_manifest_t *manifest, const char *name, const char *version);
// Declares the inputs of a hook, in `configure`:
// HOLM_READS(manifest, HOLM_OF_KEY, holm_path(), holm_header("accept-language"));
// Each hook that is exported needs one, without inputs if it reads nothing; a key that is a recipe needs none.
#define HOLM_READS(manifest, hook, ...)                   \
    ((void)(manifest), holm_reads(hook, (holm_input_t[]){__VA_ARGS__}, \
               sizeof((holm_input_t[]){__VA_ARGS__}) / sizeof(holm_input_t)))
void holm_reads(holm_hook_t hook, const holm_input_t *inputs, size_t count);
// HOLM_EXPERIMENT(manifest, "size", holm_header("x-user"), {"small", 9}, {"large", 1});
#define HOLM_EXPERIMENT(manifest, name, unit, ...)                         \
    holm_experiment(manifest, name, unit, (holm_weight_t[]){__VA_ARGS__}, \
                    sizeof((holm_weight_t[]){__VA_ARGS__}) / sizeof(holm_weight_t))
void holm_experiment(holm_manifest_t *manifest, const char *name, holm_input_t unit, const holm_weight_t *arms,
                     size_t count);

// ---- The operator's table

// A table is read field by field, each with a default for where it is missing; holm_table_end then reports the first
// thing that was wrong, a field that was not read included. What is read stays for the life of the instance.
typedef struct holm_table {
    struct holm_field *ptr;
    size_t len;
    bool failed;
    holm_string_t detail;
} holm_table_t;
typedef struct holm_texts {
    const char **ptr;
    size_t len;
} holm_texts_t;

holm_table_t holm_table(const holm_string_t *json);
const char *holm_table_text(holm_table_t *table, const char *name, const char *missing);
// An empty list where it is missing.
holm_texts_t holm_table_texts(holm_table_t *table, const char *name);
bool holm_table_flag(holm_table_t *table, const char *name, bool missing);
int64_t holm_table_integer(holm_table_t *table, const char *name, int64_t missing, int64_t min, int64_t max);
// False, with a fault of code 1, if anything was wrong.
bool holm_table_end(holm_table_t *table, holm_fault_t *fault);
bool holm_texts_have(const holm_texts_t *texts, holm_slice_t slice);

// ---- What hooks return. Results begin as zeroes: an empty recipe, a look-up of no
// parts, an empty shape.

// The transforms of the host for a part of a recipe.
typedef enum holm_transform {
    HOLM_IDENTITY,
    HOLM_LOWERCASE,
    HOLM_SORT_QUERY,
    HOLM_DROP_QUERY,
    HOLM_JSON_CANONICAL,
} holm_transform_t;
holm_string_t holm_transform(holm_transform_t transform);

#ifdef EXPORTS_HOLM_POLICY_KEY_VERDICT_LOOKUP
static inline void holm_recipe(holm_keying_t *keying, holm_input_t input, holm_transform_t transform) {
    HOLM_PUSH(&keying->val.recipe, (exports_holm_policy_key_part_t){input, holm_transform(transform)});
}
static inline void holm_part(holm_verdict_t *verdict, holm_bytes_t part) { HOLM_PUSH(&verdict->val.lookup, part); }
// In place of parts: not after one was added.
static inline void holm_bypass(holm_verdict_t *verdict, const char *reason) {
    verdict->tag = EXPORTS_HOLM_POLICY_KEY_VERDICT_BYPASS;
    verdict->val.bypass = holm_string(reason);
}
static inline bool holm_plan_call(holm_keying_t *keying, holm_fault_t *fault) {
    (void)fault;
    keying->tag = EXPORTS_HOLM_POLICY_KEY_KEYING_CALL;
    return true;
}
static inline bool holm_no_derive(holm_values_t *values, holm_verdict_t *verdict, holm_fault_t *fault) {
    (void)values, (void)verdict;
    return holm_fail(fault, 1, "the plan is a recipe");
}
#endif

#ifdef EXPORTS_HOLM_POLICY_FEATURES_VALUE_TEXT
// Features of the host's: the name of the tenant that a request's items are served for, 1 to 256 bytes, and what it
// counts for beside others, 1 to 1,000; instead of what the route says.
#define HOLM_TENANT "holm:tenant"
#define HOLM_TENANT_WEIGHT "holm:tenant-weight"
#define holm_feature_value_t exports_holm_policy_features_value_t
static inline void holm_add(holm_shape_t *shape, const char *name, holm_feature_value_t value) {
    HOLM_PUSH(&shape->features, (exports_holm_policy_features_tuple2_string_value_t){holm_string(name), value});
}
static inline void holm_add_text(holm_shape_t *shape, const char *name, holm_string_t text) {
    holm_add(shape, name, (holm_feature_value_t){EXPORTS_HOLM_POLICY_FEATURES_VALUE_TEXT, {.text = text}});
}
static inline void holm_add_integer(holm_shape_t *shape, const char *name, int64_t integer) {
    holm_add(shape, name, (holm_feature_value_t){EXPORTS_HOLM_POLICY_FEATURES_VALUE_INTEGER, {.integer = integer}});
}
static inline void holm_add_number(holm_shape_t *shape, const char *name, double number) {
    holm_add(shape, name, (holm_feature_value_t){EXPORTS_HOLM_POLICY_FEATURES_VALUE_NUMBER, {.number = number}});
}
static inline void holm_add_flag(holm_shape_t *shape, const char *name, bool flag) {
    holm_add(shape, name, (holm_feature_value_t){EXPORTS_HOLM_POLICY_FEATURES_VALUE_FLAG, {.flag = flag}});
}
static inline void holm_add_bytes(holm_shape_t *shape, const char *name, holm_bytes_t bytes) {
    holm_add(shape, name, (holm_feature_value_t){EXPORTS_HOLM_POLICY_FEATURES_VALUE_BYTES, {.bytes = bytes}});
}
// Sets what is at a pointer of the JSON body to this JSON text; NULL removes it.
static inline void holm_edit(holm_shape_t *shape, const char *pointer, const char *json) {
    policy_option_string_t value = {json != NULL, json ? holm_string(json) : (holm_string_t){0}};
    HOLM_PUSH(&shape->edits, (exports_holm_policy_features_edit_t){holm_string(pointer), value});
}
// Sets a header field of the request that is sent to the origin; NULL removes it.
static inline void holm_edit_header(holm_shape_t *shape, const char *name, const char *text) {
    policy_option_string_t value = {text != NULL, text ? holm_string(text) : (holm_string_t){0}};
    HOLM_PUSH(&shape->headers, (exports_holm_policy_features_header_t){holm_string(name), value});
}
#endif

#ifdef EXPORTS_HOLM_POLICY_ADMIT_ADMISSION_STORE
// NULL if it isn't to be stored.
static inline holm_storage_t *holm_stored(holm_admission_t *admission) {
    return admission->tag == EXPORTS_HOLM_POLICY_ADMIT_ADMISSION_STORE ? &admission->val.store : NULL;
}
static inline void holm_mark_uncacheable(holm_admission_t *admission, uint64_t ms) {
    exports_holm_policy_admit_admission_free(admission);
    *admission = (holm_admission_t){EXPORTS_HOLM_POLICY_ADMIT_ADMISSION_MARK_UNCACHEABLE, {.mark_uncacheable = ms}};
}
static inline void holm_pass(holm_admission_t *admission, const char *reason) {
    exports_holm_policy_admit_admission_free(admission);
    *admission = (holm_admission_t){EXPORTS_HOLM_POLICY_ADMIT_ADMISSION_PASS, {.pass = holm_string(reason)}};
}
#endif

// An optional number of a choice or a class; they begin as none.
#define HOLM_SOME(number) ((policy_option_u32_t){true, (number)})

// ---- What the component exports: one of these per hook, with the functions behind it. All return true, or false with
// a fault filled in.

#define HOLM_RESULT_(call, free_result, free_arguments) \
    memset(fault, 0, sizeof *fault);                    \
    bool returned = call;                               \
    if (!returned) free_result(result);                 \
    free_arguments;                                     \
    return returned;

// Returns the inputs of a hook to the host. Not for use by hand.
bool holm_declared(holm_hook_t hook, holm_inputs_t *inputs, holm_fault_t *fault);
#define HOLM_DECLARED_(name, hook)                                                        \
    bool exports_holm_policy_##name##_reads(holm_inputs_t *result, holm_fault_t *fault) { \
        memset(result, 0, sizeof *result);                                                \
        memset(fault, 0, sizeof *fault);                                                  \
        return holm_declared(hook, result, fault);                                        \
    }

// bool configure(const holm_string_t *config, holm_manifest_t *manifest, holm_fault_t *fault)
#define HOLM_CONFIGURE(configure)                                                                                    \
    bool exports_holm_policy_plugin_configure(holm_string_t *config, holm_manifest_t *result, holm_fault_t *fault) { \
        memset(result, 0, sizeof *result);                                                                           \
        HOLM_RESULT_(configure(config, result, fault), exports_holm_policy_plugin_manifest_free,                     \
                     policy_string_free(config))                                                                     \
    }

// bool plan(holm_keying_t *keying, holm_fault_t *fault)
// bool derive(holm_values_t *values, holm_verdict_t *verdict, holm_fault_t *fault)
// In place of `plan`, holm_plan_call has `derive` called for each request; holm_no_derive goes with a recipe.
#define HOLM_KEY(plan, derive)                                                                                  \
    HOLM_DECLARED_(key, HOLM_OF_KEY)                                                                            \
    bool exports_holm_policy_key_plan(holm_keying_t *result, holm_fault_t *fault) {                             \
        memset(result, 0, sizeof *result);                                                                      \
        HOLM_RESULT_(plan(result, fault), exports_holm_policy_key_keying_free, (void)0)                         \
    }                                                                                                           \
    bool exports_holm_policy_key_derive(holm_values_t *values, holm_verdict_t *result, holm_fault_t *fault) {   \
        memset(result, 0, sizeof *result);                                                                      \
        HOLM_RESULT_(derive(values, result, fault), exports_holm_policy_key_verdict_free,                       \
                     holm_policy_facts_values_free(values))                                                     \
    }

// bool extract(holm_values_t *values, holm_shape_t *shape, holm_fault_t *fault)
#define HOLM_FEATURES(extract)                                                                                      \
    HOLM_DECLARED_(features, HOLM_OF_FEATURES)                                                                      \
    bool exports_holm_policy_features_extract(holm_values_t *values, holm_shape_t *result, holm_fault_t *fault) {   \
        memset(result, 0, sizeof *result);                                                                          \
        HOLM_RESULT_(extract(values, result, fault), exports_holm_policy_features_shape_free,                       \
                     holm_policy_facts_values_free(values))                                                         \
    }

// bool decide(holm_values_t *values, holm_admission_t *admission, holm_fault_t *fault)
// `admission` begins as what the host suggests: to change nothing is to agree.
#define HOLM_ADMIT(decide)                                                                                  \
    HOLM_DECLARED_(admit, HOLM_OF_ADMIT)                                                                    \
    bool exports_holm_policy_admit_decide(holm_values_t *values, holm_admission_t *suggested,               \
                                          holm_admission_t *result, holm_fault_t *fault) {                  \
        *result = *suggested;                                                                               \
        HOLM_RESULT_(decide(values, result, fault), exports_holm_policy_admit_admission_free,               \
                     holm_policy_facts_values_free(values))                                                 \
    }

// bool choose(holm_values_t *values, const holm_candidates_t *candidates, holm_choice_t *choice, holm_fault_t *fault)
#define HOLM_ROUTE(choose)                                                                                   \
    HOLM_DECLARED_(route, HOLM_OF_ROUTE)                                                                     \
    bool exports_holm_policy_route_choose(holm_values_t *values, holm_candidates_t *candidates,              \
                                          holm_choice_t *result, holm_fault_t *fault) {                      \
        memset(result, 0, sizeof *result);                                                                   \
        HOLM_RESULT_(choose(values, candidates, result, fault), exports_holm_policy_route_choice_free,       \
                     (holm_policy_facts_values_free(values),                                                 \
                      exports_holm_policy_route_list_candidate_free(candidates)))                            \
    }

// bool classify(holm_values_t *values, holm_class_t *class, holm_fault_t *fault)
#define HOLM_BATCH(classify)                                                                                     \
    HOLM_DECLARED_(batch, HOLM_OF_BATCH)                                                                         \
    bool exports_holm_policy_batch_classify(holm_values_t *values, holm_class_t *result, holm_fault_t *fault) {  \
        memset(result, 0, sizeof *result);                                                                       \
        HOLM_RESULT_(classify(values, result, fault), exports_holm_policy_batch_class_free,                      \
                     holm_policy_facts_values_free(values))                                                      \
    }

// bool suggest(holm_values_t *values, bool hit, holm_hints_t *hints, holm_fault_t *fault)
#define HOLM_PREFETCH(suggest)                                                                                  \
    HOLM_DECLARED_(prefetch, HOLM_OF_PREFETCH)                                                                  \
    bool exports_holm_policy_prefetch_suggest(holm_values_t *values, bool hit, holm_hints_t *result,            \
                                              holm_fault_t *fault) {                                            \
        memset(result, 0, sizeof *result);                                                                      \
        HOLM_RESULT_(suggest(values, hit, result, fault), exports_holm_policy_prefetch_list_hint_free,          \
                     holm_policy_facts_values_free(values))                                                     \
    }

#endif
