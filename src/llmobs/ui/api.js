// Calls of the service. Whoever signed in is known by a cookie that no script can read; where there are no
// sessions, the key lives in this module's memory only.
import { S } from "/ui/strings.js";

let key = "";

export function useKey(value) {
  key = value.trim();
}

// Whether a browser can load by itself what the page may see: not with a key that only this module has, and
// only where the browser tells the service that the page asks.
export const loadsItself = () => key === "" && isSecureContext;

let asks = false;
export const asksForKey = () => asks;

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export async function open(path, options = {}) {
  const headers = { "x-llmobs-page": "1", ...options.headers };
  if (key) headers.authorization = `Bearer ${key}`;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, S.unreachable);
  }
  if (!answer.ok) {
    let told = `${answer.status}`;
    try {
      const problem = await answer.json();
      told = `${problem.title}. ${problem.detail || ""}`;
    } catch { /* not a problem document: the status has to do */ }
    throw new Refused(answer.status, told);
  }
  return answer;
}

export const get = async (path, options) => (await open(path, options)).json();

export async function post(path, body) {
  const answer = await open(path, {
    method: "POST",
    headers: { "content-type": "application/json", "idempotency-key": crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}` },
    body: JSON.stringify(body),
  });
  return answer.json();
}

export const put = async (path, body) =>
  (await open(path, { method: "PUT", headers: { "content-type": "application/json" }, body: JSON.stringify(body) })).json();
// What counts once by itself, however often it is sent.
export const say = async (path, body) =>
  (await open(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) })).json();

export async function session() {
  const state = await get("/ui/session");
  asks = state.asks;
  return state;
}

export async function signIn(credential) {
  const answer = await open("/ui/session", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ credential }),
  });
  policies = undefined;
  return answer.json();
}

export async function signOut() {
  await open("/ui/session", { method: "DELETE" });
  key = "";
  policies = undefined;
}

let policies;
export function knownPolicies(again = false) {
  if (!policies || again) {
    policies = get("/v1/policies");
    policies.catch(() => { policies = undefined; });
  }
  return policies;
}
