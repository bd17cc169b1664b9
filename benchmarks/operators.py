"""The calls of PyTorch's operators, one by one."""

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class Operators(TorchDispatchMode):
    """Gives each operator that is called within it, and its arguments, to `note`. Operators that are made of others
    come as these: in inference mode, PyTorch has them as a whole."""

    def note(self, operator: Any, args: Any) -> None:
        raise NotImplementedError

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with self:
            found = func.decompose(*args, **(kwargs or {}))
        if found is not NotImplemented:
            return found
        self.note(func, args)
        return func(*args, **(kwargs or {}))
