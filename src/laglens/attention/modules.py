"""Which module of a model is running, and which of those that ran compute attention."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import nn

from laglens.errors import LaglensError

LISTED = 3
ATTENTION_CLASS = re.compile(r"attn|attention|^mhs?a", re.IGNORECASE)
ATTENTION_OPERATOR = re.compile(r"aten::_?softmax|::\w*(attn|attention|transformer)", re.IGNORECASE)


class RunningModules:
    """Names of the modules of `model` that are running, innermost last, kept by hooks.

    Attributes
    ----------
    modules
        All modules by name.
    visited
        Names of those that ran, or that ``torch.jit`` made.
    """

    def __init__(self, model: nn.Module, on_leave: Callable[[str], None]) -> None:
        self.modules = dict(model.named_modules())
        self._compiled = {name for name in self.modules if self.is_compiled(name)}
        # These take no hooks.
        self.visited: set[str] = {name for name in self._compiled if not self._in_compiled(name)}
        self._on_leave = on_leave
        self._stack: list[str] = []
        self._hooks: list[Any] = []

    @property
    def current(self) -> str:
        """The innermost running module; "" is the model itself."""
        return self._stack[-1] if self._stack else ""

    def attach(self) -> None:
        """Register the hooks; raise `LaglensError` if modules are in training mode, or compiled for good."""
        self._refuse()
        try:
            for name, module in self._callers():
                self._hooks.append(module.register_forward_pre_hook(self._enters(name)))
                self._hooks.append(module.register_forward_hook(self._leaves(name), always_call=True))
        except BaseException:
            self.detach()
            raise

    def detach(self) -> None:
        """Remove the hooks."""
        while self._hooks:
            self._hooks.pop().remove()
        self._stack.clear()

    def _refuse(self) -> None:
        wrapped = [name for name, module in self.modules.items() if hasattr(module, "_orig_mod")]
        if wrapped and not hasattr(torch.compiler, "set_stance"):
            raise LaglensError(
                f"{listed(wrapped)} is compiled by torch.compile, which steps aside from torch 2.6 on only: read the "
                "module it was made from (_orig_mod)"
            )
        training = [name or self.kind(name) for name, module in self.modules.items() if module.training]
        if training:
            raise LaglensError(
                f"the model is in training mode ({listed(training)}), so attention is seen after dropout; "
                "call model.eval() first"
            )

    def attention(self) -> set[str]:
        """Names of the innermost modules that ran and are attention by the name of their class, or by compiled code."""
        ran = [name for name in self.visited if ATTENTION_CLASS.search(self.kind(name))]
        innermost = {name for name in ran if not any(is_inside(other, name) for other in ran if other != name)}
        return innermost | {name for name in self.visited if self.is_compiled(name) and self._attends(name)}

    def kind(self, name: str) -> str:
        """The name of a module's class, also where ``torch.jit`` has put its own in the place."""
        module = self.modules[name]
        return getattr(module, "original_name", "") if self.is_compiled(name) else type(module).__name__

    def is_compiled(self, name: str) -> bool:
        """Whether a module was made by ``torch.jit``, so that nothing of what it does is visible."""
        return isinstance(self.modules[name], torch.jit.ScriptModule)

    def _in_compiled(self, name: str) -> bool:
        return any(is_inside(name, parent) for parent in self._compiled if parent != name)

    def _attends(self, name: str) -> bool:
        return ATTENTION_OPERATOR.search(str(self.modules[name].inlined_graph)) is not None

    def _callers(self) -> Iterator[tuple[str, nn.Module]]:
        """Modules that may call attention: not torch's own leaves, as linear layers, nor what is inside torch.jit."""
        for name, module in self.modules.items():
            if name in self._compiled or self._in_compiled(name):
                continue
            is_leaf = type(module).__module__.startswith("torch.nn.modules.") and next(module.children(), None) is None
            if not is_leaf or name == "":
                yield name, module

    def _enters(self, name: str) -> Callable:
        def enter(module: nn.Module, args: Any) -> None:
            self._stack.append(name)
            self.visited.add(name)

        return enter

    def _leaves(self, name: str) -> Callable:
        def leave(module: nn.Module, args: Any, output: Any) -> None:
            # A hook must return None: any other value replaces the module's output.
            self._stack.pop()
            self._on_leave(name)

        return leave


def listed(names: Collection[str]) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(name or "the model itself" for name in list(names)[:LISTED])
    return f"{shown} and {len(names) - LISTED} more" if len(names) > LISTED else shown


def is_inside(module: str, parent: str) -> bool:
    """Whether a name is that of `parent`, or of a module in it."""
    return parent in ("", module) or module.startswith(f"{parent}.")
