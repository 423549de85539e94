"""Several subjects in one prompt, each where a mask says. Knows nothing of a host."""

from .markers import SOCKETS, Scene, parse
from .regions import Regions, checked_mask, soften
from .rows import Layout, lay_out

__all__ = ["SOCKETS", "Layout", "Regions", "Scene", "checked_mask", "lay_out", "parse", "soften"]
