"""A miniature of both datasets, drawn and written on the spot: for a first look, and as a fixture for tests."""

from .write import DemoPaths, write_demo

__all__ = ["DemoPaths", "write_demo"]
