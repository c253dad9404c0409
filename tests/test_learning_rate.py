import math

import pytest

from lorakit.theory.configs import ConfigError
from lorakit.theory.learning_rate import CONVENTIONS, LearningRateError, recommend_learning_rate, translate
from lorakit.theory.shapes import ModelShape

TWIN_STEPS = 10


def twins(settings, epsilons, **fields):
    """Final test losses in float64 of LoRA at several settings: (alpha, init_A factor, LR_A, LR_B / LR_A)."""
    pytest.importorskip("torch")
    from plain_training import data, spec, tiny
    from torch import float64

    from lorakit.packed.engine import train_pack

    losses = []
    for (alpha, start, rate, ratio), epsilon in zip(settings, epsilons, strict=True):
        lora = {"alpha": alpha, "init_a_scale": start, "learning_rate_b_ratio": ratio}
        one = spec(rate, lora=lora, dtype="float64", steps=TWIN_STEPS, evaluations=2, epsilon=epsilon, **fields)
        losses.append(train_pack([one], tiny(dtype=float64), data())[0].metrics["test_loss"])
    return losses


@pytest.mark.slow
@pytest.mark.parametrize(("p", "q"), [(4, 1), (1, 1 / 16), (3, 1 / 7)])
def test_the_invariance_is_exact_without_epsilon_and_not_with_it(p, q):
    settings = [(32, 1, 3e-3, 1), (32 / (p * q), p, 3e-3 * p, q / p)]
    base, twin = twins(settings, [1e-30, 1e-30])
    assert base == pytest.approx(twin, abs=1e-9)
    base, twin = twins(settings, [1e-4, 1e-4])
    assert abs(base - twin) > 1e-6, "a large epsilon is felt"


@pytest.mark.slow
def test_one_epsilon_can_follow_only_a_common_factor():
    base, follows, stays = twins([(32, 1, 3e-3, 1), (2, 4, 12e-3, 1), (2, 4, 12e-3, 1)], [1e-4, 1e-4 / 4, 1e-4])
    assert base == pytest.approx(follows, abs=1e-9)
    assert abs(base - stays) > 1e-6


@pytest.mark.slow
def test_weight_decay_breaks_the_invariance():
    base, twin = twins([(32, 1, 3e-3, 1), (512, 1, 3e-3, 1 / 16)], [1e-30, 1e-30], weight_decay=0.1)
    assert abs(base - twin) > 1e-6


def plain(framework, translation, rank):
    """The setting in the words of a LoRASpec: alpha over the rank, A's start, LR_A, LR_B / LR_A."""
    power = CONVENTIONS[framework].rank_power
    return (translation.alpha * rank ** (1 - power), 1, translation.learning_rate, translation.learning_rate_b_ratio)


@pytest.mark.parametrize(("framework", "to"), [("rslora", "peft"), ("lora+", "peft"), ("peft", "lora+"),
                                               ("tinker", "rslora"), ("lora+", "rslora")])
def test_an_exact_translation_trains_the_same(framework, to):
    alpha = None if framework == "tinker" else 12
    here = translate(framework, to=framework, rank=4, alpha=alpha, learning_rate=2e-3)
    there = translate(framework, to=to, rank=4, alpha=alpha, learning_rate=2e-3)
    assert here.lost is there.lost is None
    first, second = twins([plain(framework, here, 4), plain(to, there, 4)], [1e-30, 1e-30])
    assert first == pytest.approx(second, abs=1e-9)


def test_a_translation_there_and_back_is_the_setting_itself():
    there = translate("peft", to="lora+", rank=8, alpha=16, learning_rate=2e-4)
    back = translate("lora+", to="peft", rank=8, alpha=there.alpha, learning_rate=there.learning_rate)
    assert (back.alpha, back.learning_rate, back.learning_rate_b_ratio) == (pytest.approx(16), 2e-4, 1)


def test_a_scaled_start_of_a_becomes_a_learning_rate_and_an_alpha():
    there = translate("peft", to="peft", rank=4, alpha=32, learning_rate=2e-3, init_a_scale=3)
    first, second = twins([(32, 3, 2e-3, 1), plain("peft", there, 4)], [1e-30, 1e-30])
    assert first == pytest.approx(second, abs=1e-9)
    assert there.learning_rate == pytest.approx(2e-3 / 3)


def test_a_framework_that_fixes_alpha_keeps_one_of_the_two():
    there = translate("unsloth", to="tinker", rank=128, alpha=256, learning_rate=1e-4)
    assert there.alpha == 32
    assert there.slopes_agree_at == pytest.approx(8e-4)
    assert there.departures_agree_at == pytest.approx(1e-4)
    assert there.learning_rate == pytest.approx(math.sqrt(8) * 1e-4)
    assert "one degree of freedom is lost" in there.lost
    assert translate("unsloth", to="tinker", rank=16, alpha=32, learning_rate=1e-4).lost is None


@pytest.mark.parametrize(("change", "message"), [
    ({"framework": "verl"}, "allowed: peft, trl"), ({"to": "PEFT"}, "allowed: peft"), ({"alpha": None}, "leaves alpha"),
    ({"alpha": -1}, "alpha=-1"), ({"rank": 0}, "rank=0"), ({"learning_rate": math.inf}, "learning_rate=inf"),
    ({"framework": "tinker", "alpha": 64}, "tinker fixes it"), ({"init_a_scale": 0}, "init_a_scale=0"),
])
def test_a_setting_that_means_nothing_is_refused(change, message):
    setting = {"framework": "peft", "to": "tinker", "rank": 8, "alpha": 16, "learning_rate": 1e-4} | change
    with pytest.raises(LearningRateError, match=message):
        translate(setting.pop("framework"), **setting)


def test_the_recommendation_by_hand():
    qwen = recommend_learning_rate("qwen3-8b", 64)
    assert qwen.learning_rate == pytest.approx(4.5e-4 * (2000 / 4096) ** 0.35 * 4**0.2)
    full = recommend_learning_rate({"model_type": "llama", "hidden_size": 2000}, None)
    assert full.learning_rate == pytest.approx(4.5e-5)
    assert qwen.sweep[2] / qwen.sweep[0] == pytest.approx(10)
    assert "(2000 / 4096)^0.35" in qwen.reason
    assert "(64 / 16)^0.2 for the rank" in qwen.reason
    assert "no term for the batch" in qwen.caveat


@pytest.mark.parametrize("model", [
    {"model_type": "gpt2", "n_embd": 768}, {"model_type": "gemma2", "hidden_size": 2304}, {"hidden_size": 1024},
    {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "hidden_size": 2560}}, "phi-4"])
def test_a_family_of_no_fit_gets_a_rate_a_wider_sweep_and_a_word(model):
    for rank in (None, 16):
        found = recommend_learning_rate(model, rank)
        assert found.sweep[2] / found.sweep[0] == pytest.approx(25)
        assert "was in the fit, so the sweep is wider" in found.caveat
    assert recommend_learning_rate("gpt-oss-20b", 16).sweep[2] / recommend_learning_rate(
        "gpt-oss-20b", 16).sweep[0] == pytest.approx(10)


def test_a_shape_and_its_name_ask_for_the_same():
    assert recommend_learning_rate(ModelShape.of("qwen3-8b"), 4) == recommend_learning_rate("qwen3-8b", 4)


def test_a_larger_alpha_asks_for_less_a_larger_rank_for_more_and_a_longer_run_of_a_small_model_for_less():
    at = recommend_learning_rate("llama-3.2-1b", 32).learning_rate
    assert recommend_learning_rate("llama-3.2-1b", 32, alpha=64).learning_rate == pytest.approx(at / 2**0.4)
    assert recommend_learning_rate("llama-3.2-1b", 1).learning_rate == pytest.approx(at / 32**0.2)
    assert recommend_learning_rate("tiny", 1) == recommend_learning_rate("tiny", 64)
    for rank, power in ((None, 0.6), (4, 0.45)):
        rates = [recommend_learning_rate("tiny", rank, steps=steps).learning_rate for steps in (100, 1000)]
        assert rates[0] / rates[1] == pytest.approx(10**power)


@pytest.mark.parametrize("rank", [None, 32])
def test_the_length_that_was_measured_on_a_small_model_counts_for_small_models_alone(rank):
    rates = {steps: recommend_learning_rate("smollm2-135m", rank, steps=steps) for steps in (100, 1000, 4000)}
    assert len({rate.learning_rate for rate in rates.values()}) == 1
    assert "length" not in rates[100].reason


def test_a_small_model_gets_the_smaller_ratio_that_was_measured_on_one():
    ratios = {width: recommend_learning_rate({"model_type": "llama", "hidden_size": width}, 16).learning_rate
              / recommend_learning_rate({"model_type": "llama", "hidden_size": width}, None).learning_rate
              for width in (128, 511, 512, 4096)}
    assert ratios == pytest.approx({128: 3, 511: 3, 512: 10, 4096: 10})


@pytest.mark.parametrize(("arguments", "message"), [
    (("llama-3.2-1b", 0), "rank=0"),
    (("llama-3.2-1b", 8, -1), "alpha=-1"), (("llama-3.2-1b", 8, 32, 0), "steps=0"),
])
def test_a_recommendation_without_ground_is_refused(arguments, message):
    with pytest.raises(LearningRateError, match=message):
        recommend_learning_rate(*arguments)


@pytest.mark.parametrize("model", [{"model_type": "llama"}, {}, 3])
def test_a_config_without_a_width_is_refused(model):
    with pytest.raises(ConfigError, match=r"lacks 'hidden_size'|not a config"):
        recommend_learning_rate(model, 8)


def test_rates_by_reward_are_a_fifth_and_the_ranks_alike():
    supervised = recommend_learning_rate("qwen3-1.7b", 16).learning_rate
    paid = [recommend_learning_rate("qwen3-1.7b", rank, task="rl").learning_rate for rank in (1, 16, 256)]
    assert paid == [pytest.approx(supervised / 5)] * 3
    assert paid[0] == pytest.approx(9e-5, rel=0.05), "the best rate of rank 16 that others measured on this base"
    full = recommend_learning_rate("qwen3-1.7b", None, task="rl").learning_rate
    assert full == pytest.approx(2e-5, rel=0.15)
    with pytest.raises(LearningRateError, match="task='dpo'; allowed: sft or rl"):
        recommend_learning_rate("qwen3-1.7b", 16, task="dpo")


def test_rates_and_translations_say_themselves_in_words():
    assert str(recommend_learning_rate("qwen3-4b", 16)).startswith("4.1e-4; sweep 1.3e-4, 4.1e-4, 1.3e-3\nfrom ")
    there = {name: str(translate("unsloth", to=name, rank=64, alpha=128, learning_rate=2e-4))
             for name in ("lora+", "tinker")}
    assert there["lora+"] == "lora+: alpha 8, learning rate 2.0e-4, rate of B over that of A 16\nlost: nothing"
    assert there["tinker"].startswith("tinker: alpha 32, learning rate 4.0e-4\nlost: tinker fixes alpha at 32")
