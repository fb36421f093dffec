"""``python -m usertune`` is the command ``usertune``."""

from usertune.cli.main import main

main()
