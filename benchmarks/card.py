"""The GPU: its memory as every framework's arrays, its events, and who is measured on it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

import fastloss
import formulas
from sides import CUPY, Call, Side, jax_jit, torch_compiled, torch_eager
from workload import Array, Case, draw

# All sets of inputs together are this many times the L2 cache: nobody finds the last ones there.
L2_MULTIPLE, MOST_CARD_SETS = 4, 64

# Inputs are drawn on the host, and their rows repeated on the card.
MOST_DRAWN = 4_000_000


class Card:
    """CuPy's current device, and what of it other frameworks see."""

    def __init__(self) -> None:
        import cupy
        import ml_dtypes

        self.cupy = cupy
        self.l2 = int(cupy.cuda.Device().attributes["L2CacheSize"])
        # CuPy has bfloat16 since 14.
        has_bfloat16 = int(cupy.__version__.split(".")[0]) >= 14
        self.half = np.dtype(ml_dtypes.bfloat16 if has_bfloat16 else np.float16)
        self._evicting = cupy.empty(2 * self.l2, np.uint8)

    def put(self, array: Array, repeats: int) -> Any:
        """The rows of a host's array, so often."""
        return self.cupy.tile(self.cupy.asarray(array), (repeats,) + (1,) * (array.ndim - 1))

    def empty_like(self, array: Any) -> Any:
        """As large, with anything in it."""
        return self.cupy.empty_like(array)

    def host(self, x: Any) -> Array:
        """Any framework's array, as NumPy's."""
        if hasattr(x, "detach"):  # PyTorch's; NumPy knows none of its halves
            x = x.detach()
            return np.asarray((x.float() if x.is_floating_point() else x).cpu())
        return np.asarray(x.get() if hasattr(x, "get") else x)

    def torch(self, x: Any) -> Any:
        """The same memory for PyTorch, which wants labels of 64 bits."""
        import torch

        if x.dtype == self.half:
            half = torch.float16 if self.half == np.float16 else torch.bfloat16
            return torch.from_dlpack(x.view(np.int16)).view(half)
        tensor = torch.from_dlpack(x)
        return tensor if tensor.is_floating_point() else tensor.long()

    def jax(self, x: Any) -> Any:
        """The same memory, halves copied, for JAX."""
        import jax

        if x.dtype == self.half:
            return jax.lax.bitcast_convert_type(jax.dlpack.from_dlpack(x.view(np.int16)), x.dtype)
        return jax.dlpack.from_dlpack(x)

    def copy(self, size: int) -> Callable[[], Any]:
        """A copy that reads and writes so many bytes together."""
        source, target = (self.cupy.empty(max(size // 2, 1), np.uint8) for _ in range(2))
        return partial(self.cupy.copyto, target, source)

    def captured(self, call: Callable[[], Any]) -> Callable[[], Any]:
        """The same work as a CUDA graph, which a call replays; it fails if the work waits."""
        stream = self.cupy.cuda.Stream(non_blocking=True)
        with stream:
            call()  # what is made once: kernels loaded, memory in the pool
            stream.synchronize()
            stream.begin_capture()
            results = call()
            graph = stream.end_capture()

        def replay() -> Any:
            graph.launch()
            return results

        return replay

    def empty_kernel(self) -> Callable[[], Any]:
        """A kernel that does nothing."""
        kernel = self.cupy.RawKernel('extern "C" __global__ void nothing() {}', "nothing")
        return partial(kernel, (1,), (1,), ())

    def evict(self) -> None:
        """Enqueue what leaves nothing of use in the L2 cache."""
        self._evicting.fill(0)

    def synchronize(self) -> None:
        """Wait until the device is through with everything."""
        self.cupy.cuda.Device().synchronize()

    def milliseconds(self, work: Callable[[], Any]) -> float:
        """How long the device takes from the first to the last of what is enqueued."""
        start, stop = self.cupy.cuda.Event(), self.cupy.cuda.Event()
        start.record()
        work()
        stop.record()
        stop.synchronize()
        return float(self.cupy.cuda.get_elapsed_time(start, stop))

    def free(self) -> None:
        """Give back what pools hold."""
        self.cupy.get_default_memory_pool().free_all_blocks()


@dataclass(frozen=True)
class OwnStream:
    """A call of JAX: its work is on a stream that CuPy's events do not see."""

    call: Call

    def __call__(self, i: int) -> Any:
        """Enqueue, and return what will be there."""
        return self.call(i)


class CudaTimer:
    """Events of the device around calls; in front of them, if wanted, what empties the L2 cache."""

    warming_seconds = 0.0  # no threads of another side compute beside

    def __init__(self, card: Card, *, evicts: bool) -> None:
        self.card, self.evicts = card, evicts

    def seconds(self, call: Call, sets: list[int]) -> float:
        """How long the calls take on each of the sets in turn, per set."""
        if self.evicts:
            self.card.evict()
        if isinstance(call, OwnStream):
            import jax

            self.card.synchronize()
            start = time.perf_counter()
            for i in sets:
                result = call(i)
            jax.block_until_ready(result)
            return (time.perf_counter() - start) / len(sets)

        def work() -> None:
            for i in sets:
                call(i)

        return self.card.milliseconds(work) / 1e3 / len(sets)


class CardInputs:
    """Sets of inputs on the card; on the host the rows of the first, which all repeat."""

    has_room = True

    def __init__(self, case: Case, card: Card) -> None:
        self.card = card
        rows = case.shape[0]
        self.repeats = next(
            r
            for r in range(1, rows + 1)
            if rows % r == 0 and (case.elements // r <= MOST_DRAWN or r == rows)
        )
        few = replace(case, shape=(rows // self.repeats, *case.shape[1:]))
        dtype = np.dtype(np.float32) if case.dtype == "float32" else card.half
        t, p = draw(few, np.random.default_rng(list(case.loss.encode())))
        self.numpy = [(t if case.has_labels else t.astype(dtype), p.astype(dtype))]
        sets = -(-L2_MULTIPLE * card.l2 // case.bytes(True))
        self.cupy = [
            tuple(card.put(a, self.repeats) for a in self.numpy[0])
            for _ in range(min(max(sets, 1), MOST_CARD_SETS))
        ]
        self.gradients = [card.empty_like(p) for _, p in self.cupy]

    def __len__(self) -> int:
        return len(self.cupy)

    def comparable(self, results: Any) -> list[Any]:
        """What a call on the first set returned, as if the rows had not been repeated."""
        value, *gradients = results
        rows = self.numpy[0][1].shape[0]
        last = [self.card.host(g[-rows:]).astype(np.float32) * self.repeats for g in gradients]
        return [self.card.host(value).reshape(()), *last]

    def completed(self, result: Any) -> Any:
        """The result as it is: the timer waits."""
        return result

    @cached_property
    def torch(self) -> list[tuple[Any, Any]]:
        """Tensors on the same memory."""
        return [(self.card.torch(t), self.card.torch(p)) for t, p in self.cupy]

    @cached_property
    def jax(self) -> list[tuple[Any, Any]]:
        """Arrays of JAX."""
        return [(self.card.jax(t), self.card.jax(p)) for t, p in self.cupy]


def _ours(case: Case, inputs: Any, gradient: bool, how: str) -> Call | None:
    if case.spec.batched:
        return None  # they are computed by other libraries, too, and not measured here
    loss = getattr(fastloss, case.spec.class_name)(**case.options)
    if how == "out=" and not gradient:
        return None
    pairs, outs = inputs.cupy, inputs.gradients

    def call(i: int) -> Any:
        if not gradient:
            return (loss(*pairs[i]),)
        return loss.value_and_grad(*pairs[i], **({"out": outs[i]} if how else {}))

    if how != "graph":
        return call
    replays = [inputs.card.captured(partial(call, i)) for i in range(len(pairs))]
    return lambda i: replays[i]()


def _expressions(case: Case, inputs: Any, gradient: bool) -> Call | None:
    """What a user of CuPy writes, who has to derive the gradient."""
    expression = formulas.array_expressions(inputs.card.cupy).get(case.loss)
    if expression is None:
        return None
    pairs = [(t, p, gradient) for t, p in inputs.cupy]
    return lambda i: expression(*pairs[i])


def _jax(case: Case, inputs: Any, gradient: bool) -> Call | None:
    call = jax_jit(case, inputs, gradient)
    return call and OwnStream(call)


def _liger(case: Case, inputs: Any, gradient: bool) -> Call | None:
    """Liger-Kernel, which writes the gradient over its input; so it has inputs of its own."""
    if case.name != "sparse_categorical_crossentropy" or not case.from_logits or not gradient:
        return None
    from liger_kernel.transformers.functional import liger_cross_entropy

    pairs = [(t, p.clone().requires_grad_()) for t, p in inputs.torch]

    def value_and_gradient(i: int) -> Any:
        t, p = pairs[i]
        result = liger_cross_entropy(p, t)
        result.backward()
        grad, p.grad = p.grad, None
        return result.detach(), grad

    return value_and_gradient


def _copy(case: Case, inputs: Any, gradient: bool) -> Call:
    calls = [inputs.card.copy(case.bytes(gradient)) for _ in range(len(inputs))]
    return lambda i: calls[i]()


def card_sides() -> list[Side]:
    """Everyone on a GPU, whether installed or not."""
    return [
        Side(CUPY, "fastloss", partial(_ours, how="")),
        Side(f"{CUPY}, out=", "fastloss", partial(_ours, how="out=")),
        Side(f"{CUPY}, graph", "fastloss", partial(_ours, how="graph")),
        Side("CuPy expressions", "cupy", _expressions),
        Side("PyTorch eager", "torch", torch_eager),
        Side("PyTorch compile", "torch", torch_compiled),
        Side("JAX jit", "jax", _jax),
        Side("Liger-Kernel", "liger_kernel", _liger),
        Side("floor, copy", "cupy", _copy),
    ]


def launch_costs(card: Card, seconds: float) -> list[dict[str, Any]]:
    """Small calls from Python until the device is through with them, beside an empty kernel."""
    calls: dict[str, Callable[[], Any]] = {"an empty kernel": card.empty_kernel()}
    for case in (
        Case("mean_squared_error", (256, 10)),
        Case("sparse_categorical_crossentropy", (256, 10), from_logits=True),
        Case("dice", (256, 10)),
    ):
        call = _ours(case, CardInputs(case, card), True, "out=")
        assert call is not None
        calls[f"{case.loss}, {'x'.join(map(str, case.shape))}"] = partial(call, 0)
    rows = []
    for name, run in calls.items():
        samples: list[float] = []
        end = time.perf_counter() + seconds
        while len(samples) < 50 or time.perf_counter() < end:
            card.synchronize()
            start = time.perf_counter()
            run()
            card.synchronize()
            samples.append(time.perf_counter() - start)
        rows.append({"call": name, "median": statistics.median(samples[len(samples) // 5 :])})
    return rows
