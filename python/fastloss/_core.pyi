from typing import Any

from numpy.typing import NDArray

def losses() -> list[tuple[str, str, bool, list[str]]]: ...
def instruction_set() -> str: ...
def max_threads() -> int: ...
def run(
    loss: int,
    parameters: list[float],
    y_true: NDArray[Any],
    y_pred: NDArray[Any],
    axes: list[int],
    target_scale: float,
    target_shift: float,
    class_weight: NDArray[Any] | None,
    ignore_class: int | None,
    sample_weight: NDArray[Any] | None,
    mask: NDArray[Any] | None,
    reduction: int,
    upstream: float,
    row_upstream: NDArray[Any] | None,
    values: NDArray[Any] | None,
    grad_pred: NDArray[Any] | None,
    grad_true: NDArray[Any] | None,
    threads: int,
) -> float: ...
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
    threads: int,
) -> None: ...
