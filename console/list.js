// The page with all volumes.

import { request } from "./api.js";
import { condition, element, size, state, table } from "./dom.js";

/** Where a volume has its page. */
export function address(volume) {
  return `#/${encodeURIComponent(volume.metadata.namespace)}/${encodeURIComponent(volume.metadata.name)}`;
}

/** The page. */
export async function listPage() {
  const { items } = await request("GET", "api/volumes");
  const title = "Volumes - Twinshore";
  if (items.length === 0) {
    const none = element(
      "section",
      { class: "card" },
      element("h1", {}, "No volumes"),
      element("p", {}, "There is no ReplicatedVolume that you may see. One is made with ", element("code", {}, "kubectl apply"), ": see docs/operator.md."),
    );
    return { title, content: [none] };
  }
  const rows = items.map((volume) => [
    element("a", { href: address(volume) }, `${volume.metadata.namespace}/${volume.metadata.name}`),
    state(condition(volume, "Ready")),
    volume.status?.role ?? "-",
    volume.spec.target ? `${volume.spec.primary.region} ⇄ ${volume.spec.target.region}` : volume.spec.primary.region,
    volume.status?.lag ?? "-",
    volume.status?.usage ? size(volume.status.usage.usedBytes) : "-",
    String(volume.status?.sessions?.mounts ?? "-"),
  ]);
  const header = ["Volume", "Ready", "This cluster is", "Regions", "Lag", "Used", "Mounts"];
  return {
    title,
    content: [element("h1", {}, "Volumes"), element("section", { class: "card" }, table("Volumes that you may see", header, rows))],
  };
}
