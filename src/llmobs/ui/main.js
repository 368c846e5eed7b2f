// The frame: navigation, the place of the page, the key where one is asked for.
import { field, h } from "/ui/dom.js";
import { useKey } from "/ui/api.js";
import { logs } from "/ui/logs.js";
import { overview } from "/ui/overview.js";
import { playground } from "/ui/playground.js";
import { policies } from "/ui/policies.js";
import { S } from "/ui/strings.js";

const PAGES = { playground, overview, logs, policies };

const view = h("main", { id: "main", tabindex: "-1" });
const links = Object.keys(PAGES).map((name) => h("a", { href: `#/${name}` }, S.pages[name]));
document.body.replaceChildren(
  h("a", { class: "skip", href: "#main", click: (event) => { event.preventDefault(); view.focus(); } }, S.skip),
  h("header", {}, h("span", { class: "name" }, S.title), h("nav", { "aria-label": S.nav }, links)),
  view);

function askForKey(message) {
  const key = h("input", { type: "password", autocomplete: "off" });
  view.replaceChildren(
    h("h1", { tabindex: "-1" }, S.key), h("p", { role: "alert" }, message),
    h("form", { submit: (event) => { event.preventDefault(); useKey(key.value); show(); } },
      field(S.key, key, S.keyHint), h("button", { type: "submit", class: "main" }, S.keyUse)));
  key.focus();
}

let first = true;
let turn = 0;
let stop = null;

async function show() {
  const mine = ++turn;
  stop?.();
  stop = null;
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const name = Object.hasOwn(PAGES, path) ? path : "playground";
  links.forEach((link, index) => {
    if (Object.keys(PAGES)[index] === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  });
  document.title = `${S.pages[name]} · ${S.title}`;
  // A page is made aside and put in when whole, so that one which was left meanwhile changes nothing.
  const room = { replaceChildren: (...parts) => { if (mine === turn) view.replaceChildren(...parts.filter((one) => one)); } };
  if (first) room.replaceChildren(h("p", { role: "status" }, S.loading));
  try {
    const ended = await PAGES[name](room, new URLSearchParams(query));
    if (mine === turn) stop = ended ?? null;
    else ended?.();
  } catch (error) {
    if (mine === turn) {
      if (error.status === 401 || error.status === 403) askForKey(error.message);
      else room.replaceChildren(h("h1", { tabindex: "-1" }, S.pages[name]), h("p", { class: "notice", role: "alert" }, S.failed(error.message)));
    }
  }
  // Whoever moves by keyboard or screen reader starts at the head of the new page.
  if (!first && mine === turn && document.activeElement === document.body) view.querySelector("h1")?.focus();
  first = false;
}

addEventListener("hashchange", show);
show();
