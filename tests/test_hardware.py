import re

import pytest

from lorakit.theory.hardware import GPU, GPUS, UnknownGPUError, find_gpu


@pytest.mark.parametrize(("written", "meant"), [
    ("H100", "H100"), ("NVIDIA H100 80GB HBM3", "H100"), ("h200", "H200"), ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
    ("rtx4090", "RTX 4090"), ("NVIDIA GeForce RTX 4090", "RTX 4090"), ("Tesla T4", "T4"), ("NVIDIA L40S", "L40S"),
    ("NVIDIA A100-SXM4-40GB", "A100 40GB"), ("NVIDIA A100-PCIE-40GB", "A100 40GB"), ("a100 40 gb", "A100 40GB"),
    ("NVIDIA A100 80GB PCIe", "A100 80GB PCIe"), ("NVIDIA H100 PCIe", "H100 PCIe"), ("NVIDIA A10", "A10"),
    ("NVIDIA RTX A6000", "RTX A6000"), ("NVIDIA H200", "H200"), ("NVIDIA L4", "L4"),
])
def test_a_card_is_found_as_people_and_the_driver_write_it(written, meant):
    assert find_gpu(written) is GPUS[meant]


@pytest.mark.parametrize("name", [
    "NVIDIA H100 NVL", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA GeForce RTX 4090 Laptop GPU", "RTX 4090 D",
    "NVIDIA GH200 480GB", "H100 96GB", "NVIDIA L40", "NVIDIA A10G", "RTX 4090 48GB", "A100X", "Tesla V100-SXM2-16GB",
    "NVIDIA", "", "2x H100", "NVIDIA RTX 6000 Ada Generation", "NVIDIA RTX A5000", "AMD Instinct MI300X",
])
def test_a_word_that_may_make_it_another_card_is_not_passed_over(name):
    with pytest.raises(UnknownGPUError, match="known: B200"):
        find_gpu(name)


def test_a_name_of_two_cards_is_neither():
    with pytest.raises(UnknownGPUError, match="did you mean 'A100 80GB' or 'A100 80GB PCIe' or 'A100 40GB'"):
        find_gpu("NVIDIA A100")


def test_your_own_gpu_is_taken_as_it_is():
    mine = GPU("mine", 1e14, 1e13, 1e12, 1e10)
    assert find_gpu(mine) is mine


def test_an_unknown_gpu_suggests_near_ones():
    with pytest.raises(UnknownGPUError, match=r"unknown GPU 'H1000'; did you mean 'H100'.*known: B200"):
        find_gpu("H1000")
    with pytest.raises(KeyError, match=r"unknown GPU 'abacus'; known: .*pass lorakit.theory.hardware.GPU\("):
        find_gpu("abacus")


def test_every_price_has_a_list_and_a_day():
    for gpu in GPUS.values():
        assert (gpu.price_per_hour is None) == (gpu.price_source is None)
        assert gpu.price_source is None or re.search(r", 20\d\d-\d\d-\d\d$", gpu.price_source)


def test_rates_are_dense_and_in_plain_units():
    for gpu in GPUS.values():
        assert 5e13 < gpu.flops < 5e15  # FLOP/s
        assert gpu.flops > 1.9 * gpu.flops_float32
        assert 1e11 < gpu.bytes_per_second < 1e13
        assert 1e10 < gpu.bytes < 3e11
    assert GPUS["H100"].flops == GPUS["H200"].flops
