"""What usertune check prints for Qwen3-VL-8B on screenshots of a phone, as docs/memory.md shows it.

The base model has the headers of the true weights and no numbers, and the demo's tokenizer. The data are 1,000 samples
for each of 83 users, all with one screenshot of 1080 x 2340 pixels. The study is configs/qwen3-vl-8b.yaml with its
commented full. Needs 30 MB of disk space:

    python benchmarks/check_example.py
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from memory_estimates import REAL, SCREENSHOT, make_base
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]
USERS, SAMPLES = range(1, 84), 1000


def write_data(root: Path) -> None:
    """Write the raw samples of all users."""
    root.mkdir()
    Image.new("RGB", SCREENSHOT).save(root / "screen.png")
    question = [
        {"type": "image", "image": "screen.png"},
        {"type": "text", "text": "Tap the button that sends the mail"},
    ]
    answer = "```grounding\n[512, 340]\n```"
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    for user in USERS:
        lines = (json.dumps({"id": f"{number}", "messages": turns}) for number in range(SAMPLES))
        (root / f"user_{user}.jsonl").write_text("\n".join(lines) + "\n")


def write_study(file: Path) -> None:
    """Write the study, with the commented experiment full."""
    text = (REPOSITORY / "configs/qwen3-vl-8b.yaml").read_text()
    for key, value in (("results", "results"), ("  root", "data"), ("  path", "./base")):
        text, changed = re.subn(rf"^{key}: .*$", f"{key}: {value}", text, flags=re.MULTILINE)
        assert changed == 1, key
    text, changed = re.subn(r"^  # ( *(?:full|mode: full|gpus|parallel):?.*)$", r"  \1", text, flags=re.MULTILINE)
    assert changed == 4, "the commented experiment full"
    file.write_text(re.sub(r"^container: .*$", "", text, flags=re.MULTILINE))


def main() -> None:
    """Print the output, 120 characters wide."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_base(folder / "base", REAL["8B"], hollow=True)
        write_data(folder / "data")
        write_study(folder / "study.yaml")
        (folder / "results").mkdir()
        words = ["check", "memory", "--study", str(folder / "study.yaml"), "--gpu-memory", "80"]
        command = ["env", "COLUMNS=120", sys.executable, "-P", "-m", "usertune", *words]
        sys.exit(subprocess.run(command, check=False).returncode)


if __name__ == "__main__":
    main()
