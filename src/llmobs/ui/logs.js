import { field, h, select, table } from "/ui/dom.js";
import { get, knownPolicies, loadsItself, open } from "/ui/api.js";
import { feedbackBox } from "/ui/feedback.js";
import { S, label } from "/ui/strings.js";
import { badge, verdictView } from "/ui/verdict.js";

const T = S.logs;
const LIMIT = 50;
const FILTERS = ["q", "action", "failure_class", "tier", "kind", "client_id", "since", "until"];

const time = (value) => new Date(value).toLocaleString();
const short = (text) => {
  const points = Array.from(text);
  return points.length > 120 ? `${points.slice(0, 120).join("")}…` : text;
};
const address = (parameters) => `#/logs${parameters.size ? `?${parameters}` : ""}`;

async function detail(view, id) {
  const [{ logs }, known] = await Promise.all([get(`/v1/logs?request_id=${encodeURIComponent(id)}`), knownPolicies()]);
  const back = h("p", {}, h("a", { href: "#/logs", click: (event) => { event.preventDefault(); history.back(); } }, T.back));
  if (!logs.length) {
    view.replaceChildren(h("h1", { tabindex: "-1" }, T.detail), back, h("p", { class: "notice" }, S.playground.missing));
    return;
  }
  const [row] = logs;
  const policy = known.policies.find((one) => one.id === row.policy_id);
  const opinion = await feedbackBox(row, Object.keys(policy?.classes ?? {}), { told: true });
  view.replaceChildren(
    h("h1", { tabindex: "-1" }, T.detail), back,
    h("p", {}, time(row.created_at), row.client_id ? `, ${T.client} ${row.client_id}` : "", " · ",
      h("a", { href: `#/playground?id=${encodeURIComponent(row.request_id)}` }, T.inPlayground)),
    verdictView(row, row.llm_response, policy),
    opinion,
    row.context && h("h3", {}, T.context),
    row.context && h("pre", { tabindex: "0" }, JSON.stringify(row.context, null, 2)));
}

function exportLink(query) {
  const path = `/v1/logs?${new URLSearchParams({ ...query, format: "jsonl" })}`;
  const link = h("a", { href: path, download: "llmobs-logs.jsonl" }, T.export);
  link.addEventListener("click", async (event) => {
    if (loadsItself()) return;  // the browser streams it to the disk
    event.preventDefault();
    const url = URL.createObjectURL(await (await open(path)).blob());
    h("a", { href: url, download: "llmobs-logs.jsonl" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60000);
  });
  return link;
}

export async function logs(view, parameters) {
  if (parameters.get("id")) return detail(view, parameters.get("id"));
  const query = {};
  for (const name of FILTERS) if (parameters.get(name)) query[name] = parameters.get(name);
  for (const name of ["since", "until"]) if (query[name]) query[name] = new Date(query[name]).toISOString();
  const known = await knownPolicies();
  const classes = [...new Set(known.policies.flatMap((one) => Object.keys(one.classes)))].sort();
  const chosen = (name) => parameters.get(name) ?? "";
  const any = ["", T.any];
  const controls = {
    q: h("input", { type: "search", value: chosen("q"), autocomplete: "off", minlength: "2", maxlength: "200" }),
    action: select([any, ...Object.entries(S.actions)], chosen("action")),
    failure_class: select([any, ...classes.map((name) => [name, label(name)])], chosen("failure_class")),
    tier: select([any, ["1", "1"], ["2", "2"], ["3", "3"]], chosen("tier")),
    kind: select([any, ["response", "response"], ["prompt", "prompt"]], chosen("kind")),
    client_id: h("input", { value: chosen("client_id"), autocomplete: "off" }),
    since: h("input", { type: "datetime-local", value: chosen("since") }),
    until: h("input", { type: "datetime-local", value: chosen("until") }),
  };
  const names = [T.text, T.action, T.failureClass, T.tier, T.kind, T.client, T.since, T.until];
  const form = h("form", { class: "filters", "aria-label": T.filters, submit: (event) => {
    event.preventDefault();
    const next = new URLSearchParams();
    for (const name of FILTERS) if (controls[name].value) next.set(name, controls[name].value);
    location.hash = address(next);
  } },
  FILTERS.map((name, index) => field(names[index], controls[name])),
  h("div", { class: "buttons" }, h("button", { type: "submit", class: "main" }, T.find), h("a", { class: "button quiet", href: "#/logs" }, T.clear)));

  const cursor = parameters.get("cursor");
  const page = await get(`/v1/logs?${new URLSearchParams({ ...query, limit: LIMIT, ...(cursor ? { cursor } : {}) })}`);
  const open_ = (row) => `#/logs?id=${encodeURIComponent(row.request_id)}`;
  const rows = page.logs.map((row) => h("tr", {},
    h("td", {}, h("a", { href: open_(row), "aria-label": T.open(time(row.created_at)) }, time(row.created_at))),
    h("td", {}, badge(row.action)),
    h("td", {}, row.failure_class ? label(row.failure_class) : "–"),
    h("td", { class: "number" }, String(row.tier_used)),
    h("td", { class: "excerpt", dir: "auto" }, short(row.llm_response))));
  const older = new URLSearchParams(parameters);
  if (page.next_cursor) older.set("cursor", page.next_cursor);
  view.replaceChildren(
    h("h1", { tabindex: "-1" }, S.pages.logs), h("p", {}, T.intro), form,
    rows.length ? table(T.shown(rows.length), T.head, rows, { class: "log" }) : h("p", { role: "status" }, page.next_cursor ? T.emptySoFar : T.empty),
    h("nav", { class: "pager", "aria-label": S.pages.logs },
      cursor && h("a", { class: "button", href: "#/logs", click: (event) => { event.preventDefault(); history.back(); } }, T.newer),
      page.next_cursor && h("a", { class: "button", href: address(older) }, T.older),
      exportLink(query)));
}
