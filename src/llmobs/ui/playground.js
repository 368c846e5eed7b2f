import { copyButton, field, h, select } from "/ui/dom.js";
import { asksForKey, get, knownPolicies, post } from "/ui/api.js";
import { S, SAMPLES } from "/ui/strings.js";
import { feedbackBox } from "/ui/feedback.js";
import { verdictView } from "/ui/verdict.js";

const T = S.playground;

function bodyOf(form) {
  const body = { llm_response: form.text.value, kind: form.kind.value };
  const context = {};
  if (form.query.value.trim()) context.query = form.query.value.trim();
  const documents = form.documents.value.split(/\n\s*\n/).map((one) => one.trim()).filter(Boolean);
  if (documents.length) context.documents = documents;
  if (Object.keys(context).length) body.context = context;
  if (form.policy.value) body.policy = form.policy.value;
  return body;
}

const shellQuoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

// A JSON string is a Python string as well, but for the names of the three constants, which are no strings.
const python = (value) => JSON.stringify(value);

function calls(body) {
  const key = asksForKey() ? " -H \"authorization: Bearer $LLMOBS_KEY\"" : "";
  const curl = `curl -s ${location.origin}/v1/detect -H 'content-type: application/json'${key} \\\n  -d ${shellQuoted(JSON.stringify(body))}`;
  const options = [];
  if (body.context?.query) options.push(`query=${python(body.context.query)}`);
  if (body.context?.documents) options.push(`documents=${python(body.context.documents)}`);
  if (body.kind !== "response") options.push(`kind=${python(body.kind)}`);
  if (body.policy) options.push(`policy=${python(body.policy)}`);
  const lines = [python(body.llm_response), ...options].map((one) => `        ${one},`).join("\n");
  const apiKey = asksForKey() ? ", api_key=os.environ[\"LLMOBS_KEY\"]" : "";
  const code = `${asksForKey() ? "import os\n\n" : ""}from llmobs.client import Client\n\nwith Client(${python(location.origin)}${apiKey}) as client:\n    verdict = client.detect(\n${lines}\n    )\n    print(verdict.action, verdict.failure_class)`;
  const block = (name, text) => h("details", {}, h("summary", {}, name), copyButton(S, text), h("pre", { tabindex: "0" }, text));
  return h("section", { class: "calls" }, h("h3", {}, S.verdict.calls), block("curl", curl), block("Python", code));
}

export async function playground(view, parameters) {
  const text = h("textarea", { name: "text", rows: "7", required: true, spellcheck: "false" });
  const query = h("input", { name: "query", autocomplete: "off" });
  const documents = h("textarea", { name: "documents", rows: "3", spellcheck: "false" });
  const kind = select(Object.entries(T.kinds), "response");
  const policy = select([["", S.loading]], "");
  const check = h("button", { type: "submit", class: "main" }, T.check);
  const result = h("section", { "aria-live": "polite", "aria-label": T.answer, class: "result" });
  const form = { text, query, documents, kind, policy };
  let policies = [];

  function fill(values) {
    text.value = values.text ?? "";
    query.value = values.query ?? "";
    documents.value = values.documents ?? "";
    kind.value = values.kind ?? "response";
  }

  async function run() {
    if (!text.value) {
      text.focus();
      return;
    }
    check.disabled = true;
    check.textContent = T.checking;
    const body = bodyOf(form);
    try {
      const verdict = await post("/v1/detect", body);
      const address = `#/playground?id=${verdict.request_id}`;
      history.replaceState(null, "", address);
      const decided = policies.find((one) => one.id === verdict.policy.id);
      result.replaceChildren(
        verdictView(verdict, body.llm_response, decided),
        ...(verdict.recorded === false ? [] : [await feedbackBox(verdict, Object.keys(decided?.classes ?? {}))]),
        h("p", { class: "hint" }, `${T.shared} `, h("a", { href: address }, location.origin + location.pathname + address)),
        calls(body));
      result.querySelector("h2").focus();
    } catch (error) {
      result.replaceChildren(h("p", { class: "notice", role: "alert" }, S.failed(error.message)));
    }
    check.disabled = false;
    check.textContent = T.check;
  }

  async function recall(id) {
    const { logs } = await get(`/v1/logs?request_id=${encodeURIComponent(id)}`);
    if (!logs.length) {
      result.replaceChildren(h("p", { class: "notice", role: "alert" }, T.missing));
      return;
    }
    const [row] = logs;
    const hashed = row.llm_response.startsWith("sha256:");
    fill({
      text: hashed ? "" : row.llm_response,
      query: typeof row.context?.query === "string" ? row.context.query : "",
      documents: Array.isArray(row.context?.documents)
        ? row.context.documents.map((one) => (typeof one === "string" ? one : one?.text ?? "")).join("\n\n") : "",
      kind: row.kind,
    });
    result.replaceChildren(
      h("p", { class: "hint" }, hashed ? T.hashed : T.stored),
      verdictView(row, row.llm_response, policies.find((one) => one.id === row.policy_id)));
  }

  view.replaceChildren(
    h("h1", { tabindex: "-1" }, S.pages.playground),
    h("p", {}, T.intro),
    h("p", { class: "samples" }, `${T.samples}: `, SAMPLES.map((sample, index) => h("button", {
      type: "button", class: "quiet", click: () => { fill(sample); text.focus(); },
    }, T.sampleNames[index]))),
    h("form", {
      class: "playground",
      submit: (event) => { event.preventDefault(); run(); },
      keydown: (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); run(); } },
    },
    field(T.text, text, T.keys), field(T.query, query), field(T.documents, documents),
    h("div", { class: "row" }, field(T.kind, kind), field(T.policy, policy), check)),
    result);

  const known = await knownPolicies(true);
  policies = known.policies;
  policy.replaceChildren(
    h("option", { value: "" }, T.policyDefault(known.default)),
    ...policies.filter((one) => one.id !== known.default).map((one) => h("option", { value: one.id }, one.id)));
  if (parameters.get("id")) await recall(parameters.get("id"));
}
