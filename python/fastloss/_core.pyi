from typing import Any

from numpy.typing import NDArray

TENSORFLOW_LOSS_OP: str
TENSORFLOW_SCALE_OP: str
XLA_TARGET: str

def losses() -> list[tuple[str, str, bool, list[str]]]: ...
def instruction_set() -> str: ...
def num_threads() -> int: ...
def set_num_threads(n: int) -> None: ...
def plan_text(
    loss: int,
    parameters: list[float],
    axes: list[int] | None,
    label_smoothing: float,
    class_weight: list[float],
    class_weight_name: str,
    ignore_class: int | None,
) -> str: ...
def check_operation(line: str, inputs: list[tuple[str, list[int]]]) -> None: ...
def register_tensorflow_ops(path: str) -> None: ...
def register_xla_handler(path: str) -> None: ...
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
) -> None: ...
