// Lag over time, as a drawing and as a table.

import { drawing, duration, element, table } from "./dom.js";

const WIDTH = 720;
const HEIGHT = 200;
const LEFT = 64;
const BOTTOM = 24;
const TOP = 10;

/** `history`: `{regions: [names], samples: [{time, lagSeconds: [number or null per region]}]}`, times in seconds since 1970. */
export function lagChart(history) {
  const { regions, samples } = history;
  if (samples.length < 2) {
    return element("p", { class: "soft" }, "Not enough was seen yet: the operator looks every ten seconds.");
  }
  const first = samples[0].time;
  const last = samples[samples.length - 1].time;
  const most = Math.max(10, ...samples.flatMap((sample) => sample.lagSeconds.map((lag) => lag ?? 0)));
  const x = (time) => LEFT + ((time - first) / Math.max(1, last - first)) * (WIDTH - LEFT - 8);
  const y = (lag) => TOP + (1 - lag / most) * (HEIGHT - TOP - BOTTOM);
  const lines = regions.map((region, index) => {
    const known = samples.filter((sample) => sample.lagSeconds[index] !== null && sample.lagSeconds[index] !== undefined);
    const points = known.map((sample) => `${x(sample.time).toFixed(1)},${y(sample.lagSeconds[index]).toFixed(1)}`);
    return drawing("polyline", { points: points.join(" "), class: index === 0 ? "first" : "second" });
  });
  const latest = samples[samples.length - 1];
  const description = regions
    .map((region, index) => `${region}: ${latest.lagSeconds[index] ?? "unknown"} s now`)
    .join(", ");
  const chart = drawing(
    "svg",
    { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `Lag over time. ${description}.` },
    drawing("line", { class: "axis", x1: LEFT, y1: y(0), x2: WIDTH - 8, y2: y(0) }),
    drawing("line", { class: "axis", x1: LEFT, y1: y(most), x2: WIDTH - 8, y2: y(most) }),
    drawing("text", { x: LEFT - 8, y: y(0) + 4, "text-anchor": "end" }, "0 s"),
    drawing("text", { x: LEFT - 8, y: y(most) + 4, "text-anchor": "end" }, duration(Math.round(most))),
    drawing("text", { x: LEFT, y: HEIGHT - 6 }, clock(first)),
    drawing("text", { x: WIDTH - 8, y: HEIGHT - 6, "text-anchor": "end" }, clock(last)),
    ...lines,
  );
  const legend = element(
    "ul",
    { class: "legend" },
    ...regions.map((region, index) =>
      element("li", { class: index === 0 ? "first" : "second" }, element("span", { class: "mark", "aria-hidden": "true" }), `bucket of ${region}`),
    ),
  );
  const step = Math.max(1, Math.floor(samples.length / 12));
  const few = samples.filter((_, index) => index % step === 0);
  const numbers = element(
    "details",
    { id: "lag-numbers" },
    element("summary", {}, "As a table"),
    table(
      "Lag in seconds",
      ["Time", ...regions],
      few.map((sample) => [clock(sample.time), ...regions.map((_, index) => String(sample.lagSeconds[index] ?? "-"))]),
    ),
  );
  return element("div", {}, chart, legend, numbers);
}

function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString();
}
