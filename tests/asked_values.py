"""How often code asks a tensor for its value: a value that a GPU holds is waited for."""

import torch

ASKING = ("__float__", "__int__", "__bool__", "__index__", "item", "tolist", "cpu", "numpy")


def count_asked(monkeypatch):
    """A list that grows by the method's name with every question from now on."""
    asked = []

    def counting(name):
        original = getattr(torch.Tensor, name)

        def method(tensor, *args, **kwargs):
            asked.append(name)
            return original(tensor, *args, **kwargs)

        return method

    for name in ASKING:
        monkeypatch.setattr(torch.Tensor, name, counting(name))
    return asked
