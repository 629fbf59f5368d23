// Write a policy for holm in JavaScript. README.md beside this file shows one; holm.d.ts has the types.

const word = (kind, ...values) => ({ kind, arguments: values.map(String) });

/** The inputs of hooks: the kinds of `input` in wit/policy.wit, each with its arguments. */
export const input = {
  method: word("method"),
  scheme: word("scheme"),
  authority: word("authority"),
  path: word("path"),
  query: (name) => word("query", name),
  queryAll: word("query-all"),
  header: (name) => word("header", name),
  cookie: (name) => word("cookie", name),
  clientPrefix: (bits) => word("client-prefix", bits),
  clientRegion: word("client-region"),
  nodeRegion: word("node-region"),
  bodyDigest: word("body-digest"),
  bodyJson: (pointer) => word("body-json", pointer),
  bodyPrefix: (bytes) => word("body-prefix", bytes),
  bodyLength: word("body-length"),
  bodyTokens: (pointer, encoding) => word("body-tokens", pointer, encoding),
  feature: (name) => word("feature", name),
  arm: (experiment) => word("arm", experiment),
  responseStatus: word("response-status"),
  responseHeader: (name) => word("response-header", name),
  responseLength: word("response-length"),
  fetchUs: (step) => word("fetch-us", step),
  clock: (step) => word("clock", step),
  poolStats: (pool) => word("pool-stats", pool),
};

/** The feature that names the tenant which a request's items are served for, instead of what the route says. */
export const TENANT = "holm:tenant";
/** The feature that says what the tenant counts for beside others, 1 to 1,000, instead of what the route gives it. */
export const TENANT_WEIGHT = "holm:tenant-weight";

// Not an Error: the runtime takes a thrown Error for a crash of the component and drops what it says.
class Fault {
  constructor(code, detail) {
    this.code = code;
    this.detail = detail;
  }
}

/** A policy's own error: `throw fault(7, "words")`. */
export function fault(code, detail) {
  return new Fault(code, detail);
}

/** The operator's table, field by field. One that isn't taken is refused: a misspelt name is no silent default. */
export class Table {
  #fields;

  constructor(fields) {
    this.#fields = new Map(Object.entries(fields));
  }

  /** Takes a field out, whatever it is; `undefined` if there is none. */
  take(name) {
    const value = this.#fields.get(name);
    this.#fields.delete(name);
    return value;
  }

  text(name, absent) {
    return this.#typed(name, absent, "a string", isText);
  }

  flag(name, absent) {
    return this.#typed(name, absent, "true or false", (value) => typeof value === "boolean");
  }

  number(name, absent) {
    return this.#typed(name, absent, "a number", (value) => typeof value === "number");
  }

  texts(name, absent) {
    return this.#typed(name, absent, "a list of strings", (value) => Array.isArray(value) && value.every(isText));
  }

  /** Ends the reading; `exported` does it for the whole table. */
  finish() {
    for (const name of this.#fields.keys()) throw fault(1, `unknown field "${name}"`);
  }

  #typed(name, absent, what, fits) {
    const value = this.take(name);
    if (value === undefined) return absent;
    if (!fits(value)) throw fault(1, `"${name}" isn't ${what}`);
    return value;
  }
}

const isText = (value) => typeof value === "string";

/** A value as text: UTF-8, with U+FFFD for what isn't. None is the empty text. QuickJS has no TextDecoder. */
export function text(value) {
  let made = "";
  const end = value?.length ?? 0;
  for (let at = 0; at < end; ) {
    const first = value[at++];
    let more = first < 0x80 ? 0 : first < 0xc2 ? -1 : first < 0xe0 ? 1 : first < 0xf0 ? 2 : first < 0xf5 ? 3 : -1;
    // The byte after the first has narrower bounds where the code point would be overlong, a surrogate or too large.
    let low = first === 0xe0 ? 0xa0 : first === 0xf0 ? 0x90 : 0x80;
    let high = first === 0xed ? 0x9f : first === 0xf4 ? 0x8f : 0xbf;
    let point = more > 0 ? first & (0x3f >> more) : first;
    for (; more > 0 && at < end && value[at] >= low && value[at] <= high; more--, low = 0x80, high = 0xbf) {
      point = (point << 6) | (value[at++] & 0x3f);
    }
    made += more === 0 ? String.fromCodePoint(point) : "\ufffd";
  }
  return made;
}

/** A text as bytes, in UTF-8. */
export function bytes(text) {
  return Uint8Array.from(unescape(encodeURIComponent(text)), (unit) => unit.charCodeAt(0));
}

/** A value with its ASCII letters in lower case. */
export function lower(value) {
  return value.map((byte) => (byte >= 0x41 && byte <= 0x5a ? byte | 0x20 : byte));
}

/** A value as a part of a key, so that a missing one stays apart from an empty one. */
export function slot(value) {
  if (!value) return Uint8Array.of(0);
  const part = new Uint8Array(value.length + 1);
  part[0] = 1;
  part.set(value, 1);
  return part;
}

/** The function of each hook. `key` has `plan` as well. */
const HOOKS = {
  key: "derive",
  features: "extract",
  admit: "decide",
  route: "choose",
  batch: "classify",
  prefetch: "suggest",
};

/** Makes a module's exports of a policy: `export const { plugin, key } = exported(new Mine())`. */
export function exported(policy) {
  const made = { plugin: { configure: guarded((json) => configured(policy, json)) } };
  for (const [hook, name] of Object.entries(HOOKS)) {
    made[hook] = {
      reads: guarded(() => declared(policy, hook)),
      [name]: guarded((...values) => unsigned(policy[name](...values))),
    };
  }
  made.key.plan = guarded(() => policy.plan?.() ?? { tag: "call" });
  return made;
}

function configured(policy, json) {
  const table = new Table(JSON.parse(json));
  policy.configure?.(table);
  table.finish();
  return { name: policy.name, version: policy.version, experiments: policy.experiments ?? [] };
}

function declared(policy, hook) {
  const inputs = policy.reads?.()[hook];
  if (!inputs) throw fault(1, "reads() has no list for it, which is empty if it reads nothing");
  return inputs;
}

const U32 = ["hedgeAfterUs", "deadlineUs", "weight", "maxWaitUs", "maxSize"];

/** The runtime cuts a u32 to 2^31 - 1, but takes the negative number that has the same bits as a larger one. */
function unsigned(result) {
  for (const name of U32) {
    if (result[name] > 0x7fff_ffff) result[name] = Math.min(result[name], 0xffff_ffff) | 0;
  }
  return result;
}

/** Any other exception would end the instance without a word, so it becomes a fault that tells what and where. */
function guarded(run) {
  return (...values) => {
    try {
      return run(...values);
    } catch (error) {
      if (error instanceof Fault) throw error;
      const where = error?.stack?.trim().split("\n")[0] ?? "";
      throw fault(0, `${error} ${where}`.trimEnd());
    }
  };
}
