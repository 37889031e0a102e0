// Requests to the operator's console.

/** The API server does not know the token. */
export class Unauthorised extends Error {}

/** It knows it, and refuses; the message says why. */
export class Refused extends Error {}

const PATIENCE_MILLISECONDS = 30000;

/** Asks, with the token that was signed in with. */
export async function request(method, path, body) {
  const headers = { accept: "application/json" };
  const token = sessionStorage.getItem("token");
  if (token) {
    headers.authorization = `Bearer ${token}`;
  }
  if (body !== undefined) {
    headers["content-type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(path, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.timeout(PATIENCE_MILLISECONDS),
      credentials: "omit",
      cache: "no-store",
    });
  } catch (error) {
    throw new Refused(`The operator does not answer (${error.message}). Is the port still forwarded?`);
  }
  if (response.status === 401) {
    throw new Unauthorised("unauthorised");
  }
  const text = await response.text();
  if (!response.ok) {
    throw new Refused(text || `The operator answers ${response.status}.`);
  }
  return JSON.parse(text);
}
