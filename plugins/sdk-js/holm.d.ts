// The types of holm.js: those of wit/policy.wit as componentize-qjs passes them. Fields are in camel case, a u64 or s64
// is a number (exact up to 2^53), an absent option comes as null and may be left out of what is returned.

export type Value = Uint8Array | null;
export type Bytes = Uint8Array | number[];

export type Encoding = "cl100k-base" | "o200k-base";
/** A kind and its arguments, as the contract calls them. */
export interface Input { kind: string; arguments: string[] }

export const input: {
  method: Input;
  scheme: Input;
  authority: Input;
  path: Input;
  query(name: string): Input;
  queryAll: Input;
  header(name: string): Input;
  cookie(name: string): Input;
  clientPrefix(bits: number): Input;
  clientRegion: Input;
  nodeRegion: Input;
  bodyDigest: Input;
  bodyJson(pointer: string): Input;
  bodyPrefix(bytes: number): Input;
  bodyLength: Input;
  bodyTokens(pointer: string, encoding: Encoding): Input;
  feature(name: string): Input;
  arm(experiment: string): Input;
  responseStatus: Input;
  responseHeader(name: string): Input;
  responseLength: Input;
  fetchUs(step: number): Input;
  clock(step: number): Input;
  poolStats(pool: string): Input;
};

export interface Fault { code: number; detail: string }
export function fault(code: number, detail: string): Fault;

export class Table {
  constructor(fields: object);
  take(name: string): unknown;
  text(name: string): string | undefined;
  text(name: string, absent: string): string;
  flag(name: string): boolean | undefined;
  flag(name: string, absent: boolean): boolean;
  number(name: string): number | undefined;
  number(name: string, absent: number): number;
  texts(name: string): string[] | undefined;
  texts(name: string, absent: string[]): string[];
  finish(): void;
}

export function text(value: Value | undefined): string;
export function bytes(text: string): Uint8Array;
export function lower(value: Uint8Array): Uint8Array;
export function slot(value: Value | undefined): Uint8Array;

export type Hook = "key" | "features" | "admit" | "route" | "batch" | "prefetch";
export interface Experiment { name: string; unit: Input; arms: [string, number][] }

export type Transform = "identity" | "lowercase" | "sort-query" | "drop-query" | "json-canonical";
export interface Part { input: Input; transform: Transform }
export type Keying = { tag: "recipe"; val: Part[] } | { tag: "call" };
export type Verdict = { tag: "lookup"; val: Bytes[] } | { tag: "bypass"; val: string };

export type Feature =
  | { tag: "text"; val: string }
  | { tag: "integer" | "number"; val: number }
  | { tag: "flag"; val: boolean }
  | { tag: "bytes"; val: Bytes };
export const TENANT: "holm:tenant";
export const TENANT_WEIGHT: "holm:tenant-weight";
export interface Edit { pointer: string; value?: string | null }
export interface Header { name: string; value?: string | null }
export interface Shape { features: [string, Feature][]; edits: Edit[]; headers: Header[] }

export interface Storage {
  ttlMs: number;
  graceMs: number;
  staleIfErrorMs: number;
  keepMs: number;
  tags: string[];
  vary: string[];
}
export type Admission =
  | { tag: "store"; val: Storage }
  | { tag: "mark-uncacheable"; val: number }
  | { tag: "pass"; val: string };

export interface Candidate {
  pool: string;
  model: string;
  inflight: number;
  queued: number;
  p50Us: number;
  p99Us: number;
  errorPpm: number;
  costMicro: number;
  draining: boolean;
}
export interface Choice { order: number[]; hedgeAfterUs?: number | null; deadlineUs?: number | null }

export interface Class {
  group: Bytes;
  priority: number;
  weight: number;
  maxWaitUs?: number | null;
  maxSize?: number | null;
}

export interface Hint { path: string; headers: [string, string][]; confidencePpm: number }

/** The functions of a policy: one for each hook, under the contract's name for it. */
export interface Policy {
  name: string;
  version: string;
  experiments?: Experiment[];
  configure?(table: Table): void;
  reads?(): Partial<Record<Hook, Input[]>>;
  plan?(): Keying;
  derive?(values: Value[]): Verdict;
  extract?(values: Value[]): Shape;
  decide?(values: Value[], suggested: Admission): Admission;
  choose?(values: Value[], candidates: Candidate[]): Choice;
  classify?(values: Value[]): Class;
  suggest?(values: Value[], hit: boolean): Hint[];
}

/** The interfaces of a component. Those that policy.toml lists are to be exported by these names. */
export function exported(policy: Policy): Record<"plugin" | Hook, object>;
