/* Draw every chart of the page with the book's own Vega bundle; without it the PNG in the page stays. */
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

/* A narrow page gets a narrower chart with text of the same size, not a small picture of the wide one. */
const BESIDE = 170; // pixels left and right of the plot: axis, its title, names of lines
const NARROWEST = 180;

function fitted(specification, width) {
  if (typeof specification.width !== "number" || specification.width + BESIDE <= width) return specification;
  return { ...specification, width: Math.max(NARROWEST, width - BESIDE) };
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
    await vegaEmbed(holder, fitted(specification, place.clientWidth), options);
  } catch (error) {
    holder.remove();
    throw error;
  }
  place.querySelector("img").remove();
  addDataLink(holder, specification);
}

document.addEventListener("DOMContentLoaded", async () => {
  const places = [...document.querySelectorAll(".lorakit-chart")];
  if (places.length === 0) return;
  await loadBundle();
  await Promise.all(places.map(draw));
});
