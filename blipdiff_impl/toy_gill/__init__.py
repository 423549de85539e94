"""The built-in toy GILL: its corpus, the trainings that make it, and the files it ends in (docs/gill.md)."""
