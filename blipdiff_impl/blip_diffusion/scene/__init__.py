"""Several subjects in one prompt, each where a mask says. Knows nothing of a host."""

from ...attention.regions import Regions, checked_mask, soften
from .markers import SOCKETS, Scene, check_markers, parse
from .rows import Layout, lay_out

__all__ = ["SOCKETS", "Layout", "Regions", "Scene", "check_markers", "checked_mask", "lay_out", "parse", "soften"]
