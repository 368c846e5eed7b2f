// A verdict as people read it: the text with its evidence, scores, coverage.
import { h, table } from "/ui/dom.js";
import { S, label } from "/ui/strings.js";

const T = S.verdict;

export function badge(action) {
  return h("span", { class: `badge ${action}` }, S.actions[action] ?? action);
}

// Offsets count code points, JavaScript counts UTF-16 units: cut an array of code points.
export function highlighted(text, evidence) {
  const points = Array.from(text);
  const spans = evidence
    .map((one, index) => ({ ...one, index }))
    .filter((one) => one.start !== null && one.start !== undefined && one.end > one.start);
  const cuts = new Set([0, points.length]);
  for (const { start, end } of spans) {
    cuts.add(Math.min(start, points.length));
    cuts.add(Math.min(end, points.length));
  }
  const edges = [...cuts].sort((a, b) => a - b);
  const parts = [];
  for (let i = 0; i + 1 < edges.length; i += 1) {
    const piece = points.slice(edges[i], edges[i + 1]).join("");
    const over = spans.filter(({ start, end }) => start <= edges[i] && end >= edges[i + 1]);
    if (!over.length) {
      parts.push(piece);
      continue;
    }
    const names = [...new Set(over.map((one) => label(one.failure_class)))];
    parts.push(h("mark", {
      class: `depth-${Math.min(over.length, 3)}`,
      title: T.markOf(names),
      "data-evidence": over.map((one) => one.index).join(" "),
    }, piece));
  }
  return h("div", { class: "subject", dir: "auto" }, parts);
}

function evidenceList(evidence, text) {
  if (!evidence.length) return h("p", { class: "hint" }, T.noEvidence);
  const show = (index, on) => {
    for (const mark of text.querySelectorAll("mark")) {
      mark.classList.toggle("lit", on && mark.dataset.evidence.split(" ").includes(String(index)));
    }
  };
  return h("ol", { class: "evidence" }, evidence.map((one, index) => h("li", {},
    h("button", {
      type: "button",
      class: "piece",
      mouseenter: () => show(index, true),
      mouseleave: () => show(index, false),
      focus: () => show(index, true),
      blur: () => show(index, false),
      click: () => text.querySelector(`mark[data-evidence~="${index}"]`)?.scrollIntoView({ block: "center" }),
    },
    h("strong", {}, label(one.failure_class)), ` ${one.score.toFixed(2)} `,
    h("span", {}, one.note), h("br"),
    h("small", {}, `${one.source}, `,
      one.start === null || one.start === undefined ? T.wholeText : T.span(one.start, one.end),
      one.trial ? `, ${T.trial}` : "")))));
}

function scores(verdict, policy) {
  const classes = policy?.classes ?? {};
  const rows = Object.entries(verdict.scores).sort((a, b) => b[1] - a[1]).map(([name, score]) => {
    const { warn = null, block = null, log = null } = classes[name] ?? {};
    const reached = (at) => at !== null && score >= at;
    const kind = reached(block) ? "block" : reached(warn) ? "warn" : reached(log) ? "log" : "allow";
    const tick = (at, what) => at !== null && h("span", { class: `tick ${what}`, style: { left: `${100 * at}%` } });
    return h("tr", {},
      h("th", { scope: "row" }, label(name)),
      h("td", { class: "wide" }, h("div", {
        class: "bar", role: "img", "aria-label": T.barLabel(label(name), score.toFixed(2), warn, block),
      }, h("span", { class: `fill ${kind}`, style: { width: `${Math.max(0.5, 100 * score)}%` } }), tick(warn, "warn"), tick(block, "block"))),
      h("td", { class: "number" }, score.toFixed(3)),
      h("td", { class: "number" }, warn ?? "–"),
      h("td", { class: "number" }, block ?? "–"));
  });
  return table(T.scores, T.scoreHead, rows);
}

// Detectors of one tier run side by side, tiers one after another.
function coverage(entries) {
  const tiers = [...new Set(entries.map((one) => one.tier))].sort();
  const begins = {};
  let total = 0;
  for (const tier of tiers) {
    begins[tier] = total;
    total += Math.max(0, ...entries.filter((one) => one.tier === tier).map((one) => one.ms ?? 0));
  }
  const whole = total || 1;
  const rows = entries.map((one) => h("tr", {},
    h("td", { class: "number" }, String(one.tier)),
    h("th", { scope: "row" }, one.detector),
    h("td", { class: "wide" }, h("div", { class: "bar time", "aria-hidden": "true" },
      one.ms !== undefined && h("span", { class: `fill ${one.status}`, style: {
        left: `${(100 * begins[one.tier]) / whole}%`, width: `${Math.max(0.8, (100 * one.ms) / whole)}%`,
      } }))),
    h("td", { class: "number" }, one.ms === undefined ? "–" : T.ms(one.ms)),
    h("td", {}, T.statuses[one.status] ?? one.status,
      one.reason ? ` (${one.reason})` : "", one.seen !== undefined ? `, ${T.seen(one.seen)}` : "",
      one.model ? `, ${one.model}` : "")));
  return table(T.coverage, T.coverageHead, rows);
}

function fact(name, value) {
  return h("div", {}, h("dt", {}, name), h("dd", {}, value));
}

// `verdict` is an answer of /v1/detect or a row of the log; `policy` the one that decided, if it is known.
export function verdictView(verdict, text, policy, level = "h2") {
  const shown = highlighted(text, verdict.evidence);
  const below = level === "h2" ? "h3" : "h4";
  const id = verdict.policy?.id ?? verdict.policy_id;
  const version = verdict.policy?.version ?? verdict.policy_version;
  const inForce = policy && policy.version === version ? policy : null;
  return h("div", { class: "verdict" },
    h(level, { tabindex: "-1", class: `outcome ${verdict.action}` }, badge(verdict.action), " ", T.line(verdict).replace(/^[^:]*: /, "")),
    h("p", {}, verdict.explanation),
    verdict.degraded && h("p", { class: "notice" }, T.degraded),
    verdict.recorded === false && h("p", { class: "notice" }, T.unrecorded),
    h("dl", { class: "facts" },
      fact(T.confidence, verdict.confidence.toFixed(3)),
      fact(T.tier, `${verdict.tier_used} (${verdict.method})`),
      fact(T.time, T.ms(verdict.processing_time_ms)),
      fact(T.policy, T.version(id, version)),
      fact(T.request, h("code", {}, verdict.request_id))),
    h(below, {}, T.text), shown,
    h(below, {}, T.evidence), evidenceList(verdict.evidence, shown),
    scores(verdict, inForce),
    coverage(verdict.coverage));
}
