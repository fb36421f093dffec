"""Fine-tune one vision-language model across many users and evaluate it on each of them.

Each folder is a room with one purpose, and imports only from the rooms below it: pyproject.toml lists them from the
roof down, and the linter holds them to it. Only ``demo``, ``models``, ``training`` and ``inference`` import torch, in
steps that train or answer; only ``reporting`` imports matplotlib.
"""

__version__ = "0.1.0"
