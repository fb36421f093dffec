"""Run Snakemake once for each argument, in a process forked from this one."""

import os
import shlex
import sys
import tempfile

import snakemake.cli


def main() -> None:
    """Write exit code and output of each run, with NUL after each."""
    for line in sys.argv[1:]:
        with tempfile.TemporaryFile() as output:
            sys.stdout.flush()
            pid = os.fork()
            if not pid:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
                # Leaves by SystemExit, which ends this process.
                snakemake.cli.main(shlex.split(line))
            _, status = os.waitpid(pid, 0)
            output.seek(0)
            said = output.read().decode(errors="replace").replace("\0", "")
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\0{said}\0")


if __name__ == "__main__":
    main()
