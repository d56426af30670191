"""`anneal job create`: methods with their options, and the training parameters."""

import pytest

from anneal.cli.root import run
from anneal.trainer.v1.tuning_job_pb2 import (
    BACKEND_AXOLOTL,
    BACKEND_BUILTIN,
    BACKEND_UNSLOTH,
    PRIORITY_URGENT,
    AdapterMethod,
    LoraMethod,
    PrefixMethod,
    QloraMethod,
    Requirements,
    ResumeCertificate,
    TrainingParameters,
    TuningJob,
)
from tests.contract.anneal.scripted import World

pytestmark = pytest.mark.usefixtures("environment")

Captured = pytest.CaptureFixture[str]


def created_by(world: World, options: str) -> TuningJob:
    assert run(["job", "create", "--dataset", "d", "--base", "b", *options.split()]) == 0
    return world.requests("CreateTuningJob")[-1].tuning_job


def test_each_method_has_its_options(world: World) -> None:
    job = created_by(world, "--method full --learning-rate 0.0001")
    assert (job.WhichOneof("method"), job.training.learning_rate) == ("full", 0.0001)
    job = created_by(world, "--method lora --rslora --dora --target-module q --target-module v")
    assert job.lora == LoraMethod(rslora=True, dora=True, target_modules=["q", "v"])
    job = created_by(world, "--method qlora --bits 8 --no-double-quantization --rank 2")
    assert job.qlora == QloraMethod(bits=8, double_quantization=False, rank=2)
    job = created_by(world, "--method prefix --prefix-length 7 --projection-size 32")
    assert job.prefix == PrefixMethod(prefix_length=7, projection_size=32)
    job = created_by(
        world,
        "--method adapter --adapter-size 16 --placement houlsby --activation gelu --dropout 0.2",
    )
    assert job.adapter == AdapterMethod(
        adapter_size=16,
        placement=AdapterMethod.PLACEMENT_HOULSBY,
        activation=AdapterMethod.ACTIVATION_GELU,
        dropout=0.2,
    )


@pytest.mark.parametrize("method", ["full", "lora", "qlora", "prefix", "adapter"])
def test_a_method_is_chosen_without_any_of_its_options(world: World, method: str) -> None:
    job = created_by(world, f"--method {method}")
    assert job.WhichOneof("method") == method
    assert getattr(job, method).ByteSize() == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            "--method prefix --rank 4 --alpha 8",
            "--rank and --alpha are no options of --method prefix, "
            "which has --prefix-length and --projection-size",
        ),
        (
            "--method full --target-module q",
            "--target-module is no option of --method full, which has none",
        ),
        ("--prefix-length 7", "--prefix-length is no option of --method lora, which has --rank,"),
        ("--method qlora --dora", "--dora is no option of --method qlora, which has --rank,"),
    ],
)
def test_an_option_of_another_method_is_refused(
    world: World, capsys: Captured, options: str, words: str
) -> None:
    assert run(["job", "create", "--dataset", "d", "--base", "b", *options.split()]) == 2
    assert words in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert not world.requests("CreateTuningJob")


def test_every_training_parameter_has_an_option(world: World) -> None:
    options = (
        "--max-steps 9 --epochs 2 --batch-size 3 --learning-rate 0.5 --warmup-steps 4 "
        "--schedule constant --weight-decay 0.25 --max-gradient-norm 2 --max-sequence-tokens 64 "
        "--validation-fraction 0.5 --evaluate-every 5 --checkpoint-every 6 --batch-tokens 4096 "
        "--micro-batch-tokens 512 --packing --precision float32 --gradient-checkpointing on "
        "--long-examples refuse --early-stopping-patience 7 --keep-last-checkpoints 8 "
        "--keep-checkpoint-every 10 --sample-count 0 --sample-max-tokens 11 --auto"
    )
    training = created_by(world, options).training
    assert training == TrainingParameters(
        max_steps=9,
        epochs=2,
        batch_size=3,
        learning_rate=0.5,
        warmup_steps=4,
        schedule=TrainingParameters.SCHEDULE_CONSTANT,
        weight_decay=0.25,
        max_gradient_norm=2,
        max_sequence_tokens=64,
        validation_fraction=0.5,
        evaluate_every=5,
        checkpoint_every=6,
        batch_tokens=4096,
        micro_batch_tokens=512,
        packing=True,
        precision=TrainingParameters.PRECISION_FLOAT32,
        gradient_checkpointing=TrainingParameters.CHECKPOINTING_ON,
        long_examples=TrainingParameters.OVERLENGTH_REFUSE,
        early_stopping_patience=7,
        keep_last_checkpoints=8,
        keep_checkpoint_every=10,
        sample_count=0,
        sample_max_tokens=11,
        auto=True,
    )
    told = {field.name for field, _ in training.ListFields()}
    assert told == set(TrainingParameters.DESCRIPTOR.fields_by_name)


def test_a_job_is_trained_by_the_engine_or_by_the_backend_that_is_named(world: World) -> None:
    assert created_by(world, "--method full").backend == BACKEND_BUILTIN
    assert created_by(world, "--backend axolotl").backend == BACKEND_AXOLOTL
    assert created_by(world, "--backend unsloth").backend == BACKEND_UNSLOTH


def test_the_queue_is_told_what_was_asked_and_nothing_else(world: World) -> None:
    job = created_by(world, "")
    assert not job.priority
    assert not job.HasField("requirements")
    assert not job.HasField("deadline_time")
    job = created_by(
        world,
        "--priority urgent --require gpu=h200 --require region=eu --devices 2 "
        "--device-memory 80GB --deadline 2026-12-01T08:00Z",
    )
    assert job.priority == PRIORITY_URGENT
    assert job.requirements == Requirements(
        node_labels={"gpu": "h200", "region": "eu"},
        device_count=2,
        device_memory_bytes=80_000_000_000,
    )
    assert job.deadline_time.ToJsonString() == "2026-12-01T08:00:00Z"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--require h200", "'h200' is not key=value"),
        ("--devices 99999999999", "out of range: 99999999999"),
        ("--device-memory 80", "'80' is no size: say for example 80GB, or 80GiB"),
        ("--deadline soon", "'soon' is no time: say for example 2h, or 2026-12-01T08:00Z"),
        ("--priority highest", "'highest' is not one of"),
    ],
)
def test_what_the_queue_could_not_read_is_refused(
    world: World, capsys: Captured, options: str, words: str
) -> None:
    assert run(["job", "create", "--dataset", "d", "--base", "b", *options.split()]) == 2
    assert words in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert not world.requests("CreateTuningJob")


def test_a_job_goes_on_from_a_version_or_from_what_an_alias_stands_for(world: World) -> None:
    models = "projects/default/models"
    assert created_by(world, "--method full").start_version == ""
    for option, name in {
        "support": f"{models}/support/versions/latest",
        "support/v-0123456789abcdef": f"{models}/support/versions/v-0123456789abcdef",
        "support@champion": f"{models}/support/aliases/champion",
    }.items():
        assert created_by(world, f"--start-from {option}").start_version == name


def test_a_job_is_shown_with_what_it_was_continued_from_and_how_it_was_resumed(
    world: World, capsys: Captured
) -> None:
    world.job.start_version = "projects/default/models/support/versions/v-0123456789abcdef"
    world.job.resume_certificates.extend(
        [
            ResumeCertificate(attempt=2, step=50, exact=True, replayed_steps=7),
            ResumeCertificate(
                attempt=3, step=1050, exact=False, replayed_steps=1, max_loss_difference=0.00125
            ),
            ResumeCertificate(attempt=4, step=1100, exact=True),
        ]
    )
    assert run(["job", "show", "job-1"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "continued from  support/v-0123456789abcdef" in lines
    at = lines.index(
        "resumed         after step 50: 7 steps done again, largest difference of loss 0"
    )
    assert lines[at + 1 : at + 3] == [
        "after step 1,050, with not what the checkpoint held: "
        "1 step done again, largest difference of loss 0.00125",
        "after step 1,100: 0 steps done again",
    ]


def test_a_job_is_shown_with_its_method_and_training(world: World, capsys: Captured) -> None:
    world.job.adapter.CopyFrom(
        AdapterMethod(adapter_size=64, placement=AdapterMethod.PLACEMENT_PFEIFFER)
    )
    world.job.training.CopyFrom(
        TrainingParameters(epochs=3, precision=TrainingParameters.PRECISION_BFLOAT16, packing=True)
    )
    assert run(["job", "show", "job-1"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "method adapter adapter_size=64 placement=pfeiffer " in shown
    assert " epochs=3.0 " in shown
    assert " packing=true precision=bfloat16 " in shown


def test_help_keeps_what_is_in_brackets(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run(["job", "create", "--help"]) == 0
    shown = capsys.readouterr().out
    for default in ("(pfeiffer)", "(all linear ones)", "(cosine)", "(0: --batch-size)"):
        assert default in shown
