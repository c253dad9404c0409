/* A hit of the search leads to the section that it is in: beneath the page's name stands the section's, as a link. */
"use strict";

/* What a section says itself, without the sections in it. */
function ownText(section) {
  const own = section.cloneNode(true);
  own.querySelectorAll("section, script, noscript, style, h1, h2, h3, h4").forEach((part) => part.remove());
  return own.textContent.replace(/\s+/g, " ").trim();
}

/* The section with most of the words, the first of several; null where no section has one. */
function sectionWith(page, words) {
  const found = [...page.querySelectorAll("article section[id]")].map((section) => {
    const text = ownText(section);
    return { section, text, has: words.filter((word) => text.toLowerCase().includes(word)).length };
  });
  const most = Math.max(0, ...found.map((one) => one.has));
  return most ? found.find((one) => one.has === most) : null;
}

function summaryInSection(whole, htmlText, keywords, anchor) {
  const words = [...keywords].map((word) => word.toLowerCase());
  const found = sectionWith(new DOMParser().parseFromString(htmlText, "text/html"), words);
  if (!found || anchor) return whole(htmlText, keywords, anchor);
  const at = Math.max(0, Math.min(...words.map((word) => found.text.toLowerCase().indexOf(word)).filter((i) => i >= 0)) - 80);
  const summary = document.createElement("p");
  summary.className = "context";
  const link = summary.appendChild(document.createElement("a"));
  link.textContent = found.section.querySelector("h1, h2, h3, h4").firstChild.textContent.trim();
  summary.append(`: ${at ? "… " : ""}${found.text.slice(at, at + 240)} …`);
  queueMicrotask(() => { // by then it is part of the hit
    const page = summary.closest("li").querySelector("a");
    link.href = `${page.getAttribute("href").split("#")[0]}#${found.section.id}`;
  });
  return summary;
}

if (typeof Search !== "undefined") {
  const whole = Search.makeSearchSummary;
  Search.makeSearchSummary = (...given) => summaryInSection(whole, ...given);
}
