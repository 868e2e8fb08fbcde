"""What is said where torch or transformers is not installed."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from llava_zh.errors import MissingExtra


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_a_missing_package_is_an_error_that_names_the_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else real(name) or object())
    monkeypatch.delitem(sys.modules, "llava_zh.torch", raising=False)
    with pytest.raises(MissingExtra, match=rf'needs {package}, .*pip install "llava-zh\[torch\]"'):
        import llava_zh.torch  # noqa: F401
