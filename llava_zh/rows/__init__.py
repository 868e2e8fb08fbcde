"""From a published record to the annotation table, and from that to the row formats."""

from .formats import ROW_FORMATS, RowOptions

__all__ = ["ROW_FORMATS", "RowOptions"]
