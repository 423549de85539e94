"""Captions for photos that have none, sampled, judged and put in order (docs/synthesis.md)."""
