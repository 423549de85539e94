"""Which photos and boxes of a data set become subjects (docs/synthesis.md)."""
