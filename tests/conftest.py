"""The order of the whole suite: what is quick to fail comes first; and where random inputs come from."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no failure, and neither is chance: whoever looks for bugs asks for other inputs each time.
PROFILES = {"steady": True, "explore": False}
for name, steady in PROFILES.items():
    settings.register_profile(
        name, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=steady, print_blob=True
    )
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))

# What a shell starts in the background ignores Ctrl-C, and so would every process of a test that presses it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked slow go last; among themselves, all keep their order."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
