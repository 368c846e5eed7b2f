import { field, h, select, table } from "/ui/dom.js";
import { get, knownPolicies } from "/ui/api.js";
import { editor } from "/ui/policy-editor.js";
import { S, label } from "/ui/strings.js";

const T = S.policies;
const FIELDS = ["severity", "clear", "log", "warn", "block", "on_failure", "judge"];

const shown = (value) => (value === null || value === undefined ? "–" : String(value));

function limits(policy, other) {
  const names = [...new Set([...Object.keys(policy.classes), ...Object.keys(other?.classes ?? {})])];
  return table(T.limits, T.head, names.map((name) => {
    const mine = policy.classes[name];
    const theirs = other?.classes[name];
    return h("tr", {}, h("th", { scope: "row" }, label(name)), FIELDS.map((one) => {
      const differs = other && shown(mine?.[one]) !== shown(theirs?.[one]);
      return h("td", { class: differs ? "number differs" : "number" }, shown(mine?.[one]),
        differs && h("small", {}, ` ${T.was(shown(theirs?.[one]))}`));
    }));
  }));
}

export async function policies(view) {
  // Hits are read from recorded verdicts, which not everybody may see.
  const [known, { rules }, hits] = await Promise.all([
    knownPolicies(true), get("/v1/rules"), get("/v1/rules/hits").catch(() => null)]);
  const hit = new Map((hits?.rules ?? []).map((one) => [one.id, one]));
  const ids = known.policies.map((one) => [one.id, S.verdict.version(one.id, one.version)]);
  const policy = select(ids, known.default);
  const compare = select([["", T.compareNone], ...ids], "");
  const grid = h("div", {});
  const desk = h("div", {});
  const find = (id) => known.policies.find((one) => one.id === id);
  const draw = () => {
    const chosen = find(policy.value);
    grid.replaceChildren(h("p", {}, chosen.description), limits(chosen, find(compare.value)));
  };
  const edit = h("button", { type: "button", click: async () => {
    edit.disabled = true;
    try {
      desk.replaceChildren(await editor(policy.value, {
        close: () => { desk.replaceChildren(); edit.focus(); },
        done: () => policies(view),
      }));
      desk.querySelector("h2").focus();
    } catch (error) {
      desk.replaceChildren(h("p", { class: "notice", role: "alert" }, S.failed(error.message)));
    }
    edit.disabled = false;
  } }, T.edit);
  policy.addEventListener("change", () => { desk.replaceChildren(); draw(); });
  compare.addEventListener("change", draw);
  draw();

  const search = h("input", { type: "search", autocomplete: "off" });
  const byHits = h("input", { type: "checkbox", checked: true, change: () => drawRules() });
  const count = h("p", { role: "status", class: "hint" });
  const list = h("div", {});
  const drawRules = () => {
    const wanted = search.value.trim().toLowerCase();
    const found = rules.filter((one) => `${one.id} ${one.failure_class} ${label(one.failure_class)} ${one.note}`.toLowerCase().includes(wanted));
    if (byHits.checked) found.sort((a, b) => (hit.get(b.id)?.verdicts ?? 0) - (hit.get(a.id)?.verdicts ?? 0));
    count.textContent = T.ruleCount(found.length, rules.length);
    list.replaceChildren(table(T.rules, T.ruleHead, found.map((one) => h("tr", {},
      h("th", { scope: "row" }, h("code", {}, one.id)), h("td", {}, label(one.failure_class)),
      h("td", { class: "number" }, one.score === null ? "–" : one.score.toFixed(2)),
      h("td", { class: "number" }, hits ? (hit.get(one.id)?.verdicts ?? 0).toLocaleString() : "–"),
      h("td", { class: "number" }, hit.get(one.id)?.precision ? T.right(hit.get(one.id).precision) : "–"),
      h("td", {}, one.status), h("td", {}, one.note)))));
  };
  search.addEventListener("input", drawRules);
  drawRules();
  view.replaceChildren(
    h("h1", { tabindex: "-1" }, S.pages.policies), h("p", {}, T.intro),
    h("div", { class: "row" }, field(T.policy, policy), field(T.compare, compare)), grid, edit, desk,
    h("h2", {}, T.rules), hits && h("p", { class: "hint" }, T.hitsOf(hits.searched)), field(T.search, search),
    hits && h("label", { class: "check" }, byHits, T.byHits), count, list);
}
