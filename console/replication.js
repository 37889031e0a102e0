// Enabling, adding and disabling replication: a form that edits the resource with the rights of who signed in.

import { Refused, request } from "./api.js";
import { element } from "./dom.js";

/** The card. */
export function replicationCard(volume, path, tell) {
  const enabled = volume.spec.replication?.enabled ?? true;
  const heading = element("h2", {}, "Replication");
  if (!volume.spec.target) {
    const text = element("p", {}, "This volume has one region. With a second one, everything that exists is copied in the background while the volume is in use.");
    return element("section", { class: "card" }, heading, text, targetForm(volume, path, tell));
  }
  const button = element("button", { type: "button", class: enabled ? "quiet" : "" }, enabled ? "Disable replication" : "Enable replication");
  const refusal = element("p", { class: "refusal", role: "alert" });
  button.addEventListener("click", async () => {
    const question = `Disable replication of ${volume.metadata.name}? What is written from then on is in one bucket only.`;
    if (enabled && !confirm(question)) {
      return;
    }
    await send(path, { spec: { replication: { enabled: !enabled } } }, button, refusal, tell, enabled ? "Replication is being disabled." : "Replication is being enabled.");
  });
  const text = enabled
    ? "Each write goes to the near bucket and is copied to the other in the background."
    : "Replication is switched off: what is written is in one bucket only, and is copied when it is enabled again.";
  return element("section", { class: "card" }, heading, element("p", {}, text), button, refusal);
}

const FIELDS = [
  ["region", "Region", "The name of the other cluster's region, as its chart was installed with.", { required: "", pattern: "[a-z0-9]([\\-a-z0-9]*[a-z0-9])?", maxlength: "63" }],
  ["bucket", "Bucket", "An empty bucket in that region.", { required: "", maxlength: "63" }],
  ["endpoint", "Endpoint", "Such as https://s3.west.example.org. Empty for AWS.", { type: "url", maxlength: "512" }],
  ["signingRegion", "Signing region", "On AWS, such as eu-west-1.", { maxlength: "63" }],
  ["prefix", "Prefix", "Keys begin with it. Usually empty.", { maxlength: "256" }],
  ["secret", "Secret with its keys", "In the namespace of the volume, in both clusters. Empty for the identity of the service account.", { maxlength: "253" }],
];

function targetForm(volume, path, tell) {
  const inputs = {};
  const rows = FIELDS.map(([name, label, help, attributes]) => {
    const id = `target-${name}`;
    inputs[name] = element("input", { id, type: "text", autocomplete: "off", spellcheck: "false", ...attributes });
    return element("div", {}, element("label", { for: id }, label, element("small", {}, help)), inputs[name]);
  });
  const exposure = volume.spec.metadata?.exposure?.type ?? "None";
  const choice = element(
    "select",
    { id: "target-exposure" },
    ...["LoadBalancer", "NodePort"].map((type) => element("option", type === exposure ? { selected: "" } : {}, type)),
  );
  if (exposure === "None") {
    rows.push(
      element(
        "div",
        {},
        element("label", { for: "target-exposure" }, "Exposure", element("small", {}, "How the other region reaches the metadata service.")),
        choice,
      ),
    );
  }
  const button = element("button", { type: "submit" }, "Enable replication");
  const refusal = element("p", { class: "refusal", role: "alert" });
  const form = element("form", {}, ...rows, button, refusal);
  form.addEventListener("input", () => form.setAttribute("data-touched", ""));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const text = (name) => inputs[name].value.trim() || undefined;
    const target = {
      region: text("region"),
      bucket: { name: text("bucket"), endpoint: text("endpoint"), signingRegion: text("signingRegion"), prefix: text("prefix") },
      credentialsSecretRef: text("secret") ? { name: text("secret") } : undefined,
    };
    const spec = { target, replication: { enabled: true } };
    if (exposure === "None") {
      spec.metadata = { exposure: { type: choice.value } };
    }
    await send(path, { spec }, button, refusal, tell, "The second region is being added.", form);
  });
  return form;
}

async function send(path, change, button, refusal, tell, done, form) {
  button.disabled = true;
  refusal.textContent = "";
  try {
    await request("PATCH", path, change);
    form?.removeAttribute("data-touched");
    tell(done);
    dispatchEvent(new Event("twinshore:changed"));
  } catch (error) {
    if (!(error instanceof Refused)) {
      throw error;
    }
    refusal.textContent = error.message;
  } finally {
    button.disabled = false;
  }
}
