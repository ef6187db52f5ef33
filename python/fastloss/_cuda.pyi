from collections.abc import Callable

from typing_extensions import CapsuleType

Description = tuple[int, str, tuple[int, ...], tuple[int, ...]]

ARCHITECTURES: str
XLA_HANDLER: CapsuleType

def driver_version() -> int: ...
def runtime_version() -> int: ...
def devices() -> list[tuple[str, tuple[int, int], int, int]]: ...

class Plan:
    def __init__(self, line: str, warns_of_one_class: bool) -> None: ...
    @property
    def class_weight(self) -> list[float]: ...
    def run(
        self,
        y_true: Description,
        y_pred: Description,
        reduction: int,
        sample_weight: Description | None,
        mask: Description | None,
        upstream: float | Description,
        grad_pred: Description | None,
        grad_true: Description | None,
        class_weight: int,
        allocate: Callable[[tuple[int, ...], str], int],
        device: int,
        stream: int,
    ) -> None: ...

def run_ctc(
    y_true: Description,
    label_length: Description | None,
    y_pred: Description,
    logit_length: Description | None,
    blank: int,
    reduction: int,
    sample_weight: Description | None,
    mask: Description | None,
    upstream: float | Description,
    grad: Description | None,
    allocate: Callable[[tuple[int, ...], str], int],
    device: int,
    stream: int,
) -> None: ...
