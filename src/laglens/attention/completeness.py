"""Whether all attention that ran was read: fewer captured than found is an error, never a smaller result."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from laglens.attention.modules import RunningModules, is_inside, listed
from laglens.errors import LaglensError
from laglens.models.tokens import Stack

EXCUSE = "name what is not attention in `not_attention`, with the reason"


class Completeness:
    """Attention modules that ran, against those in which something was read.

    Parameters
    ----------
    modules
        The modules that ran.
    excused
        Modules that need not be read, by their name, the beginning of it or the name of their class, and why.

    Attributes
    ----------
    kernels
        Functions that compute attention out of sight, by the module that called them.
    """

    def __init__(self, modules: RunningModules, excused: Mapping[str, str]) -> None:
        self.modules, self.excused = modules, excused
        self.kernels: defaultdict[str, set[str]] = defaultdict(set)

    @property
    def found(self) -> list[str]:
        """Names of the innermost attention modules that ran, without those that are excused, in the model's order."""
        return [name for name in self._attention if self.excuse(name) is None]

    @property
    def excuses(self) -> dict[str, str]:
        """Attention modules that ran and are excused, and why."""
        reasons = {name: self.excuse(name) for name in self._attention}
        return {name: reason for name, reason in reasons.items() if reason is not None}

    def missing(self, seen: Collection[str]) -> list[str]:
        """Modules of `found` in which nothing, or not all, was read; `seen`: modules with a record."""
        read = {name for name in self.found if any(is_inside(module, name) for module in seen)}
        return [name for name in self.found if name not in read or name in self.kernels]

    def excuse(self, name: str) -> str | None:
        """Why a module need not be read; None if it must be."""
        kind = self.modules.kind(name)
        return next((why for what, why in self.excused.items() if name.startswith(what) or kind == what), None)

    def check(self, seen: Collection[str], softmax: Collection[str]) -> None:
        """Raise `LaglensError`, with the modules and the way out, unless something was read in every one.

        Parameters
        ----------
        seen
            Modules with a record.
        softmax
            Modules in which a softmax ran that did not turn out to be attention.
        """
        found, missing = self.found, self.missing(seen)
        if missing or not seen:
            raise LaglensError(
                f"found {len(found)} attention modules, captured {len(found) - len(missing)}: nothing seen in "
                f"{listed(missing) or 'any module'}; {self._reason(missing, softmax)}"
            )

    def check_stacks(self, seen: Iterable[str], stacks: Iterable[Any] | None) -> None:
        """Raise `LaglensError` if attention was read that belongs to none of the `stacks` of a model that has some."""
        known = list(stacks or ())
        if not known or not all(isinstance(stack, Stack) for stack in known):
            return  # what others call stacks are modules
        placed = {layer for stack in known for layer in stack.layers}
        stray = sorted(name for name in seen if name not in placed and self.excuse(name) is None)
        if stray:
            raise LaglensError(
                f"attention of {listed(stray)} was read but belongs to no stack of the model: add it to `stacks`, or "
                "to `not_in_time` with the reason"
            )

    @property
    def _attention(self) -> list[str]:
        named = self.modules.attention() | set(self.kernels)
        return [name for name in self.modules.modules if name in named]

    def _reason(self, missing: list[str], softmax: Collection[str]) -> str:
        compiled = [name for name in missing if self.modules.is_compiled(name)]
        kernels = sorted({kernel for name in missing for kernel in self.kernels.get(name, ())})
        if compiled:
            return f"{listed(compiled)} is compiled (jit), its calls are invisible: read the module it was made from"
        if kernels:
            return (
                f"{', '.join(kernels)} ran there, whose weights cannot be read: switch the model to torch's own "
                "attention (transformers: attn_implementation='sdpa')"
            )
        if missing and set(missing) <= set(softmax):
            return (
                "their softmax is changed before it meets the values (as heads that are mixed are), so that it is "
                f"not what the model used; {EXCUSE}"
            )
        return (
            "kernels of flash-attn, xformers or flex_attention and compiled (jit) code are invisible: switch the "
            f"model to torch's own attention; {EXCUSE}"
        )
