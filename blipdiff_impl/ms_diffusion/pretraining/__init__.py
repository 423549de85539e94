"""Training of an adapter (docs/method.md 13.8): the resampler, and keys and values, on a frozen UNet."""
