"""GILL's training on pictures with captions (docs/method.md 14.10), as a stage of the command `pretrain`."""
