// See holm.h for what these do and who owns what.
#include "holm.h"

// Memory for `len` bytes, at least one, so that NULL is always a failure.
static void *holm_memory(void *old, size_t len) {
    void *memory = realloc(old, len ? len : 1);
    if (!memory) abort();
    return memory;
}

// An empty list from the host has a pointer that isn't malloc's. Growth is exact, since a list of the host has no room
// to spare and nothing says how much a list has.
void *holm_grown(void *list, size_t len, size_t size) { return holm_memory(len ? list : NULL, (len + 1) * size); }

static holm_slice_t of_text(const char *text) { return (holm_slice_t){(uint8_t *)text, strlen(text), true}; }

// ---- Values

holm_slice_t holm_value(const holm_values_t *values, size_t index) {
    if (index >= values->len || !values->ptr[index].is_some) return (holm_slice_t){0};
    return (holm_slice_t){values->ptr[index].val.ptr, values->ptr[index].val.len, true};
}

bool holm_equals(holm_slice_t slice, const char *text) {
    return slice.len == strlen(text) && holm_starts_with(slice, text);
}

bool holm_starts_with(holm_slice_t slice, const char *text) {
    size_t len = strlen(text);
    return slice.present && slice.len >= len && (len == 0 || memcmp(slice.ptr, text, len) == 0);
}

bool holm_contains(holm_string_t string, const char *text) {
    size_t len = strlen(text);
    for (size_t at = 0; at + len <= string.len; at++) {
        if (len == 0 || memcmp(string.ptr + at, text, len) == 0) return true;
    }
    return false;
}

holm_slice_t holm_lowercased(holm_slice_t slice) {
    for (size_t i = 0; i < slice.len; i++) {
        if (slice.ptr[i] >= 'A' && slice.ptr[i] <= 'Z') slice.ptr[i] += 'a' - 'A';
    }
    return slice;
}

bool holm_decimal(holm_slice_t slice, uint64_t *number) {
    uint64_t sum = 0;
    for (size_t i = 0; i < slice.len; i++) {
        uint8_t digit = slice.ptr[i] - '0';
        if (digit > 9 || __builtin_mul_overflow(sum, 10, &sum)) return false;
        if (__builtin_add_overflow(sum, digit, &sum)) return false;
    }
    *number = sum;
    return slice.len > 0;
}

// ---- Bytes and strings

holm_bytes_t holm_bytes(holm_slice_t slice) {
    if (slice.len == 0) return (holm_bytes_t){0};
    holm_bytes_t bytes = {holm_memory(NULL, slice.len), slice.len};
    memcpy(bytes.ptr, slice.ptr, slice.len);
    return bytes;
}

holm_bytes_t holm_slot(holm_slice_t slice) {
    holm_bytes_t bytes = {holm_memory(NULL, slice.len + 1), slice.len + 1};
    bytes.ptr[0] = slice.present;
    if (slice.len) memcpy(bytes.ptr + 1, slice.ptr, slice.len);
    return bytes;
}

holm_string_t holm_string(const char *text) {
    holm_bytes_t bytes = holm_bytes(of_text(text));
    return (holm_string_t){bytes.ptr, bytes.len};
}

holm_string_t holm_string_of(holm_slice_t slice) {
    holm_string_t string = {0};
    holm_append_slice(&string, slice);
    return string;
}

static void append(holm_string_t *string, const uint8_t *bytes, size_t len) {
    if (len == 0) return;
    string->ptr = holm_memory(string->len ? string->ptr : NULL, string->len + len);
    memcpy(string->ptr + string->len, bytes, len);
    string->len += len;
}

void holm_append(holm_string_t *string, const char *text) { append(string, (const uint8_t *)text, strlen(text)); }

void holm_append_decimal(holm_string_t *string, uint64_t number) {
    char digits[21];
    size_t at = sizeof digits - 1;
    digits[at] = 0;
    do digits[--at] = '0' + number % 10;
    while ((number /= 10) > 0);
    holm_append(string, digits + at);
}

// The bytes that may follow the first byte of a character: their number, and the bounds of the first of them.
typedef struct lead {
    uint8_t more, low, high;
} lead_t;

static lead_t lead_of(uint8_t first) {
    if (first < 0x80) return (lead_t){0, 0, 0};
    if (first >= 0xc2 && first <= 0xdf) return (lead_t){1, 0x80, 0xbf};
    if (first >= 0xe0 && first <= 0xef) return (lead_t){2, first == 0xe0 ? 0xa0 : 0x80, first == 0xed ? 0x9f : 0xbf};
    if (first >= 0xf0 && first <= 0xf4) return (lead_t){3, first == 0xf0 ? 0x90 : 0x80, first == 0xf4 ? 0x8f : 0xbf};
    return (lead_t){0xff, 0, 0};
}

// The number of bytes of the character at the front, or of what stands for one that is none; false if it is none.
static bool character(const uint8_t *at, size_t left, size_t *len) {
    lead_t lead = lead_of(at[0]);
    *len = 1;
    if (lead.more == 0xff) return false;
    for (uint8_t i = 0; i < lead.more; i++) {
        uint8_t low = i ? 0x80 : lead.low, high = i ? 0xbf : lead.high;
        if (*len == left || at[*len] < low || at[*len] > high) return false;
        *len += 1;
    }
    return true;
}

// One U+FFFD for each longest beginning of a character, as Rust, JavaScript and Python have it.
void holm_append_slice(holm_string_t *string, holm_slice_t slice) {
    size_t from = 0, len;
    for (size_t at = 0; at < slice.len; at += len) {
        if (character(slice.ptr + at, slice.len - at, &len)) continue;
        append(string, slice.ptr + from, at - from);
        holm_append(string, "\xef\xbf\xbd");
        from = at + len;
    }
    append(string, slice.ptr + from, slice.len - from);
}

bool holm_fail(holm_fault_t *fault, uint16_t code, const char *detail) {
    *fault = (holm_fault_t){code, holm_string(detail)};
    return false;
}

void holm_log(holm_policy_diagnostics_level_t level, const char *message) {
    holm_string_t text = {(uint8_t *)message, strlen(message)};
    if (holm_policy_diagnostics_enabled(level)) holm_policy_diagnostics_log(level, &text);
}

// ---- The manifest

// An input is words in the contract: a kind and its arguments.
static holm_input_t plain(const char *kind) { return (holm_input_t){holm_string(kind), {0}}; }
static holm_input_t named(const char *kind, const char *name) {
    holm_input_t input = plain(kind);
    HOLM_PUSH(&input.arguments, holm_string(name));
    return input;
}
static holm_input_t numbered(const char *kind, uint32_t number) {
    holm_input_t input = plain(kind);
    holm_string_t digits = {0};
    holm_append_decimal(&digits, number);
    HOLM_PUSH(&input.arguments, digits);
    return input;
}

holm_input_t holm_method(void) { return plain("method"); }
holm_input_t holm_scheme(void) { return plain("scheme"); }
holm_input_t holm_authority(void) { return plain("authority"); }
holm_input_t holm_path(void) { return plain("path"); }
holm_input_t holm_query(const char *name) { return named("query", name); }
holm_input_t holm_query_all(void) { return plain("query-all"); }
holm_input_t holm_header(const char *name) { return named("header", name); }
holm_input_t holm_cookie(const char *name) { return named("cookie", name); }
holm_input_t holm_client_prefix(uint8_t bits) { return numbered("client-prefix", bits); }
holm_input_t holm_client_region(void) { return plain("client-region"); }
holm_input_t holm_node_region(void) { return plain("node-region"); }
holm_input_t holm_body_digest(void) { return plain("body-digest"); }
holm_input_t holm_body_json(const char *pointer) { return named("body-json", pointer); }
holm_input_t holm_body_prefix(uint32_t bytes) { return numbered("body-prefix", bytes); }
holm_input_t holm_body_length(void) { return plain("body-length"); }
holm_input_t holm_body_tokens(const char *pointer, holm_encoding_t encoding) {
    static const char *const names[] = {[HOLM_CL100K_BASE] = "cl100k-base", [HOLM_O200K_BASE] = "o200k-base"};
    holm_input_t input = named("body-tokens", pointer);
    HOLM_PUSH(&input.arguments, holm_string(names[encoding]));
    return input;
}
holm_input_t holm_feature(const char *name) { return named("feature", name); }
holm_input_t holm_arm(const char *experiment) { return named("arm", experiment); }
holm_input_t holm_response_status(void) { return plain("response-status"); }
holm_input_t holm_response_header(const char *name) { return named("response-header", name); }
holm_input_t holm_response_length(void) { return plain("response-length"); }
holm_input_t holm_fetch_us(uint32_t multiple) { return numbered("fetch-us", multiple); }
holm_input_t holm_clock(uint32_t multiple) { return numbered("clock", multiple); }
holm_input_t holm_pool_stats(const char *pool) { return named("pool-stats", pool); }

void holm_named(holm_manifest_t *manifest, const char *name, const char *version) {
    manifest->name = holm_string(name);
    manifest->version = holm_string(version);
}

// The inputs of each hook, as `configure` declared them.
static struct {
    bool said;
    holm_inputs_t inputs;
} declared[HOLM_HOOKS];

void holm_reads(holm_hook_t hook, const holm_input_t *inputs, size_t count) {
    declared[hook].said = true;
    for (size_t i = 0; i < count; i++) HOLM_PUSH(&declared[hook].inputs, inputs[i]);
}

static holm_string_t copy(holm_string_t string) {
    holm_bytes_t bytes = holm_bytes((holm_slice_t){string.ptr, string.len, true});
    return (holm_string_t){bytes.ptr, bytes.len};
}

// Copies, since what the host has read is freed.
bool holm_declared(holm_hook_t hook, holm_inputs_t *inputs, holm_fault_t *fault) {
    if (!declared[hook].said) return holm_fail(fault, 1, "it has no HOLM_READS, which has no inputs if it reads nothing");
    for (size_t i = 0; i < declared[hook].inputs.len; i++) {
        const holm_input_t *from = &declared[hook].inputs.ptr[i];
        holm_input_t input = {copy(from->kind), {0}};
        for (size_t at = 0; at < from->arguments.len; at++) HOLM_PUSH(&input.arguments, copy(from->arguments.ptr[at]));
        HOLM_PUSH(inputs, input);
    }
    return true;
}

holm_string_t holm_transform(holm_transform_t transform) {
    static const char *const names[] = {
        [HOLM_IDENTITY] = "identity",
        [HOLM_LOWERCASE] = "lowercase",
        [HOLM_SORT_QUERY] = "sort-query",
        [HOLM_DROP_QUERY] = "drop-query",
        [HOLM_JSON_CANONICAL] = "json-canonical",
    };
    return holm_string(names[transform]);
}

void holm_experiment(holm_manifest_t *manifest, const char *name, holm_input_t unit, const holm_weight_t *arms,
                     size_t count) {
    exports_holm_policy_plugin_experiment_t experiment = {holm_string(name), unit, {0}};
    for (size_t i = 0; i < count; i++) {
        HOLM_PUSH(&experiment.arms, (policy_tuple2_string_u32_t){holm_string(arms[i].arm), arms[i].weight});
    }
    HOLM_PUSH(&manifest->experiments, experiment);
}

// ---- The operator's table: the JSON of one object, which the host writes from TOML. Read strictly.

// A stretch of JSON text that is still to be read.
typedef struct reader {
    const uint8_t *at, *end;
} reader_t;

struct holm_field {
    char *name;
    reader_t value;
    bool taken;
};

// Lists and tables in one another, at most.
enum { DEPTH_MAX = 32 };

static bool skip_value(reader_t *reader, int depth);

static bool next_is(reader_t *reader, char wanted) {
    if (reader->at == reader->end || *reader->at != (uint8_t)wanted) return false;
    reader->at++;
    return true;
}

static void skip_space(reader_t *reader) {
    while (next_is(reader, ' ') || next_is(reader, '\t') || next_is(reader, '\n') || next_is(reader, '\r')) {
    }
}

static bool token_is(reader_t *reader, char wanted) {
    skip_space(reader);
    return next_is(reader, wanted);
}

// Four hexadecimal digits; -1 if there are none.
static int32_t four_digits(reader_t *reader) {
    int32_t sum = 0;
    if (reader->end - reader->at < 4) return -1;
    for (int i = 0; i < 4; i++) {
        uint8_t byte = *reader->at++, letter = (byte | 0x20) - 'a', digit = byte - '0';
        if (digit > 9 && letter > 5) return -1;
        sum = sum * 16 + (digit <= 9 ? digit : letter + 10);
    }
    return sum;
}

// The code point after `\u`: a whole one, or half of one beyond U+FFFF with the other half behind it. U+0000 is
// refused, as it would end a string of C.
static int32_t code_point(reader_t *reader) {
    int32_t first = four_digits(reader);
    if (first < 0xd800 || first > 0xdfff) return first == 0 ? -1 : first;
    if (first > 0xdbff || !next_is(reader, '\\') || !next_is(reader, 'u')) return -1;
    int32_t second = four_digits(reader);
    return second >= 0xdc00 && second <= 0xdfff ? 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00) : -1;
}

static int32_t escaped(reader_t *reader) {
    static const char letters[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
    if (next_is(reader, 'u')) return code_point(reader);
    if (reader->at == reader->end || *reader->at == 0) return -1;
    const char *letter = strchr(letters, *reader->at++);
    return letter ? meant[letter - letters] : -1;
}

// Writes a character as UTF-8 and returns what is behind it.
static char *put(char *into, int32_t character) {
    int more = character < 0x80 ? 0 : character < 0x800 ? 1 : character < 0x10000 ? 2 : 3;
    static const uint8_t lead[] = {0, 0xc0, 0xe0, 0xf0};
    *into++ = (char)(lead[more] | character >> (6 * more));
    while (more-- > 0) *into++ = (char)(0x80 | (character >> (6 * more) & 0x3f));
    return into;
}

// Reads a string whose first quote was read. `into` has room for as many bytes as the text, which no string exceeds.
static bool read_string(reader_t *reader, char *into) {
    while (reader->at != reader->end && *reader->at >= 0x20) {
        uint8_t byte = *reader->at++;
        if (byte == '"') {
            *into = 0;
            return true;
        }
        if (byte != '\\') {
            *into++ = (char)byte;
            continue;
        }
        int32_t character = escaped(reader);
        if (character < 0) return false;
        into = put(into, character);
    }
    return false;
}

// A string of its own, or NULL if what comes isn't one.
static char *string(reader_t *reader) {
    if (!token_is(reader, '"')) return NULL;
    char *text = malloc((size_t)(reader->end - reader->at) + 1);
    if (!text) abort();
    if (read_string(reader, text)) {
        char *fitting = realloc(text, strlen(text) + 1);
        return fitting ? fitting : text;
    }
    free(text);
    return NULL;
}

static bool skip_string(reader_t *reader) {
    char *text = string(reader);
    bool read = text != NULL;
    free(text);
    return read;
}

static bool skip_word(reader_t *reader, const char *word) {
    while (*word) {
        if (!next_is(reader, *word++)) return false;
    }
    return true;
}

static bool skip_digits(reader_t *reader) {
    const uint8_t *from = reader->at;
    while (reader->at != reader->end && *reader->at >= '0' && *reader->at <= '9') reader->at++;
    return reader->at != from;
}

static bool skip_number(reader_t *reader) {
    next_is(reader, '-');
    if (!next_is(reader, '0') && !skip_digits(reader)) return false;
    if (next_is(reader, '.') && !skip_digits(reader)) return false;
    if (!next_is(reader, 'e') && !next_is(reader, 'E')) return true;
    if (!next_is(reader, '+')) next_is(reader, '-');
    return skip_digits(reader);
}

// Skips what is between brackets; the first was read.
static bool skip_all(reader_t *reader, bool names, char close, int depth) {
    if (token_is(reader, close)) return true;
    do {
        if (names && !(skip_string(reader) && token_is(reader, ':'))) return false;
        if (!skip_value(reader, depth + 1)) return false;
    } while (token_is(reader, ','));
    return token_is(reader, close);
}

static bool skip_value(reader_t *reader, int depth) {
    skip_space(reader);
    if (reader->at == reader->end || depth > DEPTH_MAX) return false;
    switch (*reader->at) {
        case '{': return reader->at++, skip_all(reader, true, '}', depth);
        case '[': return reader->at++, skip_all(reader, false, ']', depth);
        case '"': return skip_string(reader);
        case 't': return skip_word(reader, "true");
        case 'f': return skip_word(reader, "false");
        case 'n': return skip_word(reader, "null");
        default: return skip_number(reader);
    }
}

// Remembers the first thing that was wrong.
static void wrong(holm_table_t *table, const char *before, const char *name, const char *after) {
    if (table->failed) return;
    table->failed = true;
    holm_append(&table->detail, before);
    holm_append(&table->detail, name);
    holm_append(&table->detail, after);
}

static bool read_field(holm_table_t *table, reader_t *reader) {
    struct holm_field field = {string(reader), {0}, false};
    if (!field.name) return false;
    if (!token_is(reader, ':')) return free(field.name), false;
    skip_space(reader);
    field.value.at = reader->at;
    bool read = skip_value(reader, 1);
    field.value.end = reader->at;
    HOLM_PUSH(table, field);
    return read;
}

static bool read_table(holm_table_t *table, reader_t *reader) {
    if (!token_is(reader, '}')) {
        do {
            if (!read_field(table, reader)) return false;
        } while (token_is(reader, ','));
        if (!token_is(reader, '}')) return false;
    }
    skip_space(reader);
    return reader->at == reader->end;
}

holm_table_t holm_table(const holm_string_t *json) {
    holm_table_t table = {0};
    reader_t reader = {json->ptr, json->ptr + json->len};
    if (!token_is(&reader, '{') || !read_table(&table, &reader)) {
        wrong(&table, "the configuration isn't the JSON of a table", "", "");
    }
    return table;
}

// The field of this name, once. False if it is missing.
static bool take(holm_table_t *table, const char *name, reader_t *value) {
    for (size_t i = 0; i < table->len; i++) {
        struct holm_field *field = &table->ptr[i];
        if (field->taken || strcmp(field->name, name) != 0) continue;
        field->taken = true;
        *value = field->value;
        return true;
    }
    return false;
}

const char *holm_table_text(holm_table_t *table, const char *name, const char *missing) {
    reader_t value;
    if (!take(table, name, &value)) return missing;
    char *text = string(&value);
    if (!text) wrong(table, "\"", name, "\" isn't a string");
    return text ? text : missing;
}

static bool read_texts(reader_t *value, holm_texts_t *texts) {
    if (!token_is(value, '[')) return false;
    if (token_is(value, ']')) return true;
    do {
        char *text = string(value);
        if (!text) return false;
        HOLM_PUSH(texts, text);
    } while (token_is(value, ','));
    return true;
}

holm_texts_t holm_table_texts(holm_table_t *table, const char *name) {
    holm_texts_t texts = {0};
    reader_t value;
    if (take(table, name, &value) && !read_texts(&value, &texts)) {
        wrong(table, "\"", name, "\" isn't a list of strings");
    }
    return texts;
}

bool holm_table_flag(holm_table_t *table, const char *name, bool missing) {
    reader_t value;
    if (!take(table, name, &value)) return missing;
    if (skip_word(&value, "true")) return true;
    if (!skip_word(&value, "false")) wrong(table, "\"", name, "\" isn't true or false");
    return false;
}

static bool read_integer(reader_t value, int64_t *number) {
    bool negative = next_is(&value, '-');
    *number = 0;
    for (; value.at != value.end; value.at++) {
        uint8_t digit = *value.at - '0';
        if (digit > 9 || __builtin_mul_overflow(*number, 10, number)) return false;
        if (__builtin_add_overflow(*number, negative ? -digit : digit, number)) return false;
    }
    return true;
}

int64_t holm_table_integer(holm_table_t *table, const char *name, int64_t missing, int64_t min, int64_t max) {
    reader_t value;
    int64_t number;
    if (!take(table, name, &value)) return missing;
    if (read_integer(value, &number) && number >= min && number <= max) return number;
    wrong(table, "\"", name, "\" isn't a number in range");
    return missing;
}

bool holm_table_end(holm_table_t *table, holm_fault_t *fault) {
    for (size_t i = 0; i < table->len; i++) {
        if (!table->ptr[i].taken) wrong(table, "unknown field \"", table->ptr[i].name, "\"");
        free(table->ptr[i].name);
    }
    free(table->ptr);
    if (table->failed) *fault = (holm_fault_t){1, table->detail};
    return !table->failed;
}

bool holm_texts_have(const holm_texts_t *texts, holm_slice_t slice) {
    for (size_t i = 0; i < texts->len; i++) {
        if (holm_equals(slice, texts->ptr[i])) return true;
    }
    return false;
}
