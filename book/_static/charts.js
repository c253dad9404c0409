/* Draw every chart of the page with the book's own Vega bundle; where that fails, show the picture of it. */
"use strict";

const bundleAddress = new URL("vega-bundle.js", document.currentScript.src).href;

const options = {
  renderer: "svg", // text and lines in currentColor follow the page from light to dark
  actions: { export: { svg: true, png: true }, source: false, compiled: false, editor: false },
  downloadFileName: "lora-without-regret-measured",
};

function loadBundle() {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = bundleAddress;
    script.onload = resolve;
    script.onerror = reject;
    document.head.append(script);
  });
}

const IN_LINES = "split(slice(replace(datum.label, regexp('(.{1,23})(\\\\s+|$)', 'g'), '$1|'), 0, -1), '|')"; // a name on an axis
const NARROW = 600, MENU = 30, AXIS = 70, FOLD = 56; // CSS pixels: a phone's column, and what stands beside a panel
const TWO_LINES = 34; // of a row whose name is wrapped

/* A folded chart has no width yet: its column is the screen less the margins of page and fold. */
const available = (place) => (place.clientWidth || document.documentElement.clientWidth - FOLD) - MENU;
const isNarrow = () => document.documentElement.clientWidth < NARROW;

function wrapped(text, most) {
  if (text === undefined || text.expr) return text; // what is computed in the chart stays one line
  const lines = [""];
  for (const word of [text].flat().join(" ").split(" ")) {
    if (lines.at(-1) && lines.at(-1).length + word.length >= most) lines.push("");
    lines[lines.length - 1] += (lines.at(-1) ? " " : "") + word;
  }
  return lines;
}

/* The same chart for a phone, letters of the same size: titles in lines, legend below, panels under each other. */
function forPhone(specification, whole, beside) {
  const narrow = structuredClone(specification);
  const letters = Math.floor(whole / 8.5);
  const shape = (one) => {
    if (one.hconcat) [one.vconcat, one.hconcat] = [one.hconcat, undefined];
    (one.vconcat || []).forEach(shape);
    const several = one.facet || one.repeat;
    if (several) one.columns = 1;
    if (!one.vconcat) (several ? one.spec : one).width = whole - beside;
    if (one.title) {
      const title = typeof one.title === "string" ? { text: one.title } : one.title;
      one.title = { ...title, text: wrapped(title.text, letters), subtitle: wrapped(title.subtitle, letters + 6) };
    }
  };
  shape(narrow);
  const layers = (one) => [one, ...[one.layer, one.vconcat, one.spec].flat().filter(Boolean).flatMap(layers)];
  for (const encoding of layers(narrow).flatMap((one) => Object.values(one.encoding || {}))) {
    if (encoding.legend?.columns > 2) encoding.legend.columns = 2;
  }
  const legend = { ...narrow.config?.legend, orient: "bottom", columns: 2, labelLimit: whole / 2 };
  const names = layers(narrow).map((one) => one.encoding?.y).filter((y) => y?.type === "nominal" && y.axis !== null);
  for (const y of names) y.axis = { labelExpr: IN_LINES, labelLineHeight: 12, ...y.axis };
  const wraps = Object.values(narrow.datasets || {}).flat().some((row) => String(row.name ?? "").length > 23);
  for (const one of [narrow, ...(narrow.vconcat || [])]) if (wraps && one.height?.step) one.height.step = TWO_LINES;
  const axisY = { ...narrow.config?.axisY, labelLimit: whole / 2.3 };
  narrow.config = { ...narrow.config, legend, axisY };
  return narrow;
}

/* What stands beside a panel, axis and names of lines, is known once it is drawn: then the panel gets the rest. Words
   within a panel may move out of it as it shrinks, so it is measured again. */
async function drawForPhone(holder, specification, whole) {
  let beside = AXIS;
  for (let turn = 0; ; turn += 1) {
    const { view } = await vegaEmbed(holder, forPhone(specification, whole, beside), options);
    const excess = Number(holder.querySelector("svg.marks").getAttribute("width")) - whole;
    if (turn === 4 || (turn > 0 && excess <= 0)) return;
    view.finalize();
    beside += excess;
  }
}

/* One table of all the rows that the chart was given: RFC 4180. */
function csv(specification) {
  const rows = Object.values(specification.datasets || {}).flat();
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  const cell = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [columns, ...rows.map((row) => columns.map((column) => row[column]))]
    .map((row) => row.map(cell).join(","))
    .join("\r\n");
}

function addDataLink(holder, specification) {
  const menu = holder.querySelector(".vega-actions");
  if (!menu) return;
  const link = document.createElement("a");
  link.textContent = "Save data as CSV";
  link.download = `${options.downloadFileName}.csv`;
  link.href = URL.createObjectURL(new Blob([csv(specification)], { type: "text/csv" }));
  menu.append(link);
}

async function draw(place) {
  const specification = JSON.parse(place.querySelector("script").textContent);
  const holder = document.createElement("div");
  place.append(holder);
  try {
    await (isNarrow() ? drawForPhone(holder, specification, available(place)) : vegaEmbed(holder, specification, options));
  } catch (error) {
    holder.innerHTML = place.querySelector("noscript").textContent;
    throw error;
  }
  place.style.removeProperty("--chart-height");
  for (const marks of holder.querySelectorAll('[role^="graphics-"]:not([aria-label])')) { // groups that say nothing
    marks.removeAttribute("role");
    marks.removeAttribute("aria-roledescription");
  }
  holder.querySelector("summary")?.setAttribute("aria-label", "Save this chart or its data");
  addDataLink(holder, specification);
}

const idle = () => new Promise((resolve) => (window.requestIdleCallback || setTimeout)(resolve));

document.addEventListener("DOMContentLoaded", async () => {
  const places = [...document.querySelectorAll(".lorakit-chart")];
  if (places.length === 0) return;
  await loadBundle();
  const folded = (place) => place.closest("details:not([open])") !== null;
  const later = places.filter(folded); // no layout is needed to draw them, and paper wants them without a wait
  await Promise.all(places.filter((place) => !folded(place)).map(draw));
  for (const place of later) {
    await idle();
    await draw(place);
  }
});
