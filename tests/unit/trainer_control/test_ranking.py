"""The order of the methods, and the reasons for it: docs/hyperparameters.md."""

from collections.abc import Sequence
from dataclasses import replace

from services.trainer.control.domain.estimation.devices import Device, DeviceKind
from services.trainer.control.domain.estimation.estimates import estimate
from services.trainer.control.domain.estimation.proposal import Proposal
from services.trainer.control.domain.estimation.reading import Examples
from services.trainer.control.domain.methods import METHODS
from services.trainer.control.domain.recommendation.ranking import Recommendation, ranked
from services.trainer.control.domain.recommendation.targets import Target, servable_methods
from tests.unit.trainer_control.proposals import GIB, gpu, llama, proposal

SMALL = llama(hidden=768, inner=2048, layers=12, heads=12, key_heads=12)


def ranking(of: Proposal, target: Target = Target.LOCAL) -> Sequence[Recommendation]:
    methods = [method() for method in METHODS]
    proposals = [of.with_method(one) for one in methods]
    return ranked(proposals, [estimate(one) for one in proposals], target)


def order(of: Proposal) -> list[str]:
    return [one.estimate.method for one in ranking(of)]


def reasons(of: Proposal, method: str, target: Target = Target.LOCAL) -> str:
    (found,) = (one for one in ranking(of, target) if one.estimate.method == method)
    return " ".join(found.reasons)


def small(count: int) -> Proposal:
    return proposal(model=SMALL, examples=Examples(count, 200.0))


def test_few_examples_are_for_lora_and_full_comes_last() -> None:
    assert order(small(999)) == ["lora", "qlora", "adapter", "prefix", "full"]
    assert "999 examples are few for" in reasons(small(999), "full")


def test_more_examples_bring_full_before_the_methods_that_are_served_here_alone() -> None:
    assert order(small(1000)) == ["lora", "qlora", "full", "adapter", "prefix"]
    assert order(small(9999)) == ["lora", "qlora", "full", "adapter", "prefix"]


def test_many_examples_for_a_small_model_are_for_full() -> None:
    assert order(small(10_000))[0] == "full"
    large = proposal(examples=Examples(10_000, 200.0), device=gpu(1000))
    assert order(large)[:3] == ["lora", "qlora", "full"]


def test_what_does_not_fit_comes_behind_what_does() -> None:
    of = proposal(examples=Examples(300, 100.0))  # eight billion parameters on 80 GiB
    assert order(of)[-1] == "full"
    found = {one.estimate.method: one.estimate for one in ranking(of)}
    assert found["lora"].fits
    assert not found["full"].fits
    assert "Does not fit: needs" in reasons(of, "full")


def test_qlora_comes_before_lora_only_where_lora_can_not_be_trained() -> None:
    of = proposal(examples=Examples(300, 100.0))
    lora = estimate(of)
    in_parts = replace(of, device=gpu((lora.peak_memory.total_bytes - 1) / GIB))
    narrow = replace(of, device=gpu((lora.least_memory_bytes - 1) / GIB))
    assert order(of)[:2] == order(in_parts)[:2] == ["lora", "qlora"]
    assert "Fits in smaller parts" in reasons(in_parts, "lora")
    assert order(narrow)[0] == "qlora"
    assert "can be trained with 9.6 GiB less." in reasons(narrow, "qlora")
    assert order(narrow).index("lora") > 0


def test_where_nothing_fits_what_lacks_least_comes_first() -> None:
    found = ranking(replace(small(300), device=gpu(0.001)))
    needs = [one.estimate.least_memory_bytes for one in found]
    assert needs == sorted(needs)
    assert all(one.reasons[0].startswith("Does not fit") for one in found)


def test_reasons_have_figures() -> None:
    of = small(300)
    assert "of the parameters; the result takes" in reasons(of, "lora")
    assert "Trains 100.00% of the parameters; the result is a whole model of" in reasons(of, "full")
    assert "× as long as lora" in reasons(of, "qlora")
    assert "× as long as lora" not in reasons(of, "lora")
    slow = replace(of, device=replace(of.device, bfloat16_flops=0.0, float32_flops=0.0))
    assert "as long as" not in reasons(slow, "full")


def test_sizes_are_told_in_what_suits_them() -> None:
    assert "a whole model of 27.0 GiB" in reasons(proposal(), "full")
    assert "takes 80.0 MiB beside" in reasons(proposal(), "lora")
    cores = Device(DeviceKind.CPU, "cores", GIB)
    tiny = proposal(model=llama(64, 128, 2, 2, 2), device=cores)
    assert "takes 20.0 KiB beside" in reasons(tiny, "prefix")
    assert "saves hardly any memory here" in reasons(tiny, "qlora")


def test_what_the_target_needs_is_said() -> None:
    of = small(300)
    assert "--max-lora-rank 8 or more; its default is 16" in reasons(of, "lora", Target.VLLM)
    assert "GGUF" in reasons(of, "qlora", Target.LLAMACPP)
    assert "GGUF" not in reasons(of, "full", Target.LLAMACPP)


def test_prefixes_adapters_and_encoder_decoders_are_served_by_our_own_service_alone() -> None:
    t5 = SMALL.model_copy(update={"decoder_layer_count": 12})
    assert servable_methods(Target.LOCAL, t5) == {method().kind for method in METHODS}
    for target in (Target.VLLM, Target.OLLAMA, Target.LLAMACPP):
        assert servable_methods(target, SMALL) == {"full", "lora", "qlora"}
        assert not servable_methods(target, t5)
