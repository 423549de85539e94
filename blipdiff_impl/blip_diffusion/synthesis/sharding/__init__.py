"""From a list of photos to shards of training pairs (docs/synthesis.md)."""
