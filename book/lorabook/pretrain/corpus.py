"""Text that the embedded models are pre-trained on: documentation and code of two pinned packages.

The sources are the source distributions of Django 5.2 (BSD-3-Clause) and SQLAlchemy 2.0.40 (MIT), taken from the
package index by version and checked by hash, so the corpus is the same wherever and whenever it is made.

    python book/lorabook/pretrain/corpus.py .cache/corpus        # writes english.txt and code.txt
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
from pathlib import Path

SOURCES = {
    "django==5.2": "1a47f7a7a3d43ce64570d350e008d2949abe8c7e21737b351b6a1611277c6d89",
    "sqlalchemy==2.0.40": "d827099289c64589418ebbcaead0145cd19f4e3e8a93919a0100247af245fa00",
}


def download(requirement: str, sha256: str, folder: Path) -> Path:
    """The source distribution of `requirement`, downloaded once and checked against `sha256`."""
    folder.mkdir(parents=True, exist_ok=True)
    name, version = requirement.split("==")
    found = [p for p in folder.glob("*.tar.gz") if p.name.lower() == f"{name}-{version}.tar.gz"]
    if not found:
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:",
                        "--no-build-isolation", "-d", str(folder), requirement], check=True)
        found = [p for p in folder.glob("*.tar.gz") if p.name.lower() == f"{name}-{version}.tar.gz"]
    digest = hashlib.sha256(found[0].read_bytes()).hexdigest()
    if digest != sha256:
        raise ValueError(f"{found[0].name} has sha256 {digest}, expected {sha256}; delete it and try again")
    return found[0]


def texts(archive: Path) -> dict[str, list[str]]:
    """English (documentation) and code (Python outside tests) of a source archive, in the order of file names."""
    english, code = [], []
    with tarfile.open(archive) as tar:
        for member in sorted(tar.getmembers(), key=lambda m: m.name):
            path = member.name
            if not member.isfile() or "/test" in path or "changelog" in path:
                continue
            is_english = "/doc" in path and path.endswith((".txt", ".rst"))
            if is_english or path.endswith(".py"):
                handle = tar.extractfile(member)
                text = handle.read().decode("utf-8", errors="ignore") if handle else ""
                (english if is_english else code).append(text)
    return {"english": english, "code": code}


def build(folder: Path) -> dict[str, bytes]:
    """English and code as bytes, documents separated by the end-of-text byte 255; written to `folder` once."""
    out: dict[str, list[str]] = {"english": [], "code": []}
    if all((folder / f"{kind}.txt").exists() for kind in out):
        return {kind: (folder / f"{kind}.txt").read_bytes() for kind in out}
    for requirement, sha256 in SOURCES.items():
        for kind, documents in texts(download(requirement, sha256, folder / "sources")).items():
            out[kind] += documents
    joined = {kind: b"\xff".join(t.encode() for t in documents) for kind, documents in out.items()}
    for kind, data in joined.items():
        (folder / f"{kind}.txt").write_bytes(data)
    return joined


if __name__ == "__main__":
    for kind, data in build(Path(sys.argv[1])).items():
        print(f"{kind}: {len(data):,} bytes, sha256 {hashlib.sha256(data).hexdigest()}")
