// The console: which page is shown, and when it is asked for anew.
//
// Everything is asked of the operator's console, which asks the API server with the token that a person signs in with. The token
// stays in this tab (session storage) and goes with it. What comes from the cluster is only ever set as text.

import { Refused, Unauthorised, request } from "./api.js";
import { clear, element } from "./dom.js";
import { listPage } from "./list.js";
import { volumePage } from "./volume.js";

const REFRESH_MILLISECONDS = 10000;

const main = document.getElementById("main");
const signOut = document.getElementById("sign-out");
let timer;
let shown = 0;

/** Shows the page of the address; `again` keeps what a person is doing. */
async function show(again) {
  clearTimeout(timer);
  const mine = ++shown;
  if (!sessionStorage.getItem("token")) {
    signIn();
    return;
  }
  signOut.hidden = false;
  const parts = location.hash.replace(/^#\/?/, "").split("/").filter(Boolean).map(decodeURIComponent);
  try {
    const page = parts.length === 2 ? await volumePage(parts[0], parts[1], tell) : await listPage();
    // A slower answer to an older question, or a form that somebody fills in: left alone.
    if (mine !== shown || (again && main.querySelector("form:focus-within, form[data-touched]"))) {
      return;
    }
    const open = again ? [...main.querySelectorAll("details[open]")].map((details) => details.id) : [];
    clear(main).append(...page.content);
    for (const id of open) {
      document.getElementById(id)?.setAttribute("open", "");
    }
    document.title = page.title;
    if (!again) {
      main.focus();
    }
  } catch (error) {
    if (mine !== shown) {
      return;
    }
    if (error instanceof Unauthorised) {
      sessionStorage.removeItem("token");
      signIn("The API server does not accept this token. It may have expired.");
      return;
    }
    if (!again || !main.firstChild) {
      clear(main).append(element("h1", {}, "Something went wrong"), element("p", { class: "refusal" }, error.message));
    } else {
      tell(error.message);
    }
  } finally {
    if (mine === shown && sessionStorage.getItem("token")) {
      timer = setTimeout(() => show(true), REFRESH_MILLISECONDS);
    }
  }
}

function signIn(reason) {
  signOut.hidden = true;
  document.title = "Sign in - Twinshore";
  const token = element("input", { id: "token", type: "password", autocomplete: "off", required: "", "aria-describedby": "token-help" });
  const refusal = element("p", { class: "refusal", role: "alert" }, reason ?? "");
  const button = element("button", { type: "submit" }, "Sign in");
  const form = element(
    "form",
    {},
    element("label", { for: "token" }, "Token"),
    token,
    element(
      "p",
      { id: "token-help", class: "soft" },
      "You see and change what this token may. For a service account: ",
      element("code", {}, "kubectl create token ACCOUNT --namespace NAMESPACE"),
    ),
    button,
    refusal,
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    sessionStorage.setItem("token", token.value.trim());
    try {
      await request("GET", "api/self");
      await show(false);
    } catch (error) {
      sessionStorage.removeItem("token");
      refusal.textContent = error instanceof Unauthorised ? "The API server does not accept this token." : error.message;
      button.disabled = false;
    }
  });
  clear(main).append(element("section", { class: "card" }, element("h1", {}, "Sign in"), form));
  token.focus();
}

/** Says something for a moment. */
function tell(text) {
  const news = document.getElementById("news");
  news.textContent = text;
  setTimeout(() => {
    if (news.textContent === text) {
      news.textContent = "";
    }
  }, 8000);
}

signOut.addEventListener("click", () => {
  sessionStorage.removeItem("token");
  show(false);
});
addEventListener("hashchange", () => show(false));
addEventListener("twinshore:changed", () => show(false));
request("GET", "api/about")
  .then((about) => {
    document.getElementById("region").textContent = `region ${about.region}`;
  })
  .catch((error) => {
    if (!(error instanceof Refused)) {
      throw error;
    }
    tell(error.message);
  });
show(false);
