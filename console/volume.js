// The page of one volume.

import { request } from "./api.js";
import { lagChart } from "./chart.js";
import { condition, duration, element, size, state, table } from "./dom.js";
import { replicationCard } from "./replication.js";

/** What each condition should be. */
const CONDITIONS = [
  ["Ready", "True"],
  ["MetadataReady", "True"],
  ["Replicating", "True"],
  ["Degraded", "False"],
  ["InSync", "True"],
  ["Verified", "True"],
];

/** False for a while whenever something is written, or until the first comparison. */
const PATIENT = ["InSync", "Verified"];

/** The page. */
export async function volumePage(namespace, name, tell) {
  const path = `api/volumes/${encodeURIComponent(namespace)}/${encodeURIComponent(name)}`;
  const [volume, history] = await Promise.all([request("GET", path), request("GET", `${path}/history`)]);
  const content = [
    element("p", {}, element("a", { href: "#/" }, "← All volumes")),
    element("h1", {}, `${namespace}/${name}`),
    element("p", { class: "soft" }, summary(volume)),
    ...problems(volume),
    regionsCard(volume),
    element("section", { class: "card" }, element("h2", {}, "Lag"), lagChart(history)),
    healthCard(volume),
    usageCard(volume),
    replicationCard(volume, path, tell),
  ];
  return { title: `${name} - Twinshore`, content };
}

function summary(volume) {
  const { status } = volume;
  if (!status?.conditions?.length) {
    return "No operator has looked at this volume yet.";
  }
  const role = { Primary: "the primary region", Target: "the target region", None: "neither of the volume's regions" }[status.role];
  return `This cluster is ${role ?? "not known to the volume"}. ${status.activeRegion ? `The metadata service of ${status.activeRegion} leads, epoch ${status.epoch ?? "-"}.` : "No metadata service answers."}`;
}

function problems(volume) {
  const wrong = CONDITIONS.filter(([type]) => !PATIENT.includes(type))
    .map(([type, wanted]) => [condition(volume, type), wanted])
    .filter(([one, wanted]) => one && one.status !== "Unknown" && one.status !== wanted);
  const seen = new Set();
  return wrong
    .filter(([one]) => !seen.has(one.message) && seen.add(one.message))
    .map(([one]) => element("div", { class: "problem" }, element("strong", {}, one.reason), element("p", {}, one.message)));
}

function regionsCard(volume) {
  const ends = [[volume.spec.primary, "primary"]];
  if (volume.spec.target) {
    ends.push([volume.spec.target, "target"]);
  }
  const rows = ends.map(([end, role]) => {
    const owed = (volume.status?.replication ?? []).find((one) => one.region === end.region);
    return [
      `${end.region}${volume.status?.region === end.region ? " (this cluster)" : ""}`,
      role,
      bucket(end.bucket),
      end.credentialsSecretRef ? `Secret ${end.credentialsSecretRef.name}` : "of the service account",
      owed ? duration(owed.lagSeconds) : "-",
      owed ? `${owed.pendingObjects} objects, ${size(owed.pendingBytes)}` : "-",
      owed ? setAside(owed) : "-",
    ];
  });
  const header = ["Region", "Role", "Bucket", "Credentials", "Lag", "Owed", "Set aside"];
  return element("section", { class: "card" }, table("Regions and buckets", header, rows));
}

function bucket(spec) {
  const prefix = spec.prefix ? `/${spec.prefix}` : "";
  return spec.endpoint ? `${spec.endpoint}/${spec.name}${prefix}` : `s3://${spec.name}${prefix}`;
}

function setAside(owed) {
  return owed.lastError ? `${owed.setAsideObjects}: ${owed.lastError}` : String(owed.setAsideObjects);
}

function healthCard(volume) {
  const rows = CONDITIONS.map(([type, wanted]) => [type, condition(volume, type), wanted])
    .filter(([, one]) => one)
    .map(([type, one, wanted]) => [type, state(one, wanted, PATIENT.includes(type)), one.reason, one.message, since(one)]);
  return element("section", { class: "card" }, table("Health", ["Condition", "State", "Reason", "Message", "Since"], rows));
}

function since(one) {
  const time = element("time", { datetime: one.lastTransitionTime }, new Date(one.lastTransitionTime).toLocaleString());
  return time;
}

function usageCard(volume) {
  const { usage, sessions } = volume.status ?? {};
  const entries = [
    ["Used", usage ? `${size(usage.usedBytes)}${usage.limitBytes ? ` of ${size(usage.limitBytes)}` : ""}` : "-"],
    ["Files and directories", usage ? `${usage.usedInodes}${usage.limitInodes ? ` of ${usage.limitInodes}` : ""}` : "-"],
    ["Mounts connected", String(sessions?.mounts ?? "-")],
    ["Workers connected", String(sessions?.workers ?? "-")],
    ["Of both, with a broken line", String(sessions?.disconnected ?? "-")],
    ["Last full comparison", volume.status?.lastSynchronisation ? new Date(volume.status.lastSynchronisation).toLocaleString() : "not yet"],
  ];
  const list = element("dl", {}, ...entries.flatMap(([term, value]) => [element("dt", {}, term), element("dd", {}, value)]));
  return element("section", { class: "card" }, element("h2", {}, "Usage and sessions"), list);
}
