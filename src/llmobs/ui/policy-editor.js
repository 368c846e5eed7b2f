// Changing a policy: as a form or as text, checked and tried by the service before it takes force.
import { field, h, select, table } from "/ui/dom.js";
import { get, post, put } from "/ui/api.js";
import { S, label } from "/ui/strings.js";
import { badge } from "/ui/verdict.js";

const T = S.policies;
const BASE = "/v1/admin/policies";
const LEVELS = ["clear", "log", "warn", "block"];
const CHOICES = {
  severity: ["low", "medium", "high", "critical"],
  on_failure: ["allow", "warn", "block"],
  judge: ["never", "raise", "weigh"],
};
const DEFAULTS = { clear: 0, on_failure: "allow", judge: "weigh" };
const LARGEST_FILE = 8 * 2 ** 20;  // what the service takes, the policy beside it
const LIMIT_HEADS = ["severity", "clear", "log", "warn", "block", "on_failure", "judge"];

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const raised = (text, version) => text.replace(/^(\s*version\s*=\s*)\d+/m, `$1${version}`);

// The form over a policy, which it changes in place.
function form(policy, changed) {
  const named = (control, head, name) => { control.setAttribute("aria-label", T.control(head, label(name))); return control; };
  const number = (limits, key, head, name) => {
    const input = named(h("input", { type: "number", min: 0, max: 1, step: "any", value: limits[key] ?? "", placeholder: T.never, class: "level" }), head, name);
    input.addEventListener("input", () => {
      limits[key] = input.value === "" ? (DEFAULTS[key] ?? null) : Number(input.value);
      changed();
    });
    return input;
  };
  const choice = (limits, key, head, name) => {
    const input = named(select(CHOICES[key].map((one) => [one, one]), limits[key] ?? DEFAULTS[key]), head, name);
    input.addEventListener("change", () => { limits[key] = input.value; changed(); });
    return input;
  };
  const description = h("input", { value: policy.description ?? "" });
  description.addEventListener("input", () => { policy.description = description.value; changed(); });
  const strict = h("input", { type: "checkbox", checked: Boolean(policy.strict_mode) });
  strict.addEventListener("change", () => { policy.strict_mode = strict.checked; changed(); });
  const version = h("input", { type: "number", min: 1, step: 1, value: policy.version });
  version.addEventListener("input", () => { policy.version = Number(version.value); changed(); });
  return [
    h("div", { class: "row" }, field(T.description, description), field(T.version, version)),
    h("label", { class: "check" }, strict, T.strict),
    table(T.classes, T.head, Object.entries(policy.classes).map(([name, limits]) => h("tr", {},
      h("th", { scope: "row" }, label(name)),
      LIMIT_HEADS.map((key, index) => h("td", {}, (LEVELS.includes(key) ? number : choice)(limits, key, T.head[index + 1], name)))))),
  ];
}

function outcome(tried) {
  if (!tried.searched) return [h("p", {}, T.triedNone)];
  const told = Object.entries(T.certainties).filter(([name]) => tried.certainty[name]).map(([name, tell]) => tell(tried.certainty[name]));
  if (tried.unexamined.length) told.push(T.unexamined(tried.unexamined.map(label).join(", ")));
  const difference = (n) => (n > 0 ? `+${n}` : n === 0 ? "0" : `−${-n}`);
  return [
    h("p", { class: "big" }, T.tried(tried)),
    h("p", { class: "hint" }, T.triedOf(tried)),
    told.length > 0 && h("ul", { class: "hint" }, told.map((one) => h("li", {}, one))),
    table(T.triedActions, T.triedHead, Object.keys(tried.before).map((action) => h("tr", {},
      h("th", { scope: "row" }, badge(action)),
      h("td", { class: "number" }, tried.before[action].toLocaleString()),
      h("td", { class: "number" }, tried.after[action].toLocaleString()),
      h("td", { class: "number" }, difference(tried.after[action] - tried.before[action]))))),
    tried.rows.length > 0 && table(T.triedRows, T.triedRowHead, tried.rows.map((row) => h("tr", {},
      h("td", {}, h("a", { href: `#/logs?id=${encodeURIComponent(row.request_id)}` }, new Date(row.created_at).toLocaleString())),
      h("td", {}, badge(row.before)), h("td", {}, badge(row.after)),
      h("td", {}, label(row.class_after ?? row.class_before ?? S.none)),
      h("td", {}, T.sure[row.certainty]))), { class: "tried" }),
    tried.rows.length < tried.changed && h("p", { class: "hint" }, T.triedMore(tried.rows.length, tried.changed)),
  ];
}

// A count of texts with what it means; a share only where one was measured.
function counted(hits, of, interval = undefined) {
  return [T.countOf(hits, of), interval && [h("br"), h("small", {}, T.share(interval))]];
}

function labelledOutcome(tried) {
  const told = Object.entries(T.labelledNotes).filter(([name]) => tried[name]).map(([name, tell]) => tell(tried[name]));
  if (tried.unexamined.length) told.push(T.unheard(tried.unexamined.map(label).join(", ")));
  const line = (name, cell) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, cell("before")), h("td", {}, cell("after")));
  const lines = (task) => [
    task.positives > 0 && line(T.recall, (when) => counted(task[when].positives_flagged, task.positives, task[when].recall)),
    task.positives > 0 && line(T.positivesBlocked, (when) => counted(task[when].positives_blocked, task.positives)),
    task.negatives > 0 && line(T.falseAlarms, (when) => counted(task[when].negatives_flagged, task.negatives, task[when].fpr)),
    task.negatives > 0 && line(T.negativesBlocked, (when) => counted(task[when].negatives_blocked, task.negatives)),
  ].filter(Boolean);
  return [
    h("p", { class: "big" }, T.triedLabelled(tried)),
    h("p", { class: "hint" }, T.triedLabelledOf(tried)),
    told.length > 0 && h("ul", { class: "hint" }, told.map((one) => h("li", {}, one))),
    tried.tasks.map((task) => table(T.taskCaption(label(task.task), task), T.labelledHead, lines(task), { class: "task" })),
    tried.changes.length > 0 && table(T.changes, T.changeHead, tried.changes.map((row) => h("tr", {},
      h("td", { class: "id" }, row.id), h("td", {}, badge(row.before)), h("td", {}, badge(row.after)),
      h("td", {}, T.labels[row.label]), h("td", {}, label(row.task)),
      h("td", {}, label(row.class_after ?? row.class_before ?? S.none)))), { class: "tried" }),
    tried.changes.length < tried.changed && h("p", { class: "hint" }, T.changesMore(tried.changes.length, tried.changed)),
  ];
}

// The editor of a policy. `close` leaves it, `done` is called when a change took force.
export async function editor(id, { close, done }) {
  const source = await get(`${BASE}/${id}`);
  const base = source.policy.version;
  let draft = { ...structuredClone(source.policy), version: base + 1 };
  let written = raised(source.toml, base + 1);
  let asText = false;
  let triedDraft = null;

  const text = h("textarea", { rows: 24, spellcheck: "false", autocomplete: "off", class: "code" });
  const room = h("div", {});
  const result = h("div", { "aria-live": "polite" });
  const file = h("input", { type: "file", accept: ".jsonl,.ndjson", "aria-describedby": "labelled-file-hint" });
  const rows = select([["100", "100"], ["1000", "1000"], ["5000", "5000"]], "1000");
  const views = h("fieldset", { class: "views" }, h("legend", {}, T.views),
    [[false, T.asForm], [true, T.asText]].map(([value, name]) => h("label", { class: "check" },
      h("input", { type: "radio", name: "policy-view", checked: value === asText, change: () => turn(value) }), name)));
  const start = select(source.versions.map((one) => [String(one), one === base ? T.inForce(one) : T.earlier(one)]), String(base));
  const puts = h("button", { type: "button", disabled: true, class: "main" }, T.put);

  const body = () => (asText ? { toml: text.value } : same(draft, pristine) ? { toml: written } : { policy: draft });
  let pristine = structuredClone(draft);
  const changed = () => {
    const stale = triedDraft !== null && !same(body(), triedDraft);
    puts.disabled = !source.writable || triedDraft === null || stale;
    if (stale) result.replaceChildren(h("p", { class: "hint" }, T.stale));
  };
  const tell = (...parts) => result.replaceChildren(...parts.filter(Boolean));
  const fail = (error) => tell(h("p", { class: "notice", role: "alert" }, S.failed(error.message)));
  const draw = () => {
    if (asText) room.replaceChildren(field(T.asText, text));
    else room.replaceChildren(...form(draft, changed), h("p", { class: "hint" }, T.comments));
  };
  // The service translates between the two: the page has no reader of TOML of its own.
  const checked = async () => {
    const sound = await post(`${BASE}/check`, body());
    draft = sound.policy;
    pristine = structuredClone(draft);
    written = sound.toml;
  };
  async function turn(value) {
    const radio = (on) => views.querySelectorAll("input").forEach((one, index) => { one.checked = (index === 1) === on; });
    try {
      await checked();
      asText = value;
      text.value = written;
      tell();
      draw();
      changed();
    } catch (error) {
      radio(asText);
      fail(error);
    }
  }
  const busy = async (button, work) => {
    button.disabled = true;
    try {
      await work();
    } catch (error) {
      fail(error);
    }
    button.disabled = false;
    changed();
  };
  text.addEventListener("input", changed);
  start.addEventListener("change", () => busy(start, async () => {
    const found = await get(`${BASE}/${id}?version=${start.value}`);
    draft = { ...found.policy, version: base + 1 };
    pristine = structuredClone(draft);
    written = raised(found.toml, base + 1);
    text.value = written;
    draw();
  }));
  const check = h("button", { type: "button", click: () => busy(check, async () => {
    await post(`${BASE}/check`, body());
    tell(h("p", { role: "status" }, T.sound));
  }) }, T.check);
  const tries = h("button", { type: "button", click: () => busy(tries, async () => {
    const given = body();
    const tried = await post(`${BASE}/dry-run`, { ...given, rows: Number(rows.value) });
    triedDraft = structuredClone(given);
    tell(h("section", { class: "outcome-of-try" }, outcome(tried).filter(Boolean)));
  }) }, T.try);
  const labels = h("button", { type: "button", disabled: true, click: () => busy(labels, async () => {
    const given = body();
    tell(h("p", { role: "status" }, T.examining));
    const tried = await post(`${BASE}/dry-run/labelled`, { ...given, labelled: await file.files[0].text() });
    triedDraft = structuredClone(given);
    tell(h("section", { class: "outcome-of-try" }, labelledOutcome(tried).flat().filter(Boolean)));
  }) }, T.tryLabelled);
  file.addEventListener("change", () => {
    const chosen = file.files[0];
    labels.disabled = !chosen || chosen.size > LARGEST_FILE;
    if (chosen && labels.disabled) fail(new Error(T.fileTooLarge));
  });
  puts.addEventListener("click", () => busy(puts, async () => {
    const taken = await put(`${BASE}/${id}`, { ...triedDraft, based_on: base });
    await done();
    // The page was made anew; what happened is told where the editor was opened.
    document.querySelector("main h1")?.after(h("p", { role: "status", class: "notice good" }, T.putDone(id, taken.policy.version)));
    document.querySelector("main h1")?.focus();
  }));
  draw();
  return h("section", { class: "card editor" },
    h("h2", { tabindex: "-1" }, T.editing(id, base)), h("p", { class: "hint" }, T.editIntro),
    !source.writable && h("p", { class: "notice" }, T.notWritable),
    h("div", { class: "row" }, views, field(T.start, start)), room,
    h("div", { class: "row" }, field(T.rows, rows), field(T.file, file)),
    h("p", { class: "hint", id: "labelled-file-hint" }, T.fileHint),
    h("div", { class: "buttons" }, check, tries, labels, puts, h("button", { type: "button", click: close }, T.close)),
    result);
}
