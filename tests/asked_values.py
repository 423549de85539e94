"""How often code asks a tensor for its value: a value that a GPU holds is waited for.

On a CPU `.to(device)` of a variable looks the same whether it asks or not, so only "cpu" by name counts here; what
moves without a name is found on fake tensors of "cuda" (`fake_device.Waits`).
"""

import torch

ASKING = ("__float__", "__int__", "__bool__", "__index__", "item", "tolist", "cpu", "numpy", "nonzero", "masked_select")


def count_asked(monkeypatch):
    """A list that grows by the method's name with every question from now on."""
    asked = []

    def count(name, asks=lambda *args, **kwargs: True):
        original = getattr(torch.Tensor, name)

        def method(tensor, *args, **kwargs):
            if asks(*args, **kwargs):
                asked.append(name)
            return original(tensor, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, method)

    for name in ASKING:
        count(name)
    count("to", lambda *args, **kwargs: "cpu" in (kwargs.get("device"), *args[:1]))
    return asked
