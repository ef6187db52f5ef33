from collections.abc import Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from typing_extensions import CapsuleType

TENSORFLOW_LOSS_OP: str
TENSORFLOW_SCALE_OP: str
XLA_TARGET: str
XLA_HANDLER: CapsuleType

def losses() -> list[tuple[str, str, bool, bool, list[str]]]: ...
def instruction_set() -> str: ...
def instruction_sets() -> list[str]: ...
def num_threads() -> int: ...
def set_num_threads(n: int) -> None: ...
def check_operation(line: str, inputs: list[tuple[str, list[int]]]) -> None: ...
def register_tensorflow_ops(path: str) -> None: ...
def register_xla_handler(path: str, target: str, platform: str, handler: CapsuleType) -> None: ...
def empty(shape: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]: ...
def check_out(out: object, y_pred: NDArray[Any]) -> None: ...
def may_fill(out: NDArray[Any], array: NDArray[Any]) -> bool: ...

class Plan:
    @overload
    def __init__(self, terms: Sequence[tuple[float, Plan]]) -> None: ...
    @overload
    def __init__(
        self,
        loss: int,
        parameters: list[float],
        axes: Sequence[int] | None,
        label_smoothing: float,
        class_weight: list[float],
        class_weight_name: str,
        ignore_class: int | None,
        weight_is_per_class: bool,
    ) -> None: ...
    def axes_of(self, rank: int) -> list[int]: ...
    def line(self) -> str: ...
    def warn_of_one_class(self, warns: bool) -> None: ...
    def check_labels(
        self,
        y_true: NDArray[Any],
        shape: Sequence[int],
        sample_weight: NDArray[Any] | None,
        mask: NDArray[Any] | None,
    ) -> None: ...
    def run(
        self,
        y_true: object,
        y_pred: object,
        reduction: int,
        sample_weight: object,
        mask: object,
        upstream: object,
        wrt: str | None,
        out: object,
        own_weights: tuple[object, ...] | None = None,
    ) -> tuple[Any, NDArray[Any] | None, NDArray[Any] | None] | None: ...

def run_ctc(
    y_true: NDArray[Any],
    label_length: NDArray[Any],
    y_pred: NDArray[Any],
    logit_length: NDArray[Any],
    blank: int,
    weight: NDArray[Any],
    slope: NDArray[Any],
    values: NDArray[Any],
    grad: NDArray[Any] | None,
) -> None: ...
def check_ctc(
    y_true: NDArray[Any],
    label_length: NDArray[Any],
    logit_length: NDArray[Any],
    weight: NDArray[Any],
    frames: int,
    classes: int,
) -> None: ...
