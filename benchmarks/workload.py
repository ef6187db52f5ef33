"""What is measured: the losses with their options, the sizes, the inputs, and the bytes to move."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from fastloss._registry import BY_NAME, REGISTRY, LossSpec

Array = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, ...]

# Elements of y_pred, in rows of up to 1000.
ELEMENTS = (100, 1_000, 10_000, 100_000, 1_000_000, 16_000_000)

LADDERS: dict[str, tuple[Shape, ...]] = {
    "map": tuple((math.ceil(n / 1000), min(n, 1000)) for n in ELEMENTS),
    "row": ((32, 10), (256, 10), (65536, 10), (4096, 1000), (512, 32000), (16, 256000)),
    "pairwise": ((64, 128), (512, 128)),  # embeddings
    "sequence": ((4, 50, 20), (32, 200, 100)),  # batch, frames, classes
}
LADDERS["region"] = LADDERS["map"]

# On a GPU, where small sizes say what a launch costs. Losses of batches are not measured there.
CUDA_LADDERS: dict[str, tuple[Shape, ...]] = {
    "map": ((1, 1000), (1000, 1000), (64_000, 1000)),
    "row": ((256, 10), (64_000, 1000), (4096, 32_000), (8192, 128_256)),
    "region": ((1000, 1000), (64_000, 1000)),
    "pairwise": (),
    "sequence": (),
}

MOST_EMBEDDINGS = 8192  # there is a similarity for each pair of them

# What is larger leaves a GPU no room for those who are compared.
MOST_CUDA_BYTES = 6 << 30

# Inputs are taken in turn from this many sets at most, or from as many as fill ROTATED_BYTES.
MOST_SETS, ROTATED_BYTES = 8, 512 << 20

LINE = 64  # bytes of a cache line, which arrays are aligned to

# Losses whose predictions are any numbers; those of the others are probabilities or positive.
UNBOUNDED = {
    "mean_squared_error", "mean_absolute_error", "mean_absolute_percentage_error", "huber",
    "log_cosh", "hinge", "squared_hinge", "categorical_hinge", "cosine_similarity", "circle", "ctc",
    "mean_square", "mean_absolute", "z_loss",
}  # fmt: skip

# What `--quick` measures of each kind.
QUICK_LOSSES = (
    "mean_squared_error", "binary_crossentropy", "sparse_categorical_crossentropy", "dice",
)  # fmt: skip
QUICK_LADDERS: dict[str, tuple[Shape, ...]] = {
    "map": ((1, 100), (1000, 1000)),
    "row": ((256, 10), (4096, 1000)),
    "region": ((1000, 1000),),
}
QUICK_CUDA_LADDERS: dict[str, tuple[Shape, ...]] = {
    "map": ((1, 1000), (64_000, 1000)),
    "row": ((256, 10), (4096, 32_000), (8192, 128_256)),
    "region": ((64_000, 1000),),
}


@dataclass(frozen=True)
class Case:
    """A loss of the registry, on arrays of a shape."""

    name: str
    shape: Shape
    from_logits: bool = False
    dtype: str = "float32"
    labels: bool = False  # targets that are 0 or 1, where others of the loss lie between

    @property
    def spec(self) -> LossSpec:
        """The row of the registry."""
        return BY_NAME[self.name]

    @property
    def options(self) -> dict[str, Any]:
        """What the class is made with, beside its defaults."""
        return {"from_logits": True} if self.from_logits else {}

    @property
    def takes_logits(self) -> bool:
        """Whether the loss can be computed from logits."""
        return any(p.name == "from_logits" for p in self.spec.parameters)

    @property
    def loss(self) -> str:
        """The name that tables show."""
        modes = ["logits"] * self.from_logits + ["labels"] * self.labels
        modes += [] if self.dtype == "float32" else [self.dtype]
        return f"{self.name} ({', '.join(modes)})" if modes else self.name

    @property
    def elements(self) -> int:
        """Of y_pred."""
        return math.prod(self.shape)

    @property
    def has_labels(self) -> bool:
        """Whether y_true holds integers, whose bytes do not count."""
        return self.spec.labels == "integer"

    @property
    def reads_targets(self) -> bool:
        """Whether y_true has as many bytes as y_pred, and is looked at."""
        return self.spec.uses_target and not self.has_labels

    def reads_twice(self, gradient: bool) -> bool:
        """Whether a gradient needs sums over the whole arrays first."""
        return gradient and self.spec.kind == "region"

    def bytes(self, gradient: bool) -> int:
        """The fewest that can be moved: what is read of y_true and y_pred, the gradient written."""
        reads = (2 if self.reads_targets else 1) * (2 if self.reads_twice(gradient) else 1)
        item = 4 if self.dtype == "float32" else 2
        return item * self.elements * (reads + gradient)

    def part(self, most_bytes: int) -> Case | None:
        """As many of its rows as move no more bytes, if one does not."""
        rows = most_bytes * self.shape[0] // self.bytes(gradient=True)
        return replace(self, shape=(rows, *self.shape[1:])) if rows else None


def size_name(shape: Shape) -> str:
    """The shape as it is written on the command line and in tables."""
    return "x".join(str(n) for n in shape)


def shape_of(text: str) -> Shape:
    """The shape that a size on the command line means: 32x10, or 16M in rows of 1000."""
    units = {"k": 1_000, "m": 1_000_000}
    factors = [p[:-1] if p[-1:].lower() in units else p for p in text.split("x")]
    scales = [units.get(p[-1:].lower(), 1) for p in text.split("x")]
    if not all(f.isdigit() and int(f) for f in factors):
        raise ValueError(f"size: expected a number such as 100k, or rows x classes, got {text!r}")
    shape = tuple(int(f) * s for f, s in zip(factors, scales, strict=True))
    if len(shape) > 1:
        return shape
    return (math.ceil(shape[0] / 1000), min(shape[0], 1000))


def cases(
    losses: Sequence[str] = (),
    sizes: Sequence[Shape] = (),
    ladders: Mapping[str, Sequence[Shape]] = LADDERS,
    dtypes: Sequence[str] = ("float32",),
) -> Iterator[Case]:
    """Every loss, or those named, with probabilities and with logits, over the sizes and dtypes."""
    known = {name for spec in REGISTRY for name in (spec.name, *spec.aliases)}
    for name in set(losses) - known:
        raise ValueError(f"loss: there is no {name!r}")
    for spec in REGISTRY:
        if losses and not {spec.name, *spec.aliases} & set(losses):
            continue
        modes: list[dict[str, bool]] = [{}]
        if spec.name.startswith("binary"):
            modes.append({"labels": True})
        if any(p.name == "from_logits" for p in spec.parameters):
            modes.append({"from_logits": True})
        ndim = len(LADDERS[spec.kind][0])
        for mode, dtype in itertools.product(modes, dtypes):
            for shape in sizes or ladders.get(spec.kind, LADDERS[spec.kind]):
                too_many = spec.kind == "pairwise" and shape[0] > MOST_EMBEDDINGS
                if len(shape) == ndim and not too_many:
                    yield Case(spec.name, shape, dtype=dtype, **mode)


def aligned(shape: Shape, dtype: Any = np.float32) -> Array:
    """An empty array that starts a cache line, as streaming stores need it."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    buffer = np.empty(size + LINE, np.uint8)
    start = -buffer.ctypes.data % LINE
    array: Array = buffer[start : start + size].view(dtype).reshape(shape)
    return array


def draw(case: Case, rng: np.random.Generator) -> tuple[Array, Array]:
    """(y_true, y_pred) from the domain of the loss, where clips and kinks do not matter."""
    p = aligned(case.shape)
    if case.from_logits or case.name in UNBOUNDED:
        rng.standard_normal(out=p, dtype=np.float32)
        if case.spec.kind == "row":
            p *= 0.5  # no softmax of 256,000 classes is below 1e-7, where Keras's focal loss clips
        # The kinks of hinges and of |x|, where every framework has its own slope.
        p[(p == 0) | (np.abs(p) == 1)] = 1.5
    else:
        rng.random(out=p, dtype=np.float32)
        p *= 0.96
        p += 0.02
    if case.spec.kind == "sequence":
        batch, frames, classes = case.shape
        return rng.integers(1, classes, (batch, frames // 5), np.int32), p
    if case.spec.kind == "pairwise":
        # Embeddings have length 1: a cosine is multiplied by 80 and then exponentiated.
        p /= np.linalg.norm(p, axis=1, keepdims=True)
        return rng.integers(0, max(case.shape[0] // 8, 2), case.shape[0], np.int32), p
    if case.has_labels:
        return rng.integers(0, case.shape[1], case.shape[0], np.int32), p
    t = aligned(case.shape)
    rng.random(out=t, dtype=np.float32)
    if case.labels:
        np.copyto(t, t < 0.5)
    elif "hinge" in case.name and case.spec.kind == "map":
        np.copyto(t, np.where(t < 0.5, np.float32(-1), np.float32(1)))
    elif case.spec.kind == "row":
        # TensorFlow takes it for granted that targets are distributions.
        t /= t.sum(axis=1, keepdims=True)
    else:
        t *= 0.96
        t += 0.02
    return t, p


class Inputs:
    """A few sets of inputs for a case, for every framework, and room for a gradient each.

    Without ``room`` there is one set, and who could write into given memory has to allocate, too.
    """

    def __init__(self, case: Case, *, room: bool = True) -> None:
        rng = np.random.default_rng(list(case.loss.encode()))
        count = min(max(ROTATED_BYTES // case.bytes(True), 3), MOST_SETS) if room else 1
        self.has_room = room
        self.numpy = [draw(case, rng) for _ in range(count)]
        self.gradients = [aligned(case.shape) for _ in range(count)] if room else []

    def __len__(self) -> int:
        return len(self.numpy)

    def comparable(self, results: Any) -> list[Any]:
        """What a call on the first set returned, as arrays to be compared with the reference."""
        return [np.asarray(x.detach() if hasattr(x, "detach") else x) for x in results]

    def completed(self, result: Any) -> Any:
        """A result of JAX, once it is there."""
        import jax

        return jax.block_until_ready(result)

    @cached_property
    def tensorflow(self) -> list[tuple[Any, Any]]:
        """Tensors, which are copies."""
        import tensorflow as tf

        return [(tf.constant(t), tf.constant(p)) for t, p in self.numpy]

    @cached_property
    def torch(self) -> list[tuple[Any, Any]]:
        """Tensors on the same memory; PyTorch wants labels of 64 bits."""
        import torch

        pairs = [(torch.from_numpy(t), torch.from_numpy(p)) for t, p in self.numpy]
        return [(t if t.is_floating_point() else t.long(), p) for t, p in pairs]

    @cached_property
    def jax(self) -> list[tuple[Any, Any]]:
        """Arrays of JAX."""
        import jax

        return [(jax.device_put(t), jax.device_put(p)) for t, p in self.numpy]
