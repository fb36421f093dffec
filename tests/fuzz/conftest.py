"""How hard every test of this folder tries: 200 examples, or as many as USERTUNE_FUZZ_EXAMPLES says."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "fuzz",
    max_examples=int(os.environ.get("USERTUNE_FUZZ_EXAMPLES", "200")),
    # A hang is found by pytest's time limit for a whole test; single examples may be slow on a busy machine.
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
settings.load_profile("fuzz")
