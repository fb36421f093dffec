"""Which modules the code version of each step counts: a reviewed list, so that no edit widens one unnoticed."""

from __future__ import annotations

from pathlib import Path

from usertune.pipeline.plug_ins import chosen_plug_ins
from usertune.runtime.code_version import code_of
from usertune.study.load import load_study

REPOSITORY = Path(__file__).resolve().parents[2]
REVIEWED = Path(__file__).with_name("code_closures.txt")
# Packages, of which the __init__ files are empty.
PACKAGES = {path.parent for path in (REPOSITORY / "src" / "usertune").rglob("__init__.py")}


def computed() -> str:
    """Return the modules of every step and figure with the plug-ins of config.yaml, as the reviewed file lists them."""
    lines = []
    for name, (step, plug_ins) in chosen_plug_ins(load_study([REPOSITORY / "config.yaml"])).items():
        lines.append(name)
        for module in sorted(code_of(step, plug_ins)):
            if REPOSITORY / "src" / module.replace(".", "/") not in PACKAGES:
                lines.append(f"    {module.removeprefix('usertune.')}")
    return "\n".join(lines) + "\n"


def test_the_code_of_every_step_is_what_was_reviewed() -> None:
    assert computed() == REVIEWED.read_text(encoding="utf-8"), (
        "a step's code consists of other modules than those in tests/architecture/code_closures.txt. An edit of any of "
        "them makes the step's results stale, or is recorded as other code. Look at the difference: does the step's "
        "result depend on every new module? If it does not, move the import, or, if the module has no effect on "
        "results, name it in WITHOUT_EFFECT in usertune.runtime.code_version. Then write the list: "
        "python -m tests.architecture.test_code_closures"
    )


if __name__ == "__main__":
    REVIEWED.write_text(computed(), encoding="utf-8")
