"""What a study needs: lengths, schedule, disk, refusals with a change that fits, and what people see."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.synthetic_study import BASE, SyntheticStudy
from usertune.checks.estimates import machine
from usertune.checks.estimates.disk import training_disk
from usertune.checks.estimates.lines import estimates_in_lines
from usertune.checks.estimates.machine import Machine, machine_of
from usertune.checks.estimates.memory import MicroBatch, Setup, prediction_memory, training_memory
from usertune.checks.estimates.plan import COMFORTABLE, Plan, smallest_change, verdict
from usertune.checks.estimates.samples import Unprepared, assumed_lengths, read_lengths
from usertune.checks.estimates.schedule import learning_rate, schedule_reached
from usertune.checks.estimates.speed import known_speed
from usertune.checks.estimates.study import estimate
from usertune.core.manifest import write_result
from usertune.models.families.catalogue import get_family
from usertune.models.model_shape import ImageLimits, ModelShape, TextShape, VisionShape, read_model_shape
from usertune.models.recipe import FreezeSettings, LoraSettings, Pixels
from usertune.study.schema.training import Training

GIB = 2**30
LORA = LoraSettings(rank=8, alpha=32, dropout=0.05)
FULL = FreezeSettings(vision=True, merger=True)
# Qwen3-VL-8B.
LINEAR = [(4096, 4096), (4096, 1024), (4096, 1024), (4096, 4096), (4096, 12288), (4096, 12288), (12288, 4096)]
LARGE = ModelShape(
    text=TextShape(4096, 36, 32, 8, 128, 12288, 151936),
    vision=VisionShape(1152, 27, 16, 4304, 1536, 4, 3),
    parameters={
        "language": 36 * sum(a * b for a, b in LINEAR),
        "embedding": 4096 * 151936,
        "head": 4096 * 151936,
        "vision": 415_000_000,
        "merger": 160_000_000,
    },
    matrices=36 * sum(a * b for a, b in LINEAR),
    adapted=tuple(36 * LINEAR),
    family=get_family("qwen3_vl"),
    image=ImageLimits(65536, 1003520, 32),
)
PLAN = Plan(LORA, "bfloat16", 16, 4, False, 1, "ddp", "gpu", LORA)
FULL_PLAN = replace(PLAN, weights=FULL, micro_batch_size=1, checkpointing=True)


def test_adapters_have_the_number_of_weights_that_rank_8_gives_an_8b_model() -> None:
    # 21.8 million, as PEFT reports for these layers of Qwen3-8B.
    assert LARGE.trained(LORA) == 36 * 8 * (8192 + 2 * 5120 + 8192 + 3 * 16384) == 21_823_488


def test_full_training_of_8b_needs_sixteen_bytes_a_trained_weight_and_is_shared_by_fsdp() -> None:
    batch = assumed_lengths(LARGE, 1000).largest_batch(1)
    alone = training_memory(LARGE, FULL_PLAN.setup, batch)
    states = alone["weights"] + alone["gradients"] + alone["optimizer"]
    assert states == pytest.approx(16 * LARGE.trained(FULL) + 4 * 575_000_000, rel=0.03)
    shared = training_memory(LARGE, replace(FULL_PLAN, processes=4, strategy="fsdp").setup, batch)
    assert shared["optimizer"] == alone["optimizer"] // 4
    assert sum(shared.values()) < 60 * GIB < 120 * GIB < sum(alone.values())


def test_checkpointing_a_smaller_micro_batch_and_fewer_pixels_each_need_less() -> None:
    lengths = assumed_lengths(LARGE, 1000)

    def need(plan: Plan, shape: ModelShape = LARGE) -> int:
        return sum(plan.memory(shape, lengths.resized(shape)).values())

    small = replace(LARGE, image=ImageLimits(65536, 501760, 32))
    assert need(replace(PLAN, checkpointing=True)) < need(PLAN)
    assert need(replace(PLAN, micro_batch_size=1)) < need(PLAN)
    assert need(PLAN, small) < need(PLAN)


def test_ddp_adds_a_copy_of_the_gradients() -> None:
    batch = assumed_lengths(LARGE, 1000).largest_batch(1)
    one, two = (training_memory(LARGE, replace(PLAN, processes=number).setup, batch) for number in (1, 2))
    assert two["gradients"] == one["gradients"] + 4 * LARGE.trained(LORA)


def test_the_cache_holds_keys_and_values_of_every_token_and_layer() -> None:
    batch = MicroBatch(16, 1000, 16 * 980, 0)
    memory = prediction_memory(LARGE, "bfloat16", batch, 128)
    assert memory["kv_cache"] == 2 * 2 * 36 * 8 * 128 * 16 * 1128
    assert memory["weights"] == 2 * LARGE.total


@pytest.mark.parametrize("available", [80, 48, 40, 24, 20])
@pytest.mark.parametrize("plan", [PLAN, FULL_PLAN], ids=["lora", "full"])
def test_the_change_that_is_suggested_fits_and_no_smaller_one_does(plan: Plan, available: int) -> None:
    lengths = assumed_lengths(LARGE, 1000)
    change = smallest_change(plan, LARGE, lengths, available * GIB)
    if change is None:
        assert available < 24
        return
    assert change.need(LARGE, lengths) <= COMFORTABLE * available * GIB
    if change.words == "gradient_checkpointing: true":
        for size in (1, 2):
            other = replace(plan, micro_batch_size=size)
            assert sum(other.memory(LARGE, lengths).values()) > COMFORTABLE * available * GIB


def test_full_training_that_is_too_large_for_one_gpu_can_become_lora_and_nothing_helps_a_phone() -> None:
    lengths = assumed_lengths(LARGE, 1000)
    change = smallest_change(FULL_PLAN, LARGE, lengths, 80 * GIB)
    assert change is not None
    assert change.words == "mode: lora"
    assert smallest_change(FULL_PLAN, LARGE, lengths, 4 * GIB) is None


def test_only_what_is_far_too_large_is_refused() -> None:
    cases = [(89, 100), (95, 100), (124, 100), (126, 100), (1000, None)]
    assert [verdict(*case) for case in cases] == ["fits", "tight", "tight", "too large", "unknown"]


def test_the_schedule_is_told_in_words() -> None:
    settings = Training(learning_rate=1e-4, batch_size=8, warmup_steps=4)
    reached = schedule_reached(settings, 720)
    assert reached.in_words() == "reaches 1e-4 after 4 of 90 steps, ends at 1.2e-6"
    never = schedule_reached(settings.model_copy(update={"warmup_steps": 100}), 720)
    assert never.in_words() == "never reaches 1e-4: warm-up of 100 steps, training of 90"


def test_constant_rates_stay_at_the_peak() -> None:
    assert learning_rate("constant_with_warmup", 1e-4, 90, 4, 90) == 1e-4
    assert learning_rate("constant_with_warmup", 1e-4, 1, 4, 90) == 0


def test_checkpoints_of_full_training_hold_twelve_bytes_a_trained_weight() -> None:
    disk = training_disk(LARGE, FULL, "bfloat16", steps=1000, save_every_steps=100, keeps_best=False)
    assert disk.checkpoint == 4 * LARGE.total + 8 * LARGE.trained(FULL)
    assert disk.weights == 2 * LARGE.total
    assert disk.peak == 3 * disk.checkpoint + disk.weights
    once = training_disk(LARGE, LORA, "bfloat16", steps=50, save_every_steps=100, keeps_best=True)
    assert (once.checkpoint, once.peak) == (12 * 21_823_488, once.checkpoint + 4 * once.weights)


def test_the_speed_of_the_same_experiment_counts_before_another_of_the_mode(tmp_path: Path) -> None:
    rows = [("a", "lora", 1, 10.0), ("b", "lora", 1, 20.0), ("c", "lora", 2, 30.0), ("d", "full", 1, 40.0)]
    paths = [tmp_path / f"{name}.json" for name, *_ in rows]
    for path, (name, mode, processes, speed) in zip(paths, rows, strict=True):
        write_result(path, {"format": 2, "experiment": name, "mode": mode, "processes": processes, "device": "cpu",
                            "tokens_per_second": speed})  # fmt: skip
    paths.append(tmp_path / "missing.json")

    def of(name: str, processes: int = 1) -> float | None:
        found = known_speed(paths, name, "lora", processes)
        return found.tokens_per_second if found else None

    assert (of("b"), of("new"), of("new", 2), of("new", 4)) == (20.0, 10.0, 30.0, None)
    paths[0].write_text("{")
    assert of("a") == 20.0


def test_lengths_are_those_of_the_prepared_samples(make_study: Callable[..., SyntheticStudy]) -> None:
    made = make_study()
    study = made.study
    shape = read_model_shape(BASE, Pixels())
    users = study.users.train
    manifests = [Path(study.results, f"data/user_{user}.manifest.json") for user in users]
    nowhere = [Path("nowhere", path.name) for path in manifests]
    unprepared = read_lengths(shape, BASE, nowhere, 100, Unprepared(7))
    assert (unprepared.assumed, unprepared.samples) == (True, 7)
    lengths = read_lengths(shape, BASE, manifests, 1 << 60, Unprepared())
    assert not lengths.assumed
    assert len(lengths.tokens) == lengths.samples > 0
    assert max(lengths.tokens) >= lengths.percentiles()[1] > max(lengths.image_tokens)
    few = read_lengths(shape, BASE, manifests, len(users), Unprepared())
    assert len(few.tokens) == len(users)
    assert few.samples == lengths.samples


def test_a_study_that_cannot_fit_is_refused_by_experiment_need_and_limit(
    make_study: Callable[..., SyntheticStudy],
) -> None:
    made = make_study()
    tiny = Machine("gpu", 2**20, "a test")
    (problem, *_) = estimate(made.study, tiny).problems(["lora"])
    assert problem.startswith("experiments.lora: training of lora needs about ")
    assert "and there are 1.0 MiB (a test)" in problem
    assert estimate(made.study, Machine("gpu", 80 * GIB, "a test")).problems(["lora"]) == []
    assert estimate(made.study, Machine("gpu", None, "unknown")).problems(["lora"]) == []


def test_a_disk_that_is_too_small_is_refused_before_a_training(
    make_study: Callable[..., SyntheticStudy], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_study()
    monkeypatch.setattr("usertune.checks.estimates.study.free_bytes", lambda folder: 1000)
    estimated = estimate(made.study, Machine("gpu", 80 * GIB, "a test"))
    assert [problem.split(":")[0] for problem in estimated.problems(["lora"])] == ["results"]
    assert estimated.problems([]) == []


def test_assumed_lengths_refuse_nothing(make_study: Callable[..., SyntheticStudy]) -> None:
    made = make_study()
    for manifest in Path(made.study.results).glob("data/*.manifest.json"):
        manifest.unlink()
    estimated = estimate(made.study, Machine("gpu", 2**20, "a test"))
    assert estimated.problems(["lora"]) == []
    assert "Warning: training of lora does not fit into memory" in estimates_in_lines(estimated)
    assert "not prepared yet; assumed " in estimates_in_lines(estimated)


def test_where_a_study_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "visible_gpus", lambda: [])
    assert machine_of(None, on_a_cluster=True).memory is None
    assert machine_of(80, on_a_cluster=True) == Machine("gpu", 80 * GIB, "gpu_memory_gb of the study", True)
    assert machine_of(None, on_a_cluster=False).device == "cpu"
    monkeypatch.setattr(machine, "visible_gpus", lambda: ["0", "1"])
    monkeypatch.setattr(machine, "gpu_memory_bytes", lambda: [40 * GIB, 24 * GIB])
    assert machine_of(None, on_a_cluster=False).memory == 24 * GIB
    monkeypatch.setattr(machine, "gpu_memory_bytes", lambda: [])
    assert machine_of(None, on_a_cluster=False) == Machine("gpu", None, "the smallest GPU of this machine")


def test_estimates_import_no_torch_and_planning_no_table() -> None:
    program = (
        "import sys, usertune.checks.estimates.lines, usertune.checks.estimates.machine; "
        "print([name for name in ('torch', 'transformers', 'PIL', 'pandas', 'rich') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_setup_knows_what_is_shared() -> None:
    assert not Setup(FULL, "bfloat16", True, processes=1, strategy="fsdp").is_sharded
    assert Setup(FULL, "bfloat16", True, processes=2, strategy="fsdp").is_sharded
