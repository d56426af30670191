"""What a job would take, in closed form, and what would make it fit."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from services.common.faults import FailedPrecondition, InvalidArgument
from services.trainer.control import estimate_to_proto
from services.trainer.control.domain.drafts import Draft, Specification
from services.trainer.control.domain.estimation.architecture import checked_architecture
from services.trainer.control.domain.estimation.devices import Corrections, Device, DeviceKind
from services.trainer.control.domain.estimation.estimates import (
    EstimateCall,
    Estimates,
    TuningEstimate,
    estimate,
)
from services.trainer.control.domain.estimation.footprint import least_memory, peak_memory
from services.trainer.control.domain.estimation.parameters import parameters
from services.trainer.control.domain.estimation.reading import Examples
from services.trainer.control.domain.estimation.remedies import can_train, in_gib, what_fits
from services.trainer.control.domain.methods import METHODS
from services.trainer.control.domain.nodes import Offer
from services.trainer.control.domain.settings import Backend
from tests.contract.trainer_control.world import (
    KnownBaseModels,
    known_base_models,
    known_datasets,
    known_model_versions,
)
from tests.unit.trainer_control.proposals import GIB, gpu, llama, proposal

KINDS = [method().kind for method in METHODS]
SMALL = llama(hidden=64, inner=128, layers=2, heads=4, key_heads=2)


def test_parameters_follow_their_formulas() -> None:
    model = llama()
    hidden, inner, keys = 4096, 14_336, 1024
    assert parameters(model, proposal("full").method).trained == model.parameter_count
    lora = parameters(model, proposal("lora", rank=8).method)
    assert lora.trained == 32 * 8 * (4 * hidden + 2 * (hidden + keys) + 3 * (hidden + inner))
    dora = parameters(model, proposal("lora", rank=8, dora=True).method)
    assert dora.trained - lora.trained == 32 * (3 * hidden + 2 * keys + 2 * inner)
    some = parameters(model, proposal("qlora", rank=4, target_modules=("q_proj",)).method)
    assert some.trained == some.added == 32 * 4 * 2 * hidden
    prefix = parameters(model, proposal("prefix", prefix_length=20).method)
    assert prefix.trained == 32 * 20 * 2 * keys
    adapter = parameters(model, proposal("adapter", adapter_size=64).method)
    assert adapter.trained == 32 * (2 * hidden * 64 + 64 + hidden)
    assert adapter.total == model.parameter_count + adapter.added


@pytest.mark.parametrize("kind", KINDS)
def test_the_parts_add_up_and_the_least_is_no_more_than_the_peak(kind: str) -> None:
    made = estimate(proposal(kind))
    peak = made.peak_memory

    assert peak.total_bytes == (
        peak.weights_bytes
        + peak.trainable_bytes
        + peak.optimizer_bytes
        + peak.activations_bytes
        + peak.runtime_bytes
    )
    assert 0 < made.least_memory_bytes <= peak.total_bytes


def test_full_takes_sixteen_bytes_a_parameter_and_qlora_about_half_a_byte() -> None:
    model = llama()
    full, lora, qlora = (peak_memory(proposal(kind)) for kind in ("full", "lora", "qlora"))

    held = full.weights_bytes + full.trainable_bytes + full.optimizer_bytes
    assert held == 16 * model.parameter_count
    assert lora.weights_bytes == 2 * model.parameter_count
    others = model.parameter_count - model.linear_weight_count
    assert qlora.weights_bytes - 2 * others == pytest.approx(
        0.516 * model.linear_weight_count, rel=0.001
    )
    scales = peak_memory(proposal("qlora", double_quantization=False)).weights_bytes
    assert scales - 2 * others == pytest.approx(0.5625 * model.linear_weight_count, rel=0.001)
    eight = peak_memory(proposal("qlora", bits=8)).weights_bytes
    assert eight - 2 * others == pytest.approx(model.linear_weight_count, rel=0.001)


@pytest.mark.parametrize("kind", KINDS)
def test_more_at_once_takes_more_memory_and_recomputing_less(kind: str) -> None:
    one, two = (
        peak_memory(proposal(kind, {"batch_size": size}, model=SMALL)).activations_bytes
        for size in (64, 128)
    )
    again = peak_memory(
        proposal(kind, {"batch_size": 128, "gradient_checkpointing": "ON"}, model=SMALL)
    ).activations_bytes

    assert one < two
    assert again < two


def test_float32_takes_more_than_bfloat16() -> None:
    wide, narrow = (
        peak_memory(proposal("lora", {"precision": precision})).total_bytes
        for precision in ("FLOAT32", "BFLOAT16")
    )
    assert wide > 1.8 * narrow


def test_a_device_that_multiplies_bfloat16_slowly_computes_in_float32() -> None:
    slow = Device(DeviceKind.CPU, "cores", GIB, bfloat16_flops=1e11, float32_flops=2e11)
    fast = replace(slow, bfloat16_flops=4e11)
    unknown = replace(slow, bfloat16_flops=0.0, float32_flops=0.0)

    sizes = [proposal(device=one).numbers.product_bytes for one in (slow, fast, unknown)]
    assert sizes == [4, 2, 4]
    assert proposal(device=replace(gpu(), bfloat16_flops=0.0)).numbers.product_bytes == 2


def test_time_is_the_work_by_the_speed_and_cost_follows_it() -> None:
    once = estimate(proposal("lora", {"epochs": 1, "evaluate_every": 0}), price_per_hour=36.0)
    twice = estimate(proposal("lora", {"epochs": 2, "evaluate_every": 0}))
    unknown = estimate(proposal(device=Device(DeviceKind.CPU, "cores", GIB)), price_per_hour=36.0)

    assert once.duration_s is not None
    assert twice.duration_s == pytest.approx(2 * once.duration_s, rel=0.05)
    assert once.cost == pytest.approx(once.duration_s / 100)
    assert (twice.cost, unknown.duration_s, unknown.cost) == (None, None, None)
    full = estimate(proposal("full", {"epochs": 1, "evaluate_every": 0}))
    assert full.duration_s is not None
    assert full.duration_s > once.duration_s


def test_finished_runs_correct_the_formulas() -> None:
    plain = estimate(proposal())
    corrected = estimate(proposal(), Corrections(1.25, 2.0, runs=7))

    assert corrected.calibrating_runs == 7
    assert corrected.peak_memory.total_bytes == pytest.approx(1.25 * plain.peak_memory.total_bytes)
    assert plain.duration_s is not None
    assert corrected.duration_s == pytest.approx(2 * plain.duration_s)


def test_what_fits_needs_no_remedy() -> None:
    made = estimate(proposal("lora", device=gpu(80)))

    assert made.fits
    assert not made.remedies


def test_a_job_too_large_as_it_asks_is_told_of_parts_that_do_fit() -> None:
    asked = proposal("lora", {"batch_size": 64, "max_sequence_tokens": 2048}, device=gpu(40))
    made = estimate(asked)

    assert not made.fits
    parts = [text for text in made.remedies if text.startswith("micro_batch_tokens ")]
    tokens = int(parts[0].split()[1])
    assert estimate(asked.with_training(micro_batch_tokens=tokens)).fits
    assert not estimate(asked.with_training(micro_batch_tokens=2 * tokens)).fits
    recomputing = "gradient_checkpointing ON fits." in made.remedies
    assert estimate(asked.with_training(gradient_checkpointing="ON")).fits == recomputing
    assert f"it can train from {in_gib(made.least_memory_bytes)} on" in made.remedies[-1]
    assert can_train(asked)


def test_a_job_that_cannot_fit_is_told_which_methods_do() -> None:
    asked = proposal("full", device=gpu(24))
    made = estimate(asked)
    words = what_fits(asked)

    assert not made.fits
    assert words == made.remedies
    assert not can_train(asked)
    need = in_gib(least_memory(asked.with_method(proposal("lora").method)).total_bytes)
    assert f"lora fits: it needs {need} at least." in words
    assert words[-1] == f"full needs a device with at least {in_gib(made.least_memory_bytes)}."
    enough = gpu(made.least_memory_bytes / GIB)
    assert can_train(replace(asked, device=enough))


@pytest.mark.parametrize(("backend", "others"), [("BUILTIN", 4), ("UNSLOTH", 2)])
def test_no_method_is_suggested_that_the_backend_does_not_train(backend: str, others: int) -> None:
    asked = proposal("full", device=gpu(24))
    settings = asked.settings.model_copy(update={"backend": Backend(backend)})
    remedies = estimate(replace(asked, settings=settings)).remedies

    assert len(remedies) == others + 1
    assert remedies[0].startswith("lora fits")


def test_a_job_that_forbids_recomputing_is_told_to_allow_it() -> None:
    training = {
        "gradient_checkpointing": "OFF",
        "max_sequence_tokens": 8192,
        "precision": "FLOAT32",
    }
    asked = proposal("lora", training, examples=Examples(1000, 8192.0))
    allowed = asked.with_training(gradient_checkpointing="AUTO")
    between = (least_memory(asked).total_bytes + least_memory(allowed).total_bytes) / 2 / GIB
    words = what_fits(replace(asked, device=gpu(between)))

    assert words[0].startswith("gradient_checkpointing AUTO fits")


def test_figures_beyond_all_bounds_stay_figures() -> None:
    given = llama().model_dump() | {
        "parameter_count": 2**44,
        "layer_count": 2**16,
        "decoder_layer_count": 2**16,
        "head_count": 2**16,
        "key_value_head_count": 2**16,
        "head_size": 2**8,
    }
    largest = {
        "prefix": {"prefix_length": 4096, "projection_size": 16_384},
        "adapter": {"adapter_size": 16_384, "placement": "HOULSBY"},
        "lora": {"rank": 512, "dora": True},
        "qlora": {"rank": 512},
    }
    training = {
        "batch_size": 4096,
        "max_sequence_tokens": 1_048_576,
        "epochs": 1000,
        "batch_tokens": 16_777_216,
    }
    slow = Device(DeviceKind.CUDA, "slow", 1, 1e-300, 1e-300)
    for kind in KINDS:
        made = estimate(
            proposal(
                kind,
                training,
                model=checked_architecture(given | {"position_limit": 0}),
                device=slow,
                examples=Examples(2**62, 1e6, are_texts=True),
                **largest.get(kind, {}),
            ),
            price_per_hour=1e9,
        )
        assert made.peak_memory.total_bytes < 2**63
        assert made.duration_s == 315_576_000_000
        message = estimate_to_proto.estimate(made)
        assert message.trainable_parameters == made.trainable_parameters
        assert message.total_steps == made.total_steps


def test_more_steps_than_fit_into_32_bits_are_told() -> None:
    training = {"batch_size": 1, "epochs": 1000, "validation_fraction": 0}
    made = estimate(proposal(training=training, examples=Examples(3_000_000, 100.0)))

    assert estimate_to_proto.estimate(made).total_steps == 3 * 10**9


@pytest.mark.parametrize("counted", ["head_count", "key_value_head_count"])
def test_heads_that_are_wider_than_any_model_are_refused(counted: str) -> None:
    given = llama().model_dump() | {counted: 2**16, "head_size": 2**8 + 1}
    with pytest.raises(InvalidArgument) as fault:
        checked_architecture(given)

    (violation,) = fault.value.violations
    assert (violation.field, violation.reason) == ("architecture.head_size", "HEADS_TOO_WIDE")
    assert counted in violation.description


@dataclass
class Fleet:
    """Nodes as a test wants them."""

    device: Device | None = None
    corrections: Mapping[str, Corrections] = field(default_factory=dict[str, Corrections])

    async def there(self) -> list[Offer]:
        return []

    async def largest(self) -> Device | None:
        return self.device

    async def of(self, method: str, device_model: str) -> Corrections:
        return self.corrections.get(f"{method} on {device_model}", Corrections())


def estimates(fleet: Fleet, base_models: KnownBaseModels | None = None) -> Estimates:
    specification = Specification(
        known_datasets(), base_models or known_base_models(), known_model_versions(), fleet
    )
    return Estimates(specification, fleet, fleet)


def call(settings: dict[str, object] | None = None, **fields: Any) -> EstimateCall:
    draft = Draft(
        "baseModels/tiny-base",
        "projects/default/datasets/support/versions/latest",
        "",
        settings or {},
        fields.pop("start_version", ""),
    )
    given: dict[str, Any] = {
        "parent": "projects/default",
        "draft": draft,
        "device": None,
        "architecture": SMALL.model_dump(),
        "circumstances": {"mean_example_tokens": 50.0},
    }
    return EstimateCall(**(given | fields))


async def asked(fleet: Fleet, one: EstimateCall) -> dict[str, TuningEstimate]:
    made, _ = await estimates(fleet).of(one)
    return {one.method: one for one in made}


async def test_without_a_method_all_five_are_estimated_in_order() -> None:
    corrections = {"qlora on a gpu": Corrections(1.5, 1.0, runs=3)}
    made = await asked(Fleet(gpu(), corrections), call())

    assert list(made) == KINDS
    assert [one.calibrating_runs for one in made.values()] == [0, 0, 3, 0, 0]
    assert list(await asked(Fleet(gpu()), call({"method": {"kind": "prefix"}}))) == ["prefix"]


async def test_without_a_method_those_that_the_backend_trains_are_estimated() -> None:
    made = await asked(Fleet(gpu()), call({"backend": "AXOLOTL"}))

    assert list(made) == ["full", "lora", "qlora"]


async def test_of_a_model_that_no_text_can_hold_nothing_is_looked_up() -> None:
    corrections = {"lora on x\N{REPLACEMENT CHARACTER}": Corrections(1.5, 1.0, runs=3)}
    given = {"kind": "CUDA", "model": "x\0", "memory_bytes": 80 * GIB}
    made = await asked(
        Fleet(corrections=corrections), call({"method": {"kind": "lora"}}, device=given)
    )

    assert made["lora"].calibrating_runs == 3


async def test_texts_are_estimated_in_pieces() -> None:
    """270 of 300 texts of 5,111 tokens are learnt, ten pieces each, three times."""
    fleet = Fleet(gpu())
    known = known_datasets()
    known.versions = {name: replace(one, are_texts=True) for name, one in known.versions.items()}
    specification = Specification(known, known_base_models(), known_model_versions(), fleet)
    of_texts = call({"method": {"kind": "lora"}}, circumstances={"mean_example_tokens": 5111.0})
    (made,), _ = await Estimates(specification, fleet, fleet).of(of_texts)

    assert (made.total_steps, made.tokens) == (-(-2700 // 8) * 3, 3 * 2700 * 512)


async def test_what_a_model_can_not_learn_is_refused() -> None:
    t5 = SMALL.model_dump() | {"decoder_layer_count": 2}
    job = {"method": {"kind": "lora"}, "training": {"packing": True}}
    with pytest.raises(InvalidArgument) as fault:
        await asked(Fleet(gpu()), call(job, architecture=t5))

    assert fault.value.reason == "MODEL_LACKS_PACKING"


async def test_what_a_backend_can_not_do_is_refused_whether_or_not_there_is_a_method() -> None:
    job = {"training": {"batch_tokens": 512}, "backend": "UNSLOTH"}
    for asked_for in (job, {**job, "method": {"kind": "lora"}}):
        with pytest.raises(InvalidArgument) as fault:
            await asked(Fleet(gpu()), call(asked_for))
        assert fault.value.reason == "BACKEND_LACKS_SETTING"


async def test_the_registrys_architecture_is_taken_if_none_is_given() -> None:
    name = "baseModels/tiny-base"
    known = known_base_models().models[name]
    models = KnownBaseModels({name: replace(known, architecture=SMALL)})
    made, device = await estimates(Fleet(gpu()), models).of(call(architecture=None))

    assert made[0].total_parameters == SMALL.parameter_count
    assert device == gpu()


async def test_what_nobody_knows_is_asked_for() -> None:
    with pytest.raises(FailedPrecondition) as no_architecture:
        await asked(Fleet(gpu()), call(architecture=None))
    with pytest.raises(FailedPrecondition) as no_device:
        await asked(Fleet(), call())

    assert no_architecture.value.reason == "ARCHITECTURE_UNKNOWN"
    assert no_device.value.reason == "DEVICE_UNKNOWN"


async def test_every_violation_is_told_at_once() -> None:
    wrong = call(
        {"method": {"kind": "lora", "rank": 0}, "training": {"epochs": -1}},
        device={"memory_bytes": 0},
        architecture=SMALL.model_dump() | {"hidden_size": 0},
        circumstances={"mean_example_tokens": 0.5, "price_per_hour": -1},
    )
    with pytest.raises(InvalidArgument) as fault:
        await asked(Fleet(gpu()), wrong)

    assert {one.field for one in fault.value.violations} == {
        "device.kind",
        "device.memory_bytes",
        "architecture.hidden_size",
        "price_per_hour",
        "tuning_job.lora.rank",
        "tuning_job.training.epochs",
    }


async def test_a_layer_that_the_model_lacks_and_a_start_without_a_method_are_refused() -> None:
    method = {"kind": "lora", "target_modules": ("q_proj", "c_attn")}
    with pytest.raises(InvalidArgument) as no_layer:
        await asked(Fleet(gpu()), call({"method": method}))
    start = "projects/default/models/support/versions/v-fedcba0987654321"
    with pytest.raises(InvalidArgument) as no_method:
        await asked(Fleet(gpu()), call(start_version=start))

    assert no_layer.value.violations[0].field == "tuning_job.lora.target_modules.1"
    assert no_method.value.reason == "NO_METHOD"


async def test_an_architecture_that_contradicts_itself_is_refused() -> None:
    given = SMALL.model_dump() | {"parameter_count": 100}
    with pytest.raises(InvalidArgument) as fault:
        await asked(Fleet(gpu()), call(architecture=given))

    assert fault.value.violations[0].field == "architecture"
    assert "parameter_count is 100" in fault.value.violations[0].description
