"""Base models: the embedded byte-level family, those of other sources, your own, any causal LM of the hub."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from lorakit import sources
from lorakit.bases.model_checks import (
    ModelError,
    refuse_another_tokenizer,
    refuse_unfit,
)
from lorakit.local_models import CHECKPOINT, cache_folder, checkpoint_folder, folder_hash, model_files
from lorakit.names import UnknownNameError, check_new_name, known_names, resolve_name

PAD, BEGIN, END = 253, 254, 255  # bytes that valid UTF-8 never contains


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """The embedded models' tokenizer: one token a byte, id = byte value; no merges.

    >>> byte_tokenizer()("Ab\\n")["input_ids"]
    [65, 98, 10]
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]  # GPT-2's byte alphabet
    alphabet, spare = {}, 256
    for byte in range(256):
        alphabet[byte] = chr(byte) if byte in printable else chr(spare)
        spare += byte not in printable
    special = {PAD: "<pad>", BEGIN: "<begin>", END: "<end>"}
    vocabulary = {special.get(byte, character): byte for byte, character in alphabet.items()}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<begin>",
                                   eos_token="<end>", model_max_length=512, clean_up_tokenization_spaces=False)


def embedded_record(name: str) -> dict[str, Any]:
    """What pre-training left of an embedded model: configuration, parameters, data hash, bits per byte, accuracies.

    Raises:
        UnknownNameError: no embedded model has this name.
    """
    embedded = sources.embedded()
    if name not in embedded:
        raise UnknownNameError(f"no embedded model {name!r}; embedded: {', '.join(sorted(embedded))}")
    record: dict[str, Any] = json.loads(embedded[name].read_text(encoding="utf-8"))
    return record


def load_model(name: str, revision: str | None = None, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Load a base model and its tokenizer, checked against the content hash in the name.

    Args:
        name: an embedded model (`tiny`, `tiny-w32-s0`), one of another source, the value that `register_model`
            returned, a folder (`/models/ckpt`, `./ckpt`), or a hub id such as `HuggingFaceTB/SmolLM2-135M`.
        revision: commit of a hub id; `org/name@COMMIT` says the same.
        dtype: of the weights.

    Returns:
        (model in eval mode, tokenizer)

    Raises:
        UnknownNameError: nothing here knows the name.
        ModelError: the model is missing, or is not the one that the name pins: that is found before it is loaded.
    """
    pinned = resolve_name("models", f"{name}@{revision}" if revision and "@" not in name else name)
    short, _, pin = pinned.partition("@")
    if short in sources.embedded():
        model, tokenizer = _load_embedded(short, pin, dtype)
    elif short == CHECKPOINT:
        model, tokenizer = _load_checkpoint(pin, dtype)
    elif (load := sources.loader("models", short)) is not None:
        model, tokenizer = load(pin, dtype)
    elif "/" in short:
        model, tokenizer = _load_hub(short, pin, dtype)
    else:
        folder = cache_folder() / "models" / pin
        if not folder.exists():
            raise ModelError(f"model {pinned!r} was registered on another machine or its cache was emptied: "
                             f"call lorakit.register_model({short!r}, model, tokenizer) again")
        if (found := folder_hash(folder)) != pin:
            raise ModelError(f"model {pinned!r} was changed in the cache ({folder}): its files now hash to {found}; "
                             f"call lorakit.register_model({short!r}, model, tokenizer) again")
        model, tokenizer = load_folder(folder, dtype)
    model.config.use_cache = False
    if getattr(model.config, "attn_logit_softcapping", None) is not None:
        model.set_attn_implementation("eager")  # torch's kernel leaves the cap on attention scores out
    return model.eval(), tokenizer


def _load_embedded(name: str, pin: str, dtype: torch.dtype) -> tuple[Any, Any]:
    record = embedded_record(name)
    path = sources.embedded()[name].with_suffix(".safetensors")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest[:12] != pin:
        raise ModelError(f"{name} is pinned to {pin}, but this lorakit carries {digest[:12]}: "
                         "use the lorakit version that made the record, or run the spec anew")
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**record["config"]))
    model.load_state_dict(load_file(path))
    return model.to(dtype), byte_tokenizer()


def load_folder(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """A model and its tokenizer from a folder that `save_pretrained` wrote."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return model, _load_tokenizer(folder)


def _load_tokenizer(folder: Path) -> Any:
    """As it was saved: beside some configurations (Qwen 2) AutoTokenizer builds a class of its own in its place."""
    saved = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    plain = saved.get("tokenizer_class") in ("TokenizersBackend", "PreTrainedTokenizerFast")
    return (PreTrainedTokenizerFast if plain else AutoTokenizer).from_pretrained(folder)


def _load_checkpoint(pin: str, dtype: torch.dtype) -> tuple[Any, Any]:
    folder = checkpoint_folder(pin)
    name = f"{CHECKPOINT}@{pin}"
    again = f"name the folder that holds it once, SFTSpec(model='/its/folder', …), which gives {name} again"
    if folder is None or not folder.is_dir():
        lost = f" any more (it was {folder})" if folder else ""
        raise ModelError(f"{name} is no folder that this machine knows{lost}: {again}")
    if (found := folder_hash(folder, model_files(folder))) != pin:
        raise ModelError(f"the checkpoint in {folder} was changed: it was {name} when the spec was made and now hashes "
                         f"to {found}. Make the spec anew from the folder, or bring the old files back and {again}")
    model, tokenizer = load_folder(folder, dtype)
    refuse_unfit(str(folder), model, tokenizer)
    return model, tokenizer


def _load_hub(name: str, revision: str, dtype: torch.dtype) -> tuple[Any, Any]:
    if Path(name).exists():
        raise ModelError(f"a folder {name!r} lies here, which transformers would load in place of the hub's revision "
                         f"{revision}: run elsewhere, or register the folder's model with lorakit.register_model")
    try:
        model = AutoModelForCausalLM.from_pretrained(name, revision=revision, dtype=dtype)
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    except OSError as error:
        raise ModelError(
            f"cannot load {name} at revision {revision}: {error}. Check the id and the revision, that the hub can be "
            "reached (HF_HUB_OFFLINE unset), and that you are logged in if it is gated") from error
    refuse_unfit(f"{name}@{revision}", model, tokenizer)
    return model, tokenizer


def register_model(name: str, model: Any, tokenizer: Any) -> str:
    """Fingerprint your own model and keep a copy, so that specs can name it and workers can load it.

    Args:
        name: a short name: letters, digits, `.`, `_` and `-`.
        model: a Llama- or Qwen-type causal LM of transformers, without an adapter.
        tokenizer: its tokenizer.

    Returns:
        `name@hash`, to be used as `SFTSpec(model=…)`; the hash covers weights, configurations and tokenizer.

    Raises:
        ModelError: the model carries an adapter, its tokenizer has tokens that it does not know, or it does not come
            back as it was when it is loaded.
    """
    check_new_name(name, [*known_names()["models"], CHECKPOINT])
    refuse_unfit(name, model, tokenizer)
    models = cache_folder() / "models"
    models.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=models, suffix=".partial") as scratch:
        partial = Path(scratch, "model")
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        refuse_another_tokenizer(name, tokenizer, _load_tokenizer(partial))
        pin = folder_hash(partial)
        folder = models / pin
        if folder.exists() and folder_hash(folder) != pin:
            shutil.rmtree(folder)
        if not folder.exists():
            partial.rename(folder)
    return f"{name}@{pin}"
