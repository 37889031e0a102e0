// Small words for building pages. Text is always text: nothing from the cluster is parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** An element of HTML. */
export function element(name, attributes, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** An element of SVG. */
export function drawing(name, attributes, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

/** Removes all children. */
export function clear(node) {
  node.replaceChildren();
  return node;
}

/**
 * A table with a caption; cells are nodes or texts. On a narrow screen each row becomes a block with its labels, which takes the
 * meaning of a table away from assistive technology unless the roles say it.
 */
export function table(caption, header, rows) {
  const head = header.map((text) => element("th", { scope: "col", role: "columnheader" }, text));
  const body = rows.map((row) =>
    element("tr", { role: "row" }, ...row.map((cell, index) => element("td", { role: "cell", "data-label": header[index] }, cell))),
  );
  return element(
    "table",
    { role: "table" },
    element("caption", {}, caption),
    element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...head)),
    element("tbody", { role: "rowgroup" }, ...body),
  );
}

/** The state of a condition, in a word and a colour. `wanted` is what it should be; `patient` if it need not be so all the time. */
export function state(condition, wanted = "True", patient = false) {
  const status = condition?.status ?? "Unknown";
  const other = status === "Unknown" || patient ? "unsure" : "bad";
  const kind = status === wanted ? "good" : other;
  const mark = { good: "✓", bad: "✗", unsure: "…" }[kind];
  return element("span", { class: `state ${kind}` }, `${mark} ${status}`);
}

/** Bytes with a unit. */
export function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return unit === 0 ? `${bytes} B` : `${value.toFixed(1)} ${units[unit]}`;
}

/** Seconds as people say them. */
export function duration(seconds) {
  if (seconds < 60) {
    return `${seconds} s`;
  }
  if (seconds < 3600) {
    return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  }
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

/** A condition of a volume. */
export function condition(volume, type) {
  return (volume.status?.conditions ?? []).find((one) => one.type === type);
}
