// Lanes: urgent requests and premium tenants first. In five languages; ../requests.jsonl has what each must decide.

import { exported, input, lower, slot, text } from "./gen/holm.js";

const MICROSECONDS_MAX = 0xffff_ffff;

class Lane {
  name = "lane";
  version = "0.1.0";
  experiments = [{ name: "size", unit: input.header("x-user"), arms: [["small", 9], ["large", 1]] }];

  configure(table) {
    this.tenant = input.header(table.text("tenant_header", "x-tenant"));
    this.premium = new Set(table.texts("premium", []));
  }

  reads() {
    const model = input.bodyJson("/model");
    const urgent = input.feature("urgent");
    return {
      key: [this.tenant, input.authority, input.path, input.queryAll, model, input.bodyJson("/messages")],
      features: [input.bodyJson("/priority"), input.bodyLength, this.tenant],
      admit: [input.responseStatus, input.responseHeader("content-type"), this.tenant],
      route: [urgent, input.feature("premium"), input.arm("size")],
      batch: [this.tenant, urgent, model],
      prefetch: [input.path, input.query("page")],
    };
  }

  derive([tenant, ...others]) {
    if (!tenant?.length) return { tag: "bypass", val: "no tenant" };
    return { tag: "lookup", val: [lower(tenant), ...others.map(slot)] };
  }

  extract([priority, length, tenant]) {
    const urgent = text(priority) === '"high"';
    const premium = tenant != null && this.premium.has(text(lower(tenant)));
    const edits = [{ pointer: "/user" }, { pointer: "/metadata" }];
    if (urgent) edits.push({ pointer: "/stream", value: "false" });
    return {
      features: [
        ["urgent", { tag: "flag", val: urgent }],
        ["premium", { tag: "flag", val: premium }],
        ["size", { tag: "integer", val: Number(text(length)) }],
      ],
      edits,
      headers: [{ name: "x-lane", value: urgent || premium ? "fast" : "slow" }, { name: "x-debug" }],
    };
  }

  decide([status, contentType, tenant], suggested) {
    const code = text(status);
    if (code === "404") return { tag: "mark-uncacheable", val: 5000 };
    if (code !== "200" || suggested.tag !== "store") return suggested;
    const stored = suggested.val;
    // A stream of events is stored for the clients that wait for it now, and no longer.
    const ttlMs = text(contentType).startsWith("text/event-stream") ? 0 : stored.ttlMs;
    const tags = tenant?.length ? [...stored.tags, `tenant:${text(lower(tenant))}`] : stored.tags;
    return { tag: "store", val: { ...stored, ttlMs, graceMs: Math.floor(ttlMs / 2), tags } };
  }

  choose([urgent, premium, arm], candidates) {
    const inHaste = text(urgent) === "true";
    const cost = ({ p50Us, costMicro }) => (inHaste ? p50Us : costMicro);
    const unwanted = ({ model }) => (text(arm) === "large" && !model.includes("large") ? 1 : 0);
    const all = candidates.map((_, index) => index);
    const ready = all.filter((index) => !candidates[index].draining);
    const order = (ready.length ? ready : all).sort((a, b) => {
      const [one, other] = [candidates[a], candidates[b]];
      return unwanted(one) - unwanted(other) || cost(one) - cost(other) || a - b;
    });
    const hedged = order.length > 0 && text(premium) === "true";
    return {
      order,
      hedgeAfterUs: hedged ? Math.min(Math.max(candidates[order[0]].p99Us, 1000), MICROSECONDS_MAX) : null,
      deadlineUs: inHaste ? 30_000_000 : null,
    };
  }

  classify([, urgent, model]) {
    const inHaste = text(urgent) === "true";
    return { group: model ?? [], priority: inHaste ? 9 : 1, weight: 0, maxWaitUs: inHaste ? 0 : null };
  }

  suggest([path, page], hit) {
    const number = text(page);
    if (!hit || !/^[0-9]{1,6}$/.test(number)) return [];
    return [{ path: `${text(path)}?page=${Number(number) + 1}`, headers: [], confidencePpm: 900_000 }];
  }
}

export const { plugin, key, features, admit, route, batch, prefetch } = exported(new Lane());
