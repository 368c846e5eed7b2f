// What a person says of a verdict: right, or wrong and what the text really is.
import { field, h, select } from "/ui/dom.js";
import { get, say } from "/ui/api.js";
import { S, label } from "/ui/strings.js";

const T = S.feedback;

function given(one) {
  const truth = one.true_class === null ? T.harmless : label(one.true_class);
  return T.given(one.correct, truth, new Date(one.created_at).toLocaleString());
}

// `classes`: those that the policy knows. `told`: whether what was said before is asked for, which needs the
// right to read the log.
export async function feedbackBox(verdict, classes, { told = false, level = "h3" } = {}) {
  const said = h("p", { role: "status", class: "hint" });
  if (told) {
    const { feedback } = await get(`/v1/feedback?request_id=${encodeURIComponent(verdict.request_id)}`);
    if (feedback.length) said.textContent = given(feedback[0]);
  }
  const named = ["warn", "block"].includes(verdict.action) ? verdict.failure_class : null;
  const truth = select(
    [["", T.harmless], ...classes.map((one) => [one, label(one)])].filter(([value]) => value !== (named ?? "")), "");
  const note = h("textarea", { rows: "2", maxlength: "4000" });
  const send = async (correct) => {
    try {
      const kept = await say("/v1/feedback", {
        request_id: verdict.request_id, correct, note: note.value,
        ...(correct ? {} : { correct_class: truth.value || null }),
      });
      more.hidden = true;
      said.className = "hint";
      said.textContent = given(kept);
    } catch (error) {
      said.className = "notice";
      said.textContent = S.failed(error.message);
    }
  };
  const more = h("form", { submit: (event) => { event.preventDefault(); send(false); } },
    field(T.truth, truth), field(T.note, note, T.noteHint),
    h("button", { type: "submit", class: "main" }, T.send));
  more.hidden = true;
  const wrong = h("button", { type: "button", "aria-expanded": "false", click: () => {
    more.hidden = !more.hidden;
    wrong.setAttribute("aria-expanded", String(!more.hidden));
    if (!more.hidden) truth.focus();
  } }, T.wrong);
  return h("section", { class: "feedback" },
    h(level, {}, T.ask),
    h("div", { class: "buttons" }, h("button", { type: "button", click: () => send(true) }, T.right), wrong),
    more, said);
}
