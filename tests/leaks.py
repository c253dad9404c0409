"""What no file that leaves this machine may hold: tokens, hosts, users, addresses, folders of a machine."""

from __future__ import annotations

import os
import re
import socket
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PATTERNS = {
    "a token of a service": r"\b(?:hf_[A-Za-z0-9]{30,}|gh[opusr]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|glpat-[\w-]{20,}|"
                            r"sk-[A-Za-z0-9_-]{32,}|AKIA[A-Z0-9]{16}|AIza[\w-]{35}|xox[abprs]-[\w-]{20,})",
    "a private key": "-----BEGIN [A-Z ]*PRIVATE" " KEY-----",
    "a header with a token": r"(?i)\bauthorization['\"]?\s*[:=]\s*['\"]?(?:bearer|basic)\s+[\w.=-]{16,}",
    "a password in an address": r"\b[a-z][a-z0-9+.-]*://[^\s/:@'\"{}<>]+:[^\s/@'\"{}<>]+@",
    "a folder of a machine": r"(?<![\w.~<})/])/(?:(?:work|root)\b(?!\.)|(?:Users|home|mnt)/[\w.-]+/|"
                             r"private/(?:var|tmp)\b)|\b[A-Za-z]:\\+Users\\+\w",
    "a file by its address": r"\bfile:" r"//[/\w]",
    "an address of a private net": r"(?<![\d.])(?<!==)(?:10(?:\.\d{1,3}){3}|192\.168(?:\.\d{1,3}){2}|"
                                   r"172\.(?:1[6-9]|2\d|3[01])(?:\.\d{1,3}){2})(?![\d.])",
}


def of_this_machine() -> dict[str, str]:
    """What is known of the machine that runs the tests; words that are too common to mean it are left out."""
    known = {"the clone's folder": str(ROOT), "the home folder": f"{Path.home()}/",
             "the folder of temporary files": f"{Path(tempfile.gettempdir()).resolve()}/pytest-of-"}
    user, host = os.environ.get("USER") or os.environ.get("LOGNAME") or "", socket.gethostname()
    known |= {"the user's name": f"{user}@"} if user else {}  # alone it may be any word, as `laptop` may be a host
    known |= {"the host's name": host} if len(host) >= 8 and re.search(r"[\d.-]", host) else {}
    known |= {f"the value of {name}": value for name, value in os.environ.items()
              if re.search(r"TOKEN|SECRET|PASSWORD|API_?KEY", name) and len(value) >= 16}
    return {what: text for what, text in known.items() if len(text) >= 6 and text != "localhost"}


def leaks(text: str) -> list[str]:
    """The kinds of thing found, never the thing itself."""
    found = [what for what, pattern in PATTERNS.items() if re.search(pattern, text)]
    return found + [what for what, known in of_this_machine().items() if known in text]


def leaks_below(folder: Path) -> list[str]:
    """`file: kind` for all that lies below a folder; binary files are searched byte by byte, as Latin-1."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [f"{path.relative_to(folder)}: {what}" for path in files for what in leaks(path.read_text("latin-1"))]


if __name__ == "__main__":  # make book asks so about the pages that it built
    sys.exit("\n".join(found for folder in sys.argv[1:] for found in leaks_below(Path(folder))) or 0)
