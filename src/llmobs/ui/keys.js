// Clients and their keys, for administrators.
import { copyButton, field, h, select, table } from "/ui/dom.js";
import { get, open, say } from "/ui/api.js";
import { S } from "/ui/strings.js";

const T = S.keys;
const SCOPES = ["detect", "logs:read", "metrics:read", "admin"];

const time = (value) => (value ? new Date(value).toLocaleString() : "–");

function state(one, now = Date.now()) {
  if (one.revoked_at) return T.revokedAt(time(one.revoked_at));
  if (one.expires_at && Date.parse(one.expires_at) <= now) return T.expiredAt(time(one.expires_at));
  return one.expires_at ? T.until(time(one.expires_at)) : T.forEver;
}

const works = (one) => !one.revoked_at && (!one.expires_at || Date.parse(one.expires_at) > Date.now());

export async function keys(view) {
  const said = h("div", { role: "status" });
  const lists = h("div", {});

  const tell = (...parts) => said.replaceChildren(...parts);
  const failed = (error) => tell(h("p", { class: "notice" }, S.failed(error.message)));

  function fresh({ key, entry }) {
    tell(h("div", { class: "notice good" },
      h("p", {}, T.fresh(entry.client_id)), h("p", {}, copyButton(S, key), " ", h("code", { class: "fresh" }, key))));
  }

  async function revoke(one) {
    if (!said.contains(document.activeElement)) {
      const sure = h("button", { type: "button", class: "main", click: async () => {
        try {
          await open(`/v1/admin/keys/${encodeURIComponent(one.id)}`, { method: "DELETE" });
          tell(h("p", { class: "hint" }, T.revoked(one.id)));
          await draw();
        } catch (error) { failed(error); }
      } }, T.revokeNow(one.id));
      tell(h("p", {}, T.sure(one.client_id, one.name)), sure, " ",
        h("button", { type: "button", click: () => tell() }, T.keep));
      sure.focus();
    }
  }

  async function rotate(one) {
    try {
      fresh(await say(`/v1/admin/keys/${encodeURIComponent(one.id)}/rotate`, {}));
      await draw();
    } catch (error) { failed(error); }
  }

  async function draw() {
    const [{ clients }, found] = await Promise.all([get("/v1/admin/clients"), get("/v1/admin/keys")]);
    lists.replaceChildren(
      table(T.clients, T.clientHead, clients.map((one) => h("tr", {},
        h("th", { scope: "row" }, one.id), h("td", {}, one.name), h("td", {}, one.tier), h("td", {}, one.policy ?? "–"),
        h("td", {}, one.readers.join(", ") || "–"), h("td", {}, one.disabled_at ? T.disabledAt(time(one.disabled_at)) : T.active)))),
      table(T.keys, T.keyHead, found.keys.map((one) => h("tr", {},
        h("th", { scope: "row" }, h("code", {}, one.id)), h("td", {}, one.client_id), h("td", {}, one.name || "–"),
        h("td", {}, one.scopes.join(", ")), h("td", {}, state(one)), h("td", {}, time(one.last_used_at)),
        h("td", {}, works(one) && h("div", { class: "buttons" },
          !one.replaced_by && h("button", { type: "button", class: "quiet", "aria-label": T.rotateOf(one.id), click: () => rotate(one) }, T.rotate),
          h("button", { type: "button", class: "quiet", "aria-label": T.revokeOf(one.id), click: () => revoke(one) }, T.revoke)))))));
    client.replaceChildren(...clients.filter((one) => !one.disabled_at).map((one) => h("option", { value: one.id }, one.id)));
  }

  const id = h("input", { required: true, pattern: "[a-z0-9][a-z0-9_\\-]{0,63}", autocomplete: "off" });
  const addClient = h("form", { submit: async (event) => {
    event.preventDefault();
    try {
      const made = await say("/v1/admin/clients", { id: id.value.trim() });
      id.value = "";
      await draw();
      tell(h("p", { class: "hint" }, T.clientMade(made.id)));
      client.value = made.id;
    } catch (error) { failed(error); }
  } }, field(T.clientId, id, T.clientIdHint), h("button", { type: "submit" }, T.addClient));

  const client = select([], "");
  const name = h("input", { maxlength: "200", autocomplete: "off" });
  const days = h("input", { type: "number", min: "1", max: "3650", value: "365", required: true });
  const boxes = SCOPES.map((scope) => h("input", { type: "checkbox", value: scope, checked: scope === "detect" }));
  const addKey = h("form", { submit: async (event) => {
    event.preventDefault();
    try {
      fresh(await say("/v1/admin/keys", {
        client_id: client.value, name: name.value, expires_in_days: Number(days.value),
        scopes: boxes.filter((box) => box.checked).map((box) => box.value),
      }));
      await draw();
    } catch (error) { failed(error); }
  } },
  h("div", { class: "row" }, field(T.client, client), field(T.name, name), field(T.days, days)),
  h("fieldset", { class: "views" }, h("legend", {}, T.scopes),
    boxes.map((box) => h("label", { class: "check" }, box, box.value))),
  h("button", { type: "submit", class: "main" }, T.addKey));

  await draw();
  view.replaceChildren(
    h("h1", { tabindex: "-1" }, S.pages.keys), h("p", {}, T.intro), said, lists,
    h("h2", {}, T.newKey), addKey, h("h2", {}, T.newClient), addClient);
}
