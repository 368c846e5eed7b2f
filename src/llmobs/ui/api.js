// Calls of the service. The key, where one is needed, lives in this module's memory only.
import { S } from "/ui/strings.js";

let key = "";

export function useKey(value) {
  key = value.trim();
}

export const hasKey = () => key !== "";

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export async function open(path, options = {}) {
  const headers = { ...options.headers };
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

let policies;
export function knownPolicies(again = false) {
  if (!policies || again) {
    policies = get("/v1/policies");
    policies.catch(() => { policies = undefined; });
  }
  return policies;
}
