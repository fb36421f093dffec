"""A stand-in for SLURM's commands with a folder as the cluster: jobs do nothing, tests write their states.

The folder of the program holds it; each command is a link to this file. Files that tell it how to behave:

- ``away``: no command is answered
- ``refuses``: what ``sbatch --test-only`` says, and fails
- ``lingers``: cancelled jobs are COMPLETING until this file is gone
- ``loses``: a file that is gone when ``sbatch --test-only`` has been asked
"""

import json
import os
import sys
from pathlib import Path

CLUSTER = Path(sys.argv[0]).parent.parent
JOBS = CLUSTER / "jobs"
COMMANDS = ("sbatch", "squeue", "scancel", "scontrol", "sinfo", "sacct", "sacctmgr")


def main(command: str, arguments: list[str]) -> int:
    with (CLUSTER / "asked").open("a") as file:
        file.write(json.dumps([command, *arguments]) + "\n")
    if (CLUSTER / "away").exists():
        print("Unable to contact slurm controller", file=sys.stderr)
        return 1
    if command == "sinfo":
        print("PARTITION\ngpu*")
        return 0
    if command == "scontrol":
        print("Slurmctld(primary) at login is UP" if arguments == ["ping"] else "MaxArraySize = 1001")
        return 0
    known = {"sbatch": sbatch, "squeue": squeue, "scancel": scancel}
    return known[command](arguments) if command in known else 1


def sbatch(arguments: list[str]) -> int:
    if "--test-only" in arguments:
        if (CLUSTER / "loses").exists():
            Path((CLUSTER / "loses").read_text()).unlink()
        if (CLUSTER / "refuses").exists():
            print((CLUSTER / "refuses").read_text(), file=sys.stderr)
            return 1
        return 0
    number = 100
    while True:
        try:
            file = os.open(JOBS / str(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            break
        except FileExistsError:
            number += 1
    name = arguments[arguments.index("--job-name") + 1]
    os.write(file, f"PENDING {name}".encode())
    print(number)
    return 0


def squeue(arguments: list[str]) -> int:
    (name,) = (argument.partition("=")[2] for argument in arguments if argument.startswith("--name="))
    for job, (state, its_name) in jobs().items():
        if its_name == name:
            print(f"{job}|{state}|None|n0|N/A|N/A|N/A|(null)")
    return 0


def scancel(arguments: list[str]) -> int:
    names = {argument.partition("=")[2] for argument in arguments if argument.startswith("--name=")}
    for job, (state, name) in jobs().items():
        if (job in arguments or name in names) and state in ("PENDING", "RUNNING", "COMPLETING"):
            lingers = (CLUSTER / "lingers").exists()
            write(JOBS / job, f"{'COMPLETING' if lingers else 'CANCELLED'} {name}")
    return 0


def jobs() -> dict[str, list[str]]:
    return {path.name: path.read_text().split() for path in sorted(JOBS.iterdir()) if path.suffix != ".new"}


def write(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[0]).name, sys.argv[1:]))
