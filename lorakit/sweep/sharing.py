"""Records and adapters on the Hugging Face Hub: pushed with a card, pulled without duplicates."""

from __future__ import annotations

import re
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

from lorakit import MissingExtraError
from lorakit.analysis.frames import arm_name
from lorakit.markdown import front_matter, table
from lorakit.records import Record, RecordError, Store
from lorakit.specs import read_spec

ADAPTER_FILES = ("*.safetensors", "*.json", "*.md", "*.txt", "*.jinja", "*.model")  # none that runs code when loaded
LISTED = 200  # runs in a card
ID = re.compile("[0-9a-f]{16}")


class PulledRecordsWarning(UserWarning):
    """Lines of a repository are no records, and were left out."""


def push(store: Store | str | Path, repo: str, *, adapters: str | Path | None = None, private: bool = True,
         token: str | None = None) -> str:
    """Put all records of a store, and adapters, into a model repository on the Hub.

    Records that are there already stay, also those of others; each line is there once. The card, `README.md`, lists the
    runs; one that somebody else has written stays.

    Args:
        store: of the records.
        repo: `owner/name`; made if it does not exist.
        adapters: the folder that `run(…, save_to=…)` or `export` wrote; those of recorded runs are pushed.
        private: of a new repository; with True one that is public is refused.
        token: of the Hub; None takes the one of `hf auth login` or `HF_TOKEN`.

    Returns:
        The address of the repository.

    Raises:
        ValueError: there is nothing to push, or the repository is public and `private` is True.
        MissingExtraError: huggingface_hub is not installed.
        HfHubHTTPError: the Hub refused, or somebody else pushed meanwhile: push again.
    """
    api, store = _api(token), store if isinstance(store, Store) else Store(store)
    files = {store.path(*place).relative_to(store.root): _records(store.path(*place)) for place in store.files}
    records = [record for found in files.values() for record in found]
    if not records:
        raise ValueError(f"{store.root} holds no records: run some first, or name the store that run(…, store) wrote")
    url = str(api.create_repo(repo, private=private, exist_ok=True))
    info = api.repo_info(repo)
    if private and not info.private:
        raise ValueError(f"{repo} is public, and private=True was asked for: nothing was pushed; pass private=False, "
                         "or make the repository private")
    with tempfile.TemporaryDirectory() as scratch:
        there, new = Path(scratch, "there"), Path(scratch, "new")
        api.snapshot_download(repo, revision=info.sha, local_dir=there, allow_patterns=["records/**", "README.md"])
        for name, mine in files.items():
            (new / "records" / name).parent.mkdir(parents=True, exist_ok=True)
            old = there / "records" / name
            lines = dict.fromkeys([*(record.to_line() for record in _records(old)), *(r.to_line() for r in mine)])
            (new / "records" / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        card = there / "README.md"
        if not card.exists() or "lorakit.pull(" in card.read_text(encoding="utf-8"):
            others = [record for path in there.glob("records/**/*.jsonl") for record in _records(path)]
            (new / "README.md").write_text(_card(repo, [*others, *records]), encoding="utf-8")
        api.upload_folder(repo_id=repo, folder_path=new, parent_commit=info.sha,
                          commit_message=f"{len(records)} records of lorakit")
    if adapters is not None:
        done = sorted({r.id for r in records if (Path(adapters) / r.id / "README.md").exists()})
        if done:
            api.upload_folder(repo_id=repo, folder_path=Path(adapters), path_in_repo="adapters",
                              allow_patterns=[f"{run}/{kind}" for run in done for kind in ADAPTER_FILES],
                              commit_message=f"{len(done)} adapters of lorakit")
    return url


def pull(repo: str, store: Store | str | Path = "lorakit-runs", *, adapters: str | Path | None = None,
         revision: str | None = None, token: str | None = None) -> list[Record]:
    """Get the records of a repository that `push` wrote, and merge them into a store.

    Args:
        repo: `owner/name`.
        store: gets what it lacks, each line once, in files of the same names.
        adapters: a folder that gets the adapters; those that it has already stay as they are.
        revision: a commit, branch or tag.
        token: of the Hub, as in `push`.

    Returns:
        The records that the store lacked.

    Raises:
        SchemaError: records of a newer lorakit; nothing was merged.
        MissingExtraError: huggingface_hub is not installed.

    Warns:
        PulledRecordsWarning: lines that are no records were left out.
    """
    api, store = _api(token), store if isinstance(store, Store) else Store(store)
    known = {record.to_line() for place in store.files for record in _records(store.path(*place))}
    added: dict[str, tuple[str | None, str, Record]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        wanted = ["records/*"] + ([f"adapters/{kind}" for kind in ADAPTER_FILES] if adapters is not None else [])
        api.snapshot_download(repo, revision=revision, local_dir=scratch, allow_patterns=wanted)
        for path in sorted(Path(scratch, "records").rglob("*.jsonl")):
            *folders, _ = path.relative_to(Path(scratch, "records")).parts
            place = (folders[0] if folders else None, path.stem)
            store.path(*place)  # refuses names that no store has
            for record in _records(path):
                if (line := record.to_line()) not in known:
                    added.setdefault(line, (*place, record))
        for profile, experiment, record in added.values():
            store.append(profile, experiment, record)
        for folder in Path(scratch, "adapters").glob("*") if adapters is not None else ():
            target = Path(adapters or "") / folder.name
            if ID.fullmatch(folder.name) and not target.exists():
                shutil.copytree(folder, target)
    return [record for _, _, record in added.values()]


def _api(token: str | None) -> Any:
    try:
        from huggingface_hub import HfApi
    except ModuleNotFoundError as error:
        raise MissingExtraError("the Hub needs the package huggingface_hub: run `pip install huggingface_hub`",
                                name="huggingface_hub") from error
    return HfApi(token=token)


def _records(path: Path) -> list[Record]:
    """The records of a file, all lines of it that are some."""
    found, bad = [], 0
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            found.append(Record.from_line(line))
        except RecordError as error:
            if type(error) is not RecordError:  # a newer schema
                raise
            bad += bool(line.strip())
    if bad:
        warnings.warn(f"{path.name}: {bad} lines are no records and were left out", PulledRecordsWarning, stacklevel=3)
    return found


def _card(repo: str, records: list[Record]) -> str:
    """The repository's card: how to get the records, and a line a run."""
    newest = {record.id: record for record in sorted(records, key=lambda r: str(r.provenance.get("date", "")))}
    bases = sorted({str(record.spec["model"]).partition("@")[0] for record in newest.values() if "/" in
                    str(record.spec["model"])})
    rows = []
    for record in list(newest.values())[:LISTED]:
        spec = read_spec(record.spec)
        data = record.spec.get("dataset") or record.spec.get("task")
        score = record.metrics.get("test_loss", record.metrics.get("test_accuracy"))
        rows.append([record.id, arm_name(spec.lora, spec.full_targets), spec.model, data, f"{spec.learning_rate:g}",
                     spec.seed, record.status, score])
    return "\n\n".join([
        front_matter({"library_name": "peft", "tags": ["lorakit", "lora"], **({"base_model": bases} if bases else {})}),
        f"# {len(newest)} training runs, recorded by lorakit",
        "One line of JSON a run lies under `records`: what was asked, its curve, how it ended, and where it was made. "
        "Adapters, where they were pushed, lie under `adapters`, one folder a run.",
        f"```python\nimport lorakit\n\nlorakit.pull({repo!r}, \"runs\", adapters=\"adapters\")\n```",
        table(["run", "arm", "base", "data", "learning rate", "seed", "status", "test loss (accuracy)"],
              rows),
        *([f"The first {LISTED} of them are listed."] if len(newest) > LISTED else [])]) + "\n"
