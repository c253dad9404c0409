/* Folded parts open for an address that leads into them, and for paper; everything else is HTML's own <details>. */
"use strict";

function openFor(target) {
  for (let part = target; part; part = part.parentElement) if (part.matches("details")) part.open = true;
  target?.querySelectorAll(":scope > details.evidence").forEach((part) => { part.open = true; });
}

function openForAddress() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  openFor(target);
  target.scrollIntoView();
}

addEventListener("DOMContentLoaded", () => {
  openForAddress();
  // the theme's button is called by what it shows, "Search Ctrl + K"
  document.querySelectorAll(".search-button-field").forEach((button) => button.removeAttribute("aria-label"));
});
addEventListener("hashchange", openForAddress);
document.addEventListener("click", (event) => { // the same address again tells the browser nothing
  const link = event.target.closest?.('a[href^="#"]');
  if (link && link.hash === location.hash) openForAddress();
});

let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")].filter((part) => !part.closest(".vega-embed"));
  closed.forEach((part) => { part.open = true; });
});
addEventListener("afterprint", () => closed.splice(0).forEach((part) => { part.open = false; }));
