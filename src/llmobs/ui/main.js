// The frame: navigation, the place of the page, the key where one is asked for.
import { field, h } from "/ui/dom.js";
import { session, signIn, signOut, useKey } from "/ui/api.js";
import { keys } from "/ui/keys.js";
import { logs } from "/ui/logs.js";
import { overview } from "/ui/overview.js";
import { playground } from "/ui/playground.js";
import { policies } from "/ui/policies.js";
import { S } from "/ui/strings.js";

const PAGES = { playground, overview, logs, policies, keys };

const view = h("main", { id: "main", tabindex: "-1" });
const links = Object.keys(PAGES).map((name) => h("a", { href: `#/${name}` }, S.pages[name]));
// Only administrators have clients and keys to look after.
const keysLink = links[Object.keys(PAGES).indexOf("keys")];
keysLink.hidden = true;
const account = h("div", { class: "account" });
document.body.replaceChildren(
  h("a", { class: "skip", href: "#main", click: (event) => { event.preventDefault(); view.focus(); } }, S.skip),
  h("header", {}, h("span", { class: "name" }, S.title), h("nav", { "aria-label": S.nav }, links), account),
  view);

let known = { asks: false, sessions: false, signed_in: false };

function showAccount(state) {
  known = state;
  keysLink.hidden = !state.scopes?.includes("admin");
  if (state.signed_in) {
    account.replaceChildren(
      h("span", { title: state.scopes.join(", ") }, S.signedInAs(state.client_id ?? state.actor)),
      h("button", { type: "button", class: "quiet", click: async () => {
        await signOut();
        showAccount(await session());
        askForKey(S.signedOut);
      } }, S.signOut));
  } else account.replaceChildren();
}

function askForKey(message) {
  turn += 1;  // whatever is still being made is of no use without a key
  stop?.();
  stop = null;
  const key = h("input", { type: "password", autocomplete: "off", required: true });
  const told = h("p", { role: "alert" }, message);
  const use = async (event) => {
    event.preventDefault();
    if (known.sessions) {
      try {
        showAccount(await signIn(key.value.trim()));
      } catch (error) {
        told.replaceChildren(error.message);
        key.select();
        return;
      }
    } else useKey(key.value);
    show();
  };
  view.replaceChildren(
    h("h1", { tabindex: "-1" }, S.signIn), told,
    h("form", { submit: use },
      field(S.key, key, known.sessions ? S.sessionHint : S.keyHint),
      h("button", { type: "submit", class: "main" }, known.sessions ? S.signIn : S.keyUse)));
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
    // Asked before anything else: a page that nobody may see yet is not asked for in vain.
    if (first) showAccount(await session());
    if (mine !== turn) return;
    if (known.asks && known.sessions && !known.signed_in) {
      first = false;
      askForKey(S.askSignIn);
      return;
    }
    const ended = await PAGES[name](room, new URLSearchParams(query));
    if (mine === turn) stop = ended ?? null;
    else ended?.();
  } catch (error) {
    if (mine === turn) {
      if (error.status === 401 || (error.status === 403 && !known.signed_in)) askForKey(error.message);
      else room.replaceChildren(h("h1", { tabindex: "-1" }, S.pages[name]), h("p", { class: "notice", role: "alert" }, S.failed(error.message)));
    }
  }
  // Whoever moves by keyboard or screen reader starts at the head of the new page.
  if (!first && mine === turn && document.activeElement === document.body) view.querySelector("h1")?.focus();
  first = false;
}

addEventListener("hashchange", show);
show();
