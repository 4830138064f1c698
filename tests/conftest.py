"""The order of the whole suite: what is quick to fail comes first."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked slow go last; among themselves, all keep their order."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
