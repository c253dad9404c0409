"""A vLLM server of its own GPU (or machine) as the sampler: whether it can sample what a spec asks for."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from lorakit.grpo_spec import GRPOSpec

ADDRESS = re.compile(r"(https?://)?([^\s/:]+:\d{1,5})/?")
SECONDS_TO_ANSWER = 600.0  # what takes longest is to load a base anew
PROMPTS, LONGEST = 4, 256  # on which server and base are compared, and their tokens
LARGEST_GAP = {"float32": 0.01, "bfloat16": 0.2}  # mean over tokens, in nats, of log-probabilities of one base


class ServerError(ConnectionError):
    """No vLLM server answers at an address."""


class ServedModelError(ValueError):
    """A vLLM server cannot sample what a spec asks for: its settings, or the model that it serves."""


class Server:
    """A vLLM server that TRL's trainer gives its weights to and samples from. It serves one run at a time.

    Weights travel as TRL sends them, by NCCL from GPU to GPU; on a CPU, and to a server without
    `--weight-transfer-config`, through a folder that both see.

    Args:
        address: `HOST:PORT`, or `http://HOST:PORT`.

    Raises:
        ValueError: no address.
    """

    root = ""  # the folder or hub id of the weights that it was started with
    by_files = False  # whether weights go through a folder

    def __init__(self, address: str) -> None:
        found = ADDRESS.fullmatch(address) if isinstance(address, str) else None
        if found is None:
            raise ValueError(f"vllm_server={address!r}; allowed: HOST:PORT or http://HOST:PORT, of a server that "
                             "`vllm serve` started")
        self.url = (found[1] or "http://") + found[2]

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The answer to a request, as JSON.

        Raises:
            ServerError: nobody answers.
            ServedModelError: it refuses, or is no vLLM server.
        """
        data = None if body is None else json.dumps(body).encode()
        try:
            with urlopen(Request(self.url + path, data, {"Content-Type": "application/json"}),
                         timeout=SECONDS_TO_ANSWER) as answer:
                text = answer.read()
        except HTTPError as error:
            raise ServedModelError(f"the server at {self.url} does not do what {path} asks for ({error.code} "
                                   f"{error.reason}: {error.read().decode(errors='replace')[:300]})") from None
        except (OSError, HTTPException) as error:
            raise ServerError(f"no vLLM server answers at {self.url} ({getattr(error, 'reason', error)}): start it "
                              "there, wait until it has loaded its model, or give its HOST:PORT") from None
        try:
            return json.loads(text or "null")
        except ValueError:
            raise ServedModelError(f"what answers at {self.url} is no vLLM server: {path} gave "
                                   f"{text[:60].decode(errors='replace')!r}") from None

    def settings(self, spec: GRPOSpec) -> dict[str, Any]:
        """The server's configuration, where its settings are those that a spec needs.

        Raises:
            ServedModelError: they are not; the message has the command that starts the right one.
            ServerError: nobody answers.
        """
        start = f"start it with\n{command(spec)}"
        try:
            self.root = str(self.ask("/v1/models")["data"][0]["root"])
        except (KeyError, IndexError, TypeError):
            raise ServedModelError(f"what answers at {self.url} is no vLLM server; {start}") from None
        try:
            found: dict[str, Any] = self.ask("/server_info?config_format=json")["vllm_config"]
        except ServedModelError:
            raise ServedModelError(f"the vLLM server at {self.url} keeps its development endpoints closed, and weights "
                                   f"are sent through them; {start}") from None
        model = found["model_config"]
        dtype, mode = str(model["dtype"]).removeprefix("torch."), model["logprobs_mode"]
        if dtype != spec.dtype:
            raise ServedModelError(f"the vLLM server at {self.url} computes in {dtype}, the spec in {spec.dtype}; "
                                   f"{start}")
        if mode != "processed_logprobs":
            raise ServedModelError(f"the vLLM server at {self.url} gives {mode}, and the probabilities that were drawn "
                                   f"from are needed; {start}")
        return found

    def prepare(self, spec: GRPOSpec, model: Any, prompts: Sequence[Sequence[int]]) -> None:
        """Take back what an earlier run left on the server, and see that it answers as the base does.

        Args:
            model: the base, in the spec's dtype.
            prompts: token ids.

        Raises:
            ServedModelError: its settings are not the spec's, or it serves another model.
            ServerError: nobody answers.
        """
        found = self.settings(spec)
        self.by_files = model.device.type == "cpu" or not found.get("weight_transfer_config")
        room, longest = found["model_config"]["max_model_len"], max(map(len, prompts)) + spec.max_completion_length
        if longest > room:
            raise ServedModelError(f"the vLLM server at {self.url} holds {room} tokens of a prompt and its completion, "
                                   f"and they may have {longest}: start it with --max-model-len {longest} or more")
        self.load(self.root if self.by_files else None)
        gap = self._gap(model, [list(prompt[:LONGEST]) for prompt in prompts if len(prompt) > 1][:PROMPTS])
        if not gap <= LARGEST_GAP[spec.dtype]:
            raise ServedModelError(f"the vLLM server at {self.url} serves another model than {spec.model} ({self.root})"
                                   f": log-probabilities of prompts differ by {gap:.3g} nats a token; start it with\n"
                                   f"{command(spec)}")

    def _gap(self, model: Any, prompts: list[list[int]]) -> float:
        """The mean difference of the server's log-probabilities of prompts to the base's, in nats a token."""
        import torch

        if not prompts:
            return 0.0
        asked = {"model": self.ask("/v1/models")["data"][0]["id"], "prompt": prompts, "max_tokens": 1,
                 "temperature": 1.0, "prompt_logprobs": 0}
        try:
            choices = self.ask("/v1/completions", asked)["choices"]
        except ServedModelError:  # tokens that its vocabulary lacks
            return float("inf")
        gaps: list[float] = []
        for prompt, choice in zip(prompts, choices, strict=True):
            with torch.no_grad():
                ids = torch.tensor([prompt], device=model.device)
                ours = model(ids).logits[0, :-1].float().log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0].tolist()
            theirs = [place[str(token)]["logprob"]
                      for token, place in zip(prompt[1:], choice["prompt_logprobs"][1:], strict=True)]
            gaps += [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
        return sum(gaps) / len(gaps) if gaps else 0.0

    def load(self, folder: str | None) -> None:
        """Have the server read weights from a folder that it sees; None: those that it was started with."""
        self.ask("/collective_rpc", {"method": "reload_weights",
                                     "kwargs": {} if folder is None else {"weights_path": folder}})
        self.ask("/reset_prefix_cache", {})

    @contextmanager
    def joined(self) -> Iterator[None]:
        """While TRL's trainer is made: let it open a way for weights only where they take that one.

        Raises:
            ServedModelError: the server is another vLLM than the one here, whose protocol TRL speaks.
        """
        from trl.generation.vllm_client import VLLMClient

        here, there = (version.partition("+")[0]
                       for version in (sys.modules["vllm"].__version__, self.ask("/version")["version"]))
        if here != there:
            raise ServedModelError(f"the server at {self.url} is vLLM {there}, and {here} is installed here: install "
                                   "one version on both sides")
        join = VLLMClient.init_communicator
        if self.by_files:
            VLLMClient.init_communicator = lambda client, device=0: None
        try:
            yield
        finally:
            VLLMClient.init_communicator = join

    def give_weights_to(self, generation: Any, folder: str) -> None:
        """Have TRL's `VLLMGeneration` write its weights into a folder for the server, where none go by NCCL."""
        from safetensors.torch import save_file

        def sync_weights() -> None:
            weights = {name: value.detach().clone() for name, value in generation._iter_named_params()}
            save_file(weights, Path(folder) / "model.safetensors")
            self.load(folder)

        if self.by_files:
            Path(folder).mkdir(exist_ok=True)
            generation.sync_weights = sync_weights

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Say in words that the server was lost in the middle of a run."""
        from requests.exceptions import RequestException

        try:
            yield
        except RequestException as error:
            raise ServerError(f"the vLLM server at {self.url} was lost ({type(error).__name__})") from error


def command(spec: GRPOSpec, gpu: int = 1) -> str:
    """What starts the server that a spec needs, on a GPU of its own."""
    name, _, pin = spec.model.partition("@")
    base = f"{name} --revision {pin}" if "/" in name else "FOLDER"
    return (f"VLLM_SERVER_DEV_MODE=1 CUDA_VISIBLE_DEVICES={gpu} vllm serve {base} --dtype {spec.dtype} "
            "--logprobs-mode processed_logprobs --max-logprobs -1 --weight-transfer-config '{\"backend\": \"nccl\"}'"
            + ("" if "/" in name else f"\nwith FOLDER, where model and tokenizer of lorakit.load_model({spec.model!r}) "
                                      "were written by save_pretrained"))
