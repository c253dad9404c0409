"""The model card of an export: base, how to load it, what was asked, what came out, and with what it was made."""

from __future__ import annotations

import dataclasses
from typing import Any

from lorakit import sources
from lorakit.grpo_spec import GRPOSpec
from lorakit.markdown import cell, front_matter, table
from lorakit.records import Record
from lorakit.specs import SFTSpec

LOADING = {
    "public": "from peft import AutoPeftModelForCausalLM\n\nmodel = AutoPeftModelForCausalLM.from_pretrained(folder)",
    "embedded": "import lorakit\nfrom peft import PeftModel\n\n"
                'model = PeftModel.from_pretrained(lorakit.load_model("{name}")[0], folder)',
    "own": "from peft import PeftModel\n\nmodel = PeftModel.from_pretrained(base, folder)  # base: that very model",
    "full": "from transformers import AutoModelForCausalLM\n\nmodel = AutoModelForCausalLM.from_pretrained(folder)",
}


def public_name(model: str) -> tuple[str | None, str | None]:
    """Repository and commit on the hub of a spec's model; (None, None) for one that the hub does not have.

    >>> public_name("org/name@0123abc"), public_name("tiny@7f2ba01c94ab")
    (('org/name', '0123abc'), (None, None))
    """
    name, _, pin = model.partition("@")
    return (name, pin) if "/" in name else (None, None)


def model_card(spec: SFTSpec | GRPOSpec, record: Record | None = None) -> str:
    """The text of an export's `README.md`, as the hub reads it; names, numbers and versions alone, no folder.

    Args:
        spec: what was run.
        record: of the run, for its losses, versions and device; without it the card says what was asked alone.
    """
    repository, _ = public_name(spec.model)
    method = "full fine-tuning" if spec.lora is None else f"LoRA of rank {spec.lora.rank}"
    kind = ("full" if spec.lora is None else "public" if repository else
            "embedded" if spec.model.partition("@")[0] in sources.embedded() else "own")
    head: dict[str, Any] = {"library_name": "transformers" if kind == "full" else "peft",
                            "pipeline_tag": "text-generation", "tags": ["lorakit"] + ["lora"] * (kind != "full")}
    if repository:
        head |= {"base_model": repository, "base_model_relation": "finetune" if kind == "full" else "adapter"}
    parts = [
        front_matter(head),
        f"# Run {spec.id}: {method} of {cell(spec.model)}",
        f"{method[0].upper()}{method[1:]} with lorakit, by {'reinforcement' if spec.kind == 'grpo' else 'supervised'} "
        f"learning. The base is {cell(spec.model)}"
        f"{', a model without a public name' if kind == 'own' else ''}. The tokenizer of the run lies beside the "
        "weights.",
        f"```python\n{LOADING[kind].format(name=spec.model)}\n```",
        "## What was asked\n\n" + table(["field", "value"], _asked(spec)),
    ]
    if record is not None:
        parts += [f"## What came out\n\nStatus: {cell(record.status)}. Losses are nats per label token.\n\n"
                  + table(["measure", "value"], sorted(record.metrics.items())),
                  "## How it was made\n\n" + table(["what", "value"], record.provenance.items())]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _asked(spec: SFTSpec | GRPOSpec) -> list[tuple[str, Any]]:
    fields = dataclasses.asdict(spec)
    lora = fields.pop("lora") or {}
    return [*fields.items(), *((f"lora.{name}", value) for name, value in lora.items())]
