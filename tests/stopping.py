"""A function that ends its caller as Ctrl-C would, after some calls."""

from __future__ import annotations


def stop_after(patch, owner, name, count=None):
    """Let `owner.name` raise KeyboardInterrupt at the call behind the first `count`; without a count it only counts.

    Returns:
        A list with one entry for each call.
    """
    own, calls = getattr(owner, name), []

    def counted(*given):
        calls.append(1)
        if count and len(calls) > count:
            raise KeyboardInterrupt
        return own(*given)

    patch.setattr(owner, name, counted)
    return calls
