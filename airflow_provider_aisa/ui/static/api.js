// Questions to the gallery's own server, and why an answer may be missing, in words.

export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const WORDS = {
  401: "You are not signed in any more. Reload the page to sign in again.",
  403: "You have no permission to see this DAG's results. Ask an administrator of this Airflow for it.",
  404: "There is nothing here.",
};

export async function ask(path, query = {}) {
  const known = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  let answer;
  try {
    answer = await fetch(`${path}?${new URLSearchParams(known)}`, { credentials: "same-origin" });
  } catch {
    throw new Refusal(0, "Airflow's API server cannot be reached. This page tries again by itself.");
  }
  if (answer.ok) return answer.json();
  throw await refusal(answer);
}

// The sentence of an answer that is no success: the server's own, unless ours says what to do.
export async function refusal(answer) {
  let detail;
  try {
    ({ detail } = await answer.json());
  } catch {
    detail = null;
  }
  if (answer.status === 401 || (answer.status === 403 && detail === "Forbidden")) {
    return new Refusal(answer.status, WORDS[answer.status]);
  }
  const message = typeof detail === "string" ? detail : WORDS[answer.status];
  return new Refusal(answer.status, message ?? `Airflow's API server answered ${answer.status}: see its log.`);
}
