import { field, h, select, table } from "/ui/dom.js";
import { get, open } from "/ui/api.js";
import { S, label } from "/ui/strings.js";
import { badge } from "/ui/verdict.js";

const T = S.overview;
const SECONDS = 5;
const HEALTH_SECONDS = 15;
const count = (n) => n.toLocaleString();
const percent = (n) => `${n.toFixed(n < 10 ? 2 : 1)} %`;
const time = (value) => new Date(value).toLocaleString();

function share(name, n, total, kind) {
  return h("tr", {}, h("th", { scope: "row" }, name),
    h("td", { class: "wide" }, h("div", { class: "bar", "aria-hidden": "true" },
      h("span", { class: `fill ${kind}`, style: { width: `${total ? (100 * n) / total : 0}%` } }))),
    h("td", { class: "number" }, count(n)),
    h("td", { class: "number" }, percent(total ? (100 * n) / total : 0)));
}

function chart(slices) {
  const most = Math.max(1, ...slices.map((one) => one.total));
  const svg = h("svg", { class: "chart", viewBox: `0 0 ${slices.length * 10} 100`, preserveAspectRatio: "none", role: "img", "aria-label": T.traffic });
  slices.forEach((one, index) => {
    const bar = (n, kind) => n > 0 && h("rect", { class: kind, x: index * 10 + 1, width: 8, y: 100 - (100 * n) / most, height: (100 * n) / most });
    svg.append(...[bar(one.total, "all"), bar(one.blocked, "blocked")].filter(Boolean));
  });
  return svg;
}

function draw(found, ready) {
  const tile = (name, ...rest) => h("section", { class: "card" }, h("h2", {}, name), rest);
  return [
    h("div", { class: "tiles" },
      tile(T.verdicts, h("p", { class: "big" }, count(found.total))),
      tile(T.blocked, h("p", { class: "big" }, percent(found.block_rate)),
        h("p", { class: "hint" }, found.usual_block_rate
          ? T.usual(percent(found.usual_block_rate.low), percent(found.usual_block_rate.high)) : T.noUsual)),
      tile(T.checks, h("ul", {}, ready.checks.map((one) => h("li", {}, `${one.name}: ${one.ok ? T.ok : T.notOk}`, h("br"), h("small", {}, one.detail)))))),
    h("section", { class: "card" }, h("h2", {}, T.traffic),
      found.total ? chart(found.slices) : h("p", { class: "hint" }, T.nothing),
      h("details", {}, h("summary", {}, T.table), table(T.traffic, T.trafficHead, found.slices.map((one) => h("tr", {},
        h("th", { scope: "row" }, time(one.begins)), h("td", { class: "number" }, count(one.total)), h("td", { class: "number" }, count(one.blocked))))))),
    table(T.tiers, T.tierHead, found.tiers.map((one) => h("tr", {},
      h("th", { scope: "row" }, String(one.tier)), h("td", { class: "number" }, percent(one.share)),
      h("td", { class: "number" }, `${one.expected_low}–${one.expected_high} %`),
      h("td", { class: "number" }, one.p50_ms === null ? "–" : S.verdict.ms(one.p50_ms)),
      h("td", { class: "number" }, one.p95_ms === null ? "–" : S.verdict.ms(one.p95_ms))))),
    h("div", { class: "grid" },
      table(T.actions, T.mixHead, Object.entries(found.actions).map(([name, n]) => share(badge(name), n, found.total, name))),
      table(T.classes, T.mixHead, Object.entries(found.classes).map(([name, n]) => share(label(name), n, found.total, "log")))),
  ];
}

// Server-sent events by fetch, which can carry the key as a header; EventSource cannot.
// Returns when the stream ends in order, throws when it breaks or is not to be had.
async function follow(span, signal, told) {
  const answer = await open(`/v1/overview/stream?span=${span}`, { signal, headers: { accept: "text/event-stream" } });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error(S.unreachable);
    const whole = (rest + value).split("\n\n");
    rest = whole.pop();
    for (const event of whole) {
      const name = /^event: (.*)$/m.exec(event)?.[1];
      if (name === "overview") await told(JSON.parse(/^data: (.*)$/m.exec(event)[1]));
      else if (name === "end") return;
      else if (name === "unavailable") throw new Error(S.unreachable);
    }
  }
}

export async function overview(view, parameters) {
  const span = Object.hasOwn(T.windows, parameters.get("span") ?? "") ? parameters.get("span") : "1d";
  const chosen = select(Object.entries(T.windows), span);
  chosen.addEventListener("change", () => { location.hash = `#/overview?span=${chosen.value}`; });
  const board = h("div", {});
  const state = h("p", { role: "status", class: "hint" });
  let ready = await get("/health/ready").catch((error) => ({ checks: [], error }));
  let readyAt = performance.now();
  const show = async (found) => {
    // An open table is being read: leave it alone.
    if (board.querySelector("details[open]")) return;
    if (performance.now() - readyAt > 1000 * HEALTH_SECONDS) {
      readyAt = performance.now();
      ready = await get("/health/ready").catch(() => ready);
    }
    board.replaceChildren(...draw(found, ready));
  };
  const read = async () => show(await get(`/v1/overview?span=${span}`));
  await read();
  view.replaceChildren(h("h1", { tabindex: "-1" }, S.pages.overview), h("p", {}, T.intro), field(T.window, chosen), state, board);
  let ended = false;
  let stream = new AbortController();
  const pause = (seconds) => new Promise((resolve) => { setTimeout(resolve, seconds * 1000); });
  const tell = (text) => { if (state.textContent !== text) state.textContent = text; };
  // What nobody looks at is not followed; it is as soon as somebody looks again.
  const seen = () => { if (document.hidden) stream.abort(); };
  document.addEventListener("visibilitychange", seen);
  (async () => {
    while (!ended) {
      if (document.hidden) {
        await pause(0.5);
        continue;
      }
      stream = new AbortController();
      try {
        await follow(span, stream.signal, async (found) => { tell(T.live); await show(found); });
      } catch (error) {
        if (ended || stream.signal.aborted) continue;
        tell(T.polled);
        await read().catch((again) => tell(S.failed(again.message)));
        await pause(SECONDS);
      }
    }
  })();
  return () => { ended = true; stream.abort(); document.removeEventListener("visibilitychange", seen); };
}
