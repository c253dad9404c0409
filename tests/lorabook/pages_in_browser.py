"""Pages in a headless Chromium: their DOM, what they ask the network for, and what a reader with a phone meets.

Chromium is looked for under its usual names; without one a test is skipped, unless LORAKIT_REQUIRE_BROWSER=1 promises
it. axe-core's script comes from the package axe-core-python, or from the file that LORAKIT_AXE names.
"""

import contextlib
import functools
import gzip
import html
import http.server
import importlib.util
import json
import os
import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from waiting import LONG

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PHONE, DESK = 390, 1280

INSPECT = """<!doctype html><body><script>
const frame = (width) => new Promise((loaded) => {
  const one = document.createElement("iframe");
  one.style.cssText = `width:${width}px;height:3000px;border:0`;
  one.onload = () => setTimeout(() => loaded(one.contentDocument), 4000);
  one.src = "PAGE";
  document.body.append(one);
});
const drawn = (text, drawing, width) => parseFloat(getComputedStyle(text).fontSize)
  * drawing.getBoundingClientRect().width / width;
async function look() {
  const phone = await frame(390), desk = await frame(1280);
  const of = (kind, width) => [...phone.querySelectorAll(kind)].filter((one) => one.getBoundingClientRect().width)
    .flatMap((one) => [...one.querySelectorAll("text")].map((text) => drawn(text, one, width(one))));
  const letters = [...of("svg.marks", (one) => Number(one.getAttribute("width"))),
                   ...of("svg.dg", (one) => one.viewBox.baseVal.width)];
  const sideways = [];
  for (const [name, page] of [["phone", phone], ["desk", desk]]) {
    const closed = [...page.querySelectorAll("details:not([open])")];
    closed.forEach((fold) => { fold.open = true; });
    const whole = [...page.querySelectorAll(".table-scroll, div.math")];
    sideways.push(...whole.filter((one) => one.scrollWidth > one.clientWidth + 1).map((one) =>
      `${name} ${one.scrollWidth}: ${one.textContent.trim().replace(/\\s+/g, " ").slice(0, 90)}`));
    if (page === desk) closed.forEach((fold) => { fold.open = false; });
  }
  const found = { wide: phone.documentElement.scrollWidth, letters, sideways, serious: [] };
  if ("AXE") {
    await new Promise((ready) => {
      const script = desk.createElement("script");
      script.onload = ready;
      script.src = "AXE";
      desk.head.append(script);
    });
    for (const theme of ["light", "dark"]) {
      desk.documentElement.dataset.theme = theme;
      const said = await desk.defaultView.axe.run(desk, { resultTypes: ["violations"] });
      found.serious.push(...said.violations.filter((one) => ["serious", "critical"].includes(one.impact))
        .map((one) => [theme, one.id, ...one.nodes.slice(0, 3).map((node) => node.html.slice(0, 160))].join(" | ")));
    }
  }
  return found;
}
look().catch((error) => ({ error: String(error) })).then((found) => {
  const out = document.createElement("pre");
  out.id = "found";
  out.textContent = JSON.stringify(found);
  document.body.replaceChildren(out);
});
</script></body>"""


def browser():
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        if os.environ.get("LORAKIT_REQUIRE_BROWSER") == "1":
            pytest.fail(f"LORAKIT_REQUIRE_BROWSER=1, but none of {', '.join(BROWSERS)} is installed")
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    return found


def open_page(page, folder, *options, anchor=""):
    """The page's DOM after its scripts, and the addresses that the browser asked the network for.

    Args:
        page: a file, or an address of this machine.
    """
    log = folder / "net.json"
    address = (page if isinstance(page, str) else page.as_uri()) + (f"#{anchor}" if anchor else "")
    command = [browser(), "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
               "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--disable-background-networking",
               "--no-first-run", "--disable-component-update", "--allow-file-access-from-files",
               "--hide-scrollbars",  # a phone's lie over the page
               f"--log-net-log={log}", "--virtual-time-budget=15000", *options, "--dump-dom", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, requested(log)


def requested(log):
    """Addresses that a page asked for, in Chromium's log of its network stack: one event a line.

    The browser's own errands (updates, clock, dictionaries) have no page as their initiator.
    """
    event = re.compile(r'"initiator":"(?!not an origin).*"url":"((?:https?|wss?)://[^"]+)"')
    return sorted({found.group(1) for line in log.read_text(encoding="utf-8").splitlines()
                   if (found := event.search(line))})


def axe():
    """Where axe-core's script is, or None."""
    if named := os.environ.get("LORAKIT_AXE"):
        return Path(named)
    package = importlib.util.find_spec("axe_core_python")
    return Path(package.origin).parent / "axe.min.js" if package and package.origin else None


def inspect(page, folder):
    """What a phone and axe-core find on a page.

    `wide` (pixels, folds open), `letters` (pixels) of drawings, tables and formulas that scroll `sideways` on either,
    and what is `serious`.
    """
    script = axe()
    harness = page.with_name(f"_inspect_{page.name}")
    harness.write_text(INSPECT.replace("PAGE", page.name).replace("AXE", script.as_uri() if script else ""),
                       encoding="utf-8")
    try:
        dom, _ = open_page(harness, folder, "--virtual-time-budget=60000")
    finally:
        harness.unlink()
    return json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', dom, re.S).group(1)))


class Counting(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and remembers what was asked for."""

    def do_GET(self):
        self.server.asked.add(self.path.partition("?")[0].lstrip("/"))
        super().do_GET()

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def served(folder):
    """A server of the folder on this machine."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Counting, directory=folder)) as server:
        server.asked = set()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def weight(path):
    """Bytes on the wire: fonts and pictures as they are, anything else as a server compresses it."""
    content = path.read_bytes()
    return len(content) if path.suffix in (".woff", ".woff2", ".png") else len(gzip.compress(content))


def first_visit(built, page, folder):
    """What a browser without a cache fetches for a page of a built book: bytes on the wire by file."""
    with served(built) as server:
        open_page(f"http://127.0.0.1:{server.server_port}/{page}", folder)
    return {name: weight(built / name) for name in server.asked if (built / name).is_file()}
