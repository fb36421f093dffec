"""What a result was made with: package versions and machine, for manifests."""

from __future__ import annotations

import platform
from importlib import metadata

PACKAGES = ("usertune", "torch", "torchvision", "transformers", "peft", "accelerate", "numpy", "pillow", "safetensors")


def installed_versions() -> dict[str, str]:
    """Return Python's and the packages' versions, without importing the packages."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
