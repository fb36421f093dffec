"""A disk that is full or cannot be written, and an image that cannot be read."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.workplace import LOCAL_PROFILE, Workplace, kill_group, new_workplace, wait_until
from usertune.demo.dataset import Counts

pytestmark = pytest.mark.workflow
MEGABYTE = 1 << 20
NO_SPACE = "No space left on device: '"
PREPARED = "results/data/user_1.manifest.json"
LORA = "results/checkpoints/lora/manifest.json"
VANILLA = "results/predictions/vanilla/users_1.json"


class Disk:
    """A separate disk for the results of a study."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "usertune-test", str(folder)], check=True)

    def fill(self, but: int = 0) -> None:
        """Leave only so many bytes."""
        with self._ballast.open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(MEGABYTE))
        os.truncate(self._ballast, self._ballast.stat().st_size - but)

    def remount(self, option: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{option}", str(self.folder)], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


def _why_not_mount(tmp_path: Path) -> str | None:
    """Say why no disk can be mounted here; None where it can."""
    if os.geteuid() != 0:
        return "mounting a disk needs root"
    trial = tmp_path / "trial"
    trial.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(trial)], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no disk can be mounted here: {getattr(error, 'stderr', error)}"
    subprocess.run(["umount", str(trial)], check=True)
    return None


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    workplace = new_workplace(tmp_path / "study", Counts(train=5, validation=4, test=40))
    workplace.replace("  test: 1-2", "  test: 1")
    # More than one batch, and more answers than fit into the rest of a block.
    workplace.replace("  batch_size: 10", "  batch_size: 4")
    # The further attempts at a GPU job, which fail alike, would only take time.
    workplace.options = (*LOCAL_PROFILE, "--retries", "0")
    return workplace


@pytest.fixture
def disk(workplace: Workplace, tmp_path: Path) -> Iterator[Disk]:
    problem = _why_not_mount(tmp_path)
    if problem:
        # CI declares where a disk must be mountable.
        (pytest.fail if os.environ.get("USERTUNE_REQUIRE_MOUNT") else pytest.skip)(problem)
    disk = Disk(workplace.results)
    yield disk
    for step in ("prepare", "predict", "train"):
        for process in workplace.programs(step):
            process.kill()
    disk.unmount()


def _refused(workplace: Workplace, target: str, said: str) -> None:
    """Run a study, which must fail with a clear message; ``said`` is the beginning of the file's name."""
    code, output = workplace.snakemake(target)
    assert code != 0
    _check_error(output, said)


def _check_error(output: str, said: str) -> None:
    assert any(said in line for line in output.splitlines()), output
    assert "Traceback" not in output, output
    assert "--- Logging error ---" not in output, output


def _fill_when(workplace: Workplace, disk: Disk, target: str, condition: Callable[[], Any], but: int = 0) -> str:
    """Fill the disk in the middle of a run, which must fail; return what it said."""
    run = workplace.start(target)
    try:
        wait_until(condition, run)
        disk.fill(but)
        assert run.wait(300) != 0
    finally:
        kill_group(run)
    return workplace.output


def _undisturbed(workplace: Workplace, tmp_path: Path, target: str) -> Workplace:
    other = Workplace(tmp_path / "undisturbed", options=workplace.options)
    other.folder.mkdir()
    shutil.copytree(workplace.data, other.data)
    shutil.copy(workplace.study, other.study)
    other.run(target)
    return other


def test_full_before_anything_is_written(workplace: Workplace, disk: Disk) -> None:
    disk.fill()
    _refused(workplace, PREPARED, f"results: results cannot be written here: [Errno 28] {NO_SPACE}")


def test_full_while_samples_are_prepared(workplace: Workplace, disk: Disk, tmp_path: Path) -> None:
    disk.fill(but=6 * 4096)
    _refused(workplace, PREPARED, f"{NO_SPACE}results/data/user_1.jsonl'")
    assert not (workplace.results / "data/user_1.manifest.json").exists()
    disk.remount("size=96m")
    workplace.run(PREPARED)
    undisturbed = _undisturbed(workplace, tmp_path, PREPARED)
    samples, expected = (folder / "data/user_1.jsonl" for folder in (workplace.results, undisturbed.results))
    assert samples.read_bytes() == expected.read_bytes()
    assert workplace.json("data/user_1.manifest.json") == undisturbed.json("data/user_1.manifest.json")


def test_full_while_answers_are_stored(workplace: Workplace, disk: Disk, tmp_path: Path) -> None:
    output = _fill_when(workplace, disk, VANILLA, workplace.stored_lines)
    _check_error(output, f"{NO_SPACE}results/store/predictions/")
    assert not (workplace.folder / VANILLA).exists()
    stored = len([line for line in workplace.stored_lines() if line.endswith("}")])
    disk.remount("size=96m")
    workplace.run(VANILLA)
    undisturbed = _undisturbed(workplace, tmp_path, VANILLA)
    predictions = workplace.json("predictions/vanilla/users_1.json")
    assert predictions["predictions"] == undisturbed.json("predictions/vanilla/users_1.json")["predictions"]
    assert predictions["fingerprint"] == undisturbed.json("predictions/vanilla/users_1.json")["fingerprint"]
    assert 0 < predictions["reused"] <= stored < 40


def test_full_while_training(workplace: Workplace, disk: Disk, tmp_path: Path) -> None:
    workplace.replace("  epochs: 1", "  epochs: 5")
    undisturbed = _undisturbed(workplace, tmp_path, LORA)
    manifest = undisturbed.json("checkpoints/lora/manifest.json")

    # Nothing fits; then the adapter fits, which is saved by safetensors, but not the optimizer, saved by torch.
    for attempt, room in enumerate((0, 150_000), start=1):
        before = workplace.newest_checkpoint("lora")
        output = _fill_when(workplace, disk, LORA, lambda: workplace.newest_checkpoint("lora") > before, room)  # noqa: B023
        _check_error(output, f"{NO_SPACE}results/checkpoints/lora/{manifest['fingerprint'][:16]}")
        assert not (workplace.folder / LORA).exists()
        disk.remount(f"size={64 + 32 * attempt}m")
    left_at = workplace.newest_checkpoint("lora")
    workplace.run(LORA)
    after = workplace.json("checkpoints/lora/manifest.json")
    assert after["resumed_from_step"] == left_at > before > 0
    for key in ("fingerprint", "weights_fingerprint", "losses_sha256", "final_validation_loss", "steps"):
        assert after[key] == manifest[key], key
    assert after["weights_files"] == manifest["weights_files"]
    log = "checkpoints/lora/training_log.csv"
    assert (workplace.results / log).read_text() == (undisturbed.results / log).read_text()
    left = {path.name for path in (workplace.results / f"checkpoints/lora/{manifest['fingerprint'][:16]}").iterdir()}
    assert left == {".lock", "complete.json", "provenance.json", "training_log.csv", "weights"}


def test_read_only_results(workplace: Workplace, disk: Disk) -> None:
    disk.remount("ro")
    said = f"results: {workplace.results} cannot be written to by you"
    _refused(workplace, PREPARED, said)
    code, output = workplace.snakemake("-n", PREPARED)
    assert code != 0
    _check_error(output, said)
    disk.remount("rw")
    workplace.run(PREPARED)


def test_folder_instead_of_an_image(workplace: Workplace) -> None:
    image = sorted((workplace.data / "images/user_1").iterdir())[0]
    image.unlink()
    image.mkdir()
    _refused(workplace, PREPARED, f"the image images/user_1/{image.name} is not a file but a folder")
