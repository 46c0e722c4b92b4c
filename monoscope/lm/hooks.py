"""Reading and editing activations in a running model, by hooks that leave with the call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from monoscope.errors import DataError, SiteError
from monoscope.lm.families import FORWARD_ORDER, Port, port_of
from monoscope.lm.protocol import Hook, Positions
from monoscope.sites import Site

# Two sites may live on one side of one module; their edits then apply in the order of the pass.
_ORDER = ("embed", *FORWARD_ORDER, "module")


class _Reached(Exception):
    """Ends a forward pass that need go no further."""


def read(model: nn.Module, sites: Sequence[Site], forward: Callable[[], object]) -> list[Tensor]:
    """x at each of `sites`, in their order, while `forward()` runs; the pass stops at the last.

    Raises SiteError where a site does not hold one tensor [B,S,D], or is never reached.
    """
    ports = {site: port_of(model, site) for site in sites}
    found: dict[Site, Tensor] = {}

    def keeping(site: Site) -> Callable[[Tensor], None]:
        def keep(x: Tensor) -> None:
            if site in found:  # a module that runs twice is read where the pass first comes by
                return
            last = len(found) + 1 == len(ports)
            found[site] = x if last else x.clone()  # what still runs may write into x
            if last:
                raise _Reached

        return keep

    with ExitStack() as stack:
        for site, port in ports.items():
            stack.enter_context(_attached(model, port, site, keeping(site)))
        try:
            forward()
        except _Reached:
            return [found[site] for site in sites]
    missing = next(site for site in sites if site not in found)
    raise SiteError("the forward pass never runs this module", got=missing)


@contextmanager
def editing(
    model: nn.Module, hooks: Mapping[Site, Hook] | None, positions: Positions
) -> Iterator[None]:
    """While inside, every forward pass of `model` has the sites in `hooks` edited."""
    parsed = [(Site.parse(site), hook) for site, hook in (hooks or {}).items()]
    parsed.sort(key=lambda pair: _ORDER.index(pair[0].kind))
    with ExitStack() as stack:
        for site, hook in parsed:
            port = port_of(model, site)
            edit = _Edit(site, hook, positions)
            stack.enter_context(_attached(model, port, site, edit.apply))
            if port.rejoin is not None:
                rejoin = Port(port.rejoin, "out")
                stack.enter_context(_attached(model, rejoin, site, edit.carry_on))
        yield


class _Edit:
    """One hook at one site, and what it changed, for sites whose edit must be carried on."""

    def __init__(self, site: Site, hook: Hook, positions: Positions) -> None:
        self.site, self.hook, self.positions = site, hook, positions
        self.delta: Tensor | None = None

    def apply(self, x: Tensor) -> Tensor | None:
        """The edited x in x's own dtype, or None where the hook left it alone."""
        wide = x.float()
        version = wide._version
        edited = self.hook(wide, self.positions)
        if wide._version != version:
            what = f"the hook at {self.site} changed its input in place"
            raise DataError(what, hint="Return a new tensor.")
        if edited is wide:
            self.delta = None
            return None
        if not isinstance(edited, Tensor) or edited.shape != x.shape:
            got = tuple(edited.shape) if isinstance(edited, Tensor) else type(edited).__name__
            what = f"the hook at {self.site} returned the wrong shape"
            raise DataError(what, got=got, expected=tuple(x.shape))
        self.delta = edited - wide
        return edited.to(x.dtype)

    def carry_on(self, x: Tensor) -> Tensor | None:
        """Add what the edit changed to the stream that passed the site by."""
        delta, self.delta = self.delta, None
        return None if delta is None else (x.float() + delta).to(x.dtype)


@contextmanager
def _attached(
    model: nn.Module, port: Port, site: Site, visit: Callable[[Tensor], Tensor | None]
) -> Iterator[None]:
    """Call `visit` with the activation at `port`; what it returns, if anything, replaces it."""

    def on_input(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        key = _first_tensor(kwargs) if not args else None
        x = _checked(kwargs[key] if key else (args or (None,))[0], site)
        new = visit(x)
        if new is None:
            return None
        return (args, {**kwargs, key: new}) if key else ((new, *args[1:]), kwargs)

    def on_output(module: nn.Module, args: tuple[Any, ...], output: object) -> object:
        inner = output[0] if isinstance(output, tuple) and output else output
        new = visit(_checked(inner, site))
        if new is None:
            return None
        return (new, *output[1:]) if isinstance(output, tuple) else new

    module = model.get_submodule(port.module)
    if port.io == "in":
        handle = module.register_forward_pre_hook(on_input, with_kwargs=True)
    else:
        handle = module.register_forward_hook(on_output)
    try:
        yield
    finally:
        handle.remove()


def _first_tensor(kwargs: dict[str, Any]) -> str | None:
    if isinstance(kwargs.get("hidden_states"), Tensor):
        return "hidden_states"
    return next((key for key, value in kwargs.items() if isinstance(value, Tensor)), None)


def _checked(x: object, site: Site) -> Tensor:
    if isinstance(x, Tensor) and x.ndim == 3 and torch.is_floating_point(x):
        return x
    got = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
    raise SiteError(
        f"{site} does not hold one activation per token", got=got, expected="a float tensor [B,S,D]"
    )
