"""What is asked of a model before it is used: that it is the one named, has no adapter, and knows its tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch


class ModelError(RuntimeError):
    """A model cannot be loaded or registered here; the message says what to do."""


class FrozenWeightsError(RuntimeError):
    """Weights that had to stay as they were have changed."""


def weights_hash(weights: Mapping[str, torch.Tensor]) -> str:
    """First 12 hex digits of the SHA-256 over names, dtypes, shapes and bytes of all weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:12]


def refuse_unfit(name: str, model: Any, tokenizer: Any) -> None:
    """Raise ModelError for a model with an adapter, or a tokenizer whose tokens it does not embed."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    if hasattr(model, "peft_config") or any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise ModelError(f"{name} carries an adapter, and a base has none: merge it first (model.merge_and_unload()), "
                         "or take it off (model.unload())")
    rows = model.get_input_embeddings().num_embeddings
    vocabulary = tokenizer.get_vocab()
    no_text = {getattr(tokenizer, f"{kind}_token", None) for kind in ("image", "audio", "video")}
    beyond = sorted(token for token, number in vocabulary.items() if number >= rows and token not in no_text)
    if beyond:
        raise ModelError(f"{name}: the tokenizer has {len(beyond)} tokens that the model does not know, since it "
                         f"embeds {rows}: {', '.join(map(repr, beyond[:5]))}; call model.resize_token_embeddings("
                         f"{max(vocabulary.values()) + 1}), or take a tokenizer without them")


def refuse_another_tokenizer(name: str, given: Any, loaded: Any) -> None:
    """Raise ModelError unless `loaded`, from where `given` was saved, makes the same of text.

    Some classes of tokenizer build themselves anew when loaded, without what was changed in the one given.
    """
    def traits(tokenizer: Any) -> dict[str, Any]:
        sample = "".join(map(str, tokenizer.all_special_tokens)) + " A b\n\n c: naïve 12 345 " * 2
        return {"its tokens": [tokenizer(text)["input_ids"] for text in ("", "a", sample)],
                "its special tokens": [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id],
                "its chat template": tokenizer.chat_template}

    before, after = traits(given), traits(loaded)
    lost = [what for what in before if before[what] != after[what]]
    if lost:
        raise ModelError(f"{name}: the tokenizer does not come back from save_pretrained as it was ({', '.join(lost)} "
                         "differ): give PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, …) with "
                         "the same special tokens and chat template")


def refuse_changed(before: str, after: str) -> None:
    """Raise FrozenWeightsError unless two hashes of the base are equal."""
    if before != after:
        raise FrozenWeightsError(f"the base's weights changed during training ({before} before, {after} after): its "
                                 "adapters were measured over another base than they will be used with; report this, "
                                 "with the spec")
