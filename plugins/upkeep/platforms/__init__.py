"""The platforms under care: one YAML file each, read into a closed and frozen model."""

from __future__ import annotations

from upkeep.platforms.load import Broken, load_file, platform, platform_files, platforms, read_all
from upkeep.platforms.model import Platform

__all__ = ["Broken", "Platform", "load_file", "platform", "platform_files", "platforms", "read_all"]
