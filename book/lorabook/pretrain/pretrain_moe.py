"""Pre-train the embedded mixture-of-experts base: Qwen3-MoE architecture, the bytes and the rate rule of `pretrain.py`.

    python book/lorabook/pretrain/pretrain_moe.py            # about a quarter of an hour on one core

Width 64, two layers, eight experts of width 64 of which two are active, so that a token meets the matrices of the dense
`tiny-w64`: two experts of 64 beside one feed-forward of 128. The load-balancing loss (weight 0.01) is on in
pre-training only; fine-tuning sees the log loss alone, as Qwen3's own configuration has it.
"""

from __future__ import annotations

import torch
from pretrain import END, arguments, pretrain
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM


def config() -> Qwen3MoeConfig:
    """Two layers, two heads of 32, eight experts of width 64 with two active, 256 bytes, untied head."""
    return Qwen3MoeConfig(vocab_size=256, hidden_size=64, intermediate_size=128, moe_intermediate_size=64,
                          num_experts=8, num_experts_per_tok=2, norm_topk_prob=True, num_hidden_layers=2,
                          num_attention_heads=2, num_key_value_heads=2, head_dim=32, max_position_embeddings=512,
                          tie_word_embeddings=False, rms_norm_eps=1e-5, router_aux_loss_coef=0.01,
                          rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
                          pad_token_id=253, bos_token_id=254, eos_token_id=END)


@torch.no_grad()
def expert_shares(model: Qwen3MoeForCausalLM, rows: torch.Tensor) -> list[list[float]]:
    """Share of the routed tokens that each expert of each layer receives on `rows` (N, LENGTH); even is 1/8."""
    logits = model(input_ids=rows, output_router_logits=True).router_logits
    chosen = [layer.topk(model.config.num_experts_per_tok, dim=-1).indices.flatten() for layer in logits]
    counts = [torch.bincount(layer, minlength=model.config.num_experts) for layer in chosen]
    return [[round(share, 4) for share in (layer / layer.sum()).tolist()] for layer in counts]


def counted(model: Qwen3MoeForCausalLM, rows: torch.Tensor) -> tuple[dict, dict]:
    """The weights that a token meets, and the shares of the experts."""
    experts = sum(p.numel() for key, p in model.named_parameters() if ".experts." in key)
    parameters = sum(p.numel() for p in model.parameters())
    active = parameters - experts + experts * model.config.num_experts_per_tok // model.config.num_experts
    return {"active_parameters": active}, {"expert_shares": expert_shares(model, rows)}


def make() -> Qwen3MoeForCausalLM:
    model = Qwen3MoeForCausalLM(config())
    model.set_experts_implementation("eager")  # the fastest of the three on a CPU
    return model


def main() -> None:
    args = arguments(__doc__).parse_args()
    name = "tiny-moe" if args.seed == 0 else f"tiny-moe-s{args.seed}"
    pretrain(name, make, 64, args, counted, output_router_logits=True)


if __name__ == "__main__":
    main()
