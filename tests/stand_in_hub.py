"""A folder that answers as the Hugging Face Hub does: repositories, commits, patterns."""

from __future__ import annotations

import fnmatch
import inspect
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub

REAL = huggingface_hub.HfApi


def install(monkeypatch, root: Path) -> SimpleNamespace:
    """Put it in the place of `HfApi`; its methods take no argument that the real ones do not."""
    state = SimpleNamespace(root=root, private={}, commits=0)

    class FakeApi:
        def __init__(self, token=None):
            pass

        def create_repo(self, repo_id, *, private=None, exist_ok=False):
            assert exist_ok
            state.private.setdefault(repo_id, private)
            (state.root / repo_id).mkdir(parents=True, exist_ok=True)
            return f"https://hub.example/{repo_id}"

        def repo_info(self, repo_id):
            return SimpleNamespace(private=state.private[repo_id], sha=str(state.commits))

        def snapshot_download(self, repo_id, *, revision=None, local_dir=None, allow_patterns=None):
            for path in (state.root / repo_id).rglob("*"):
                name = path.relative_to(state.root / repo_id).as_posix()
                if path.is_file() and any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns):
                    (Path(local_dir) / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, Path(local_dir) / name)
            return str(local_dir)

        def upload_folder(self, *, repo_id, folder_path, path_in_repo="", parent_commit=None, allow_patterns=("*",),
                          commit_message=None):
            assert parent_commit in (None, str(state.commits)), "somebody else pushed"
            for path in Path(folder_path).rglob("*"):
                name = path.relative_to(folder_path).as_posix()
                if path.is_file() and any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns):
                    target = state.root / repo_id / path_in_repo / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, target)
            state.commits += 1

    for name in ("create_repo", "repo_info", "snapshot_download", "upload_folder"):
        known = inspect.signature(getattr(REAL, name)).parameters
        assert set(inspect.signature(getattr(FakeApi, name)).parameters) <= set(known), name
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    return state
