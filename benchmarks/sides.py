"""Who is measured: every way to compute a loss, one small function each.

A maker takes a case, its inputs and whether a gradient is wanted, and returns a call: (number of a
set of inputs) -> (value, gradient) or (value,), complete when it returns. None: there is no such
loss on that side.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import fastloss
import floor
import formulas
from workload import Case, Inputs

Call = Callable[[int], Any]
Maker = Callable[[Case, Inputs, bool], Call | None]

# How the names of sides begin.
OURS, FLOOR = "fastloss", "floor"
NUMPY, CUPY = "fastloss NumPy", "fastloss CuPy"


@dataclass(frozen=True)
class Side:
    """A row of the tables: a framework in one of its modes."""

    name: str
    package: str  # what must be installed
    make: Maker

    @property
    def is_ours(self) -> bool:
        """Whether it is fastloss, in any mode."""
        return self.name.startswith(OURS)

    @property
    def is_floor(self) -> bool:
        """Whether it computes nothing."""
        return self.name.startswith(FLOOR)

    @property
    def is_peer(self) -> bool:
        """Whether it is somebody else's."""
        return not (self.is_ours or self.is_floor)

    @property
    def is_installed(self) -> bool:
        """Whether its package, or the compiler of the floor, is there."""
        if self.package == FLOOR:
            return floor.compiler() is not None
        return importlib.util.find_spec(self.package) is not None


def _numpy(case: Case, inputs: Inputs, gradient: bool) -> Call:
    loss = getattr(fastloss, case.spec.class_name)(**case.options)
    pairs = inputs.numpy
    if gradient:
        return lambda i: loss.value_and_grad(*pairs[i])
    return lambda i: (loss(*pairs[i]),)


def numpy_out(case: Case, inputs: Inputs, gradient: bool) -> Call | None:
    """The gradient written into an array that is there already."""
    if not (gradient and inputs.has_room):
        return None
    loss = getattr(fastloss, case.spec.class_name)(**case.options)
    pairs, outs = inputs.numpy, inputs.gradients
    return lambda i: loss.value_and_grad(*pairs[i], out=outs[i])


def _tensorflow(module: str, mode: str, case: Case, inputs: Inputs, gradient: bool) -> Call | None:
    import tensorflow as tf

    make_loss = getattr(importlib.import_module(module), case.spec.class_name, None)
    if make_loss is None:
        return None
    loss = make_loss(**case.options)

    def value(t: Any, p: Any) -> Any:
        return (loss(t, p),)

    def value_and_gradient(t: Any, p: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(p)
            result = loss(t, p)
        return result, tape.gradient(result, p)

    function = value_and_gradient if gradient else value
    if mode != "eager":
        function = tf.function(function, jit_compile=mode == "XLA")
    pairs = inputs.tensorflow
    return lambda i: function(*pairs[i])


def _expression(case: Case, numbers: Any) -> Callable[[Any, Any], Any] | None:
    """The mean of a loss as an expression, where there is one."""
    kinds = formulas.label_expressions if case.has_labels else formulas.expressions
    expression = kinds(numbers).get(case.name)
    if expression is None:
        return None
    if case.name == "kl_divergence":  # the sum of a row, not its mean
        return lambda t, p: expression(t, p, case.options).sum(-1).mean()
    if case.spec.kind == "region":
        return lambda t, p: expression(t.reshape(-1), p.reshape(-1), case.options)
    return lambda t, p: expression(t, p, case.options).mean()


def _torch_loss(case: Case) -> Callable[[Any, Any], Any] | None:
    """PyTorch's own function; else the expression."""
    from torch.nn import functional as f

    # These differ from Keras's at the edges of their domains only, where no input lies.
    inside = {
        "binary_crossentropy": lambda t, p: f.binary_cross_entropy(p, t),
        "kl_divergence": lambda t, p: f.kl_div(p.log(), t, reduction="batchmean"),
        "cosine_similarity": lambda t, p: -f.cosine_similarity(p, t, dim=-1).mean(),
    }

    def ctc(t: Any, p: Any) -> Any:
        batch, frames, _ = p.shape
        lengths = (frames,) * batch, (t.shape[1],) * batch
        losses = f.ctc_loss(p.log_softmax(-1).transpose(0, 1), t, *lengths, reduction="none")
        return losses.mean()

    own = formulas.torch_functions(case.options) | ({} if case.from_logits else inside)
    if case.name == "ctc":
        return ctc
    return own.get(case.name) or _expression(case, formulas.torch_numbers())


def torch_eager(case: Case, inputs: Inputs, gradient: bool) -> Call | None:
    """The loss, and `backward()`."""
    import torch

    loss = _torch_loss(case)
    if loss is None:
        return None
    pairs = inputs.torch
    if not gradient:

        def value(i: int) -> Any:
            with torch.no_grad():
                return (loss(*pairs[i]),)

        return value

    leaves = [(t, p.detach().requires_grad_()) for t, p in pairs]

    def value_and_gradient(i: int) -> Any:
        t, p = leaves[i]
        result = loss(t, p)
        result.backward()
        grad, p.grad = p.grad, None
        return result.detach(), grad

    return value_and_gradient


def torch_compiled(case: Case, inputs: Inputs, gradient: bool) -> Call | None:
    """Value and gradient in one compiled graph: faster than to compile the loss alone."""
    import torch

    loss = _torch_loss(case)
    if loss is None:
        return None
    pairs = inputs.torch
    torch.compiler.reset()  # else the shapes of many cases end in its fallback
    if not gradient:
        function = torch.compile(loss, dynamic=False)

        def value(i: int) -> Any:
            with torch.no_grad():
                return (function(*pairs[i]),)

        return value

    both = torch.compile(torch.func.grad_and_value(loss, argnums=1), dynamic=False)

    def value_and_gradient(i: int) -> Any:
        grad, result = both(*pairs[i])
        return result, grad

    return value_and_gradient


def jax_jit(case: Case, inputs: Inputs, gradient: bool) -> Call | None:
    """Compiled, and with the memory of the last gradient for the next."""
    import jax

    loss = _expression(case, formulas.jax_numbers())
    if loss is None:
        return None
    pairs = inputs.jax
    if not gradient:
        function = jax.jit(loss)
        return lambda i: (inputs.completed(function(*pairs[i])),)

    slope = jax.value_and_grad(loss, argnums=1)
    if not inputs.has_room:
        alone = jax.jit(slope)
        return lambda i: inputs.completed(alone(*pairs[i]))
    both = jax.jit(lambda _, t, p: slope(t, p), donate_argnums=0, keep_unused=True)
    last = [jax.numpy.zeros_like(pairs[0][1])]

    def value_and_gradient(i: int) -> Any:
        result, last[0] = inputs.completed(both(last[0], *pairs[i]))
        return result, last[0]

    return value_and_gradient


def all_sides(threads: int) -> list[Side]:
    """Everyone, whether installed or not."""
    sides = [Side(NUMPY, OURS, _numpy), Side(f"{NUMPY}, out=", OURS, numpy_out)]
    for name, module in (("fastloss TF", "fastloss.keras"), ("Keras", "keras.losses")):
        sides += [
            Side(f"{name} {mode}", "keras", partial(_tensorflow, module, mode))
            for mode in ("eager", "graph", "XLA")
        ]
    sides += [
        Side("PyTorch eager", "torch", torch_eager),
        Side("PyTorch compile", "torch", torch_compiled),
        Side("JAX jit", "jax", jax_jit),
        Side("floor, 1 thread", FLOOR, partial(floor.make, threads=1, streaming=False)),
    ]
    if threads > 1:
        sides.append(Side("floor", FLOOR, partial(floor.make, threads=threads, streaming=False)))
    streaming = partial(floor.make, threads=threads, streaming=True)
    return [*sides, Side("floor, streaming stores", FLOOR, streaming)]
