"""Each test of the catalogue has a registry of its own."""

from __future__ import annotations

import pytest

from llava_zh.catalog import registry


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_registered", "_origins", "_scripts"):
        monkeypatch.setattr(registry, name, {})
    monkeypatch.setattr(registry, "_entry_points_read", False)
