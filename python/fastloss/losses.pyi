# Written by tools/make_stubs.py from the registry: `make stubs`.
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

from numpy.typing import ArrayLike

from fastloss._algebra import Combination as Combination
from fastloss._algebra import Sliced as Sliced
from fastloss._algebra import sliced as sliced
from fastloss._build import Loss as Loss

_Reduction: TypeAlias = (
    Literal["sum_over_batch_size", "mean", "sum", "mean_with_sample_weight", "none"] | None
)
_DType: TypeAlias = Literal["float32", "float64"] | None
_Weight: TypeAlias = Callable[[Any], Any] | ArrayLike | None

__all__ = [  # noqa: RUF022 - in the order of the registry
    "Combination",
    "Loss",
    "Sliced",
    "get",
    "sliced",
    "mean_squared_error",
    "MeanSquaredError",
    "mean_absolute_error",
    "MeanAbsoluteError",
    "mean_absolute_percentage_error",
    "MeanAbsolutePercentageError",
    "mean_squared_logarithmic_error",
    "MeanSquaredLogarithmicError",
    "huber",
    "Huber",
    "log_cosh",
    "LogCosh",
    "hinge",
    "Hinge",
    "squared_hinge",
    "SquaredHinge",
    "categorical_hinge",
    "CategoricalHinge",
    "kl_divergence",
    "KLDivergence",
    "poisson",
    "Poisson",
    "cosine_similarity",
    "CosineSimilarity",
    "binary_crossentropy",
    "BinaryCrossentropy",
    "binary_focal_crossentropy",
    "BinaryFocalCrossentropy",
    "categorical_crossentropy",
    "CategoricalCrossentropy",
    "categorical_focal_crossentropy",
    "CategoricalFocalCrossentropy",
    "sparse_categorical_crossentropy",
    "SparseCategoricalCrossentropy",
    "categorical_generalized_cross_entropy",
    "CategoricalGeneralizedCrossEntropy",
    "dice",
    "Dice",
    "iou",
    "IoU",
    "tversky",
    "Tversky",
    "mean_square",
    "MeanSquare",
    "mean_absolute",
    "MeanAbsolute",
    "confidence_penalty",
    "ConfidencePenalty",
    "z_loss",
    "ZLoss",
    "circle",
    "Circle",
    "ctc",
    "CTC",
]

def get(identifier: str | dict[str, Any] | Loss | type[Loss]) -> Loss: ...
def mean_squared_error(
    y_true: ArrayLike,
    y_pred: ArrayLike,
) -> Any: ...

class MeanSquaredError(Loss):
    def __init__(
        self,
        reduction: _Reduction = "sum_over_batch_size",
        name: str | None = "mean_squared_error",
        dtype: _DType = None,
        weight: _Weight = None,
    ) -> None: ...

def mean_absolute_error(
    y_true: ArrayLike,
    y_pred: ArrayLike,
) -> Any: ...

class MeanAbsoluteError(Loss):
    def __init__(
        self,
        reduction: _Reduction = "sum_over_batch_size",
        name: str | None = "mean_absolute_error",
        dtype: _DType = None,
        weight: _Weight = None,
    ) -> None: ...

def mean_absolute_percentage_error(
    y_true: ArrayLike,
    y_pred: ArrayLike,
) -> Any: ...

class MeanAbsolutePercentageError(Loss):
    def __init__(
        self,
        reduction: _Reduction = "sum_over_batch_size",
        name: str | None = "mean_absolute_percentage_error",
        dtype: _DType = None,
        weight: _Weight = None,
    ) -> None: ...

def mean_squared_logarithmic_error(
    y_true: ArrayLike,
    y_pred: ArrayLike,
) -> Any: ...

class MeanSquaredLogarithmicError(Loss):
    def __init__(
        self,
        reduction: _Reduction = "sum_over_batch_size",
        name: str | None = "mean_squared_logarithmic_error",
        dtype: _DType = None,
        weight: _Weight = None,
    ) -> None: ...

def huber(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    delta: float = 1.0,
) -> Any: ...

class Huber(Loss):
    delta: float
    def __init__(
        self,
        delta: float = 1.0,
        reduction: _Reduction = "sum_over_batch_size",
        name: str | None = "huber_loss",
        dtype: _DType = None,
        weight: _Weight = None,
    ) -> None: ...

def log_cosh(
    y_true: ArrayLike,
    y_pred: ArrayLike,
) -> Any: ...

class LogCosh(Loss):
    def __init__(
        self,
        reduction: _Reduction = "sum_over_batch_size",
        name: str | None = "log_cosh",
        dtype: _DType = None,
        weight: _Weight = None,
    ) -> None: ...

def hinge(
    y_true: ArrayLike,
    y_pred: ArrayLike,
) -> Any: ...

class Hinge(Loss):
    def __init__(
        self,
        reduction: _Reduction = "sum_over_batch_size",
        name: str | None = "hinge",
        dtype: _DType = None,
        weight: _Weight = None,
    ) -> None: ...

def squared_hinge(
    y_true: ArrayLike,
    y_pred: ArrayLike,
) -> Any: ...

class SquaredHinge(Loss):
    def __init__(
        self,
        reduction: _Reduction = "sum_over_batch_size",
        name: str | None = "squared_hinge",
        dtype: _DType = None,
        weight: _Weight = None,
    ) -> None: ...

def categorical_hinge(
    y_true: ArrayLike,
    y_pred: ArrayLike,
) -> Any: ...

class CategoricalHinge(Loss):
    def __init__(
        self,
        reduction: _Reduction = "sum_over_batch_size",
        name: str | None = "categorical_hinge",
        dtype: _DType = None,
        weight: _Weight = None,
    ) -> None: ...

def kl_divergence(
    y_true: ArrayLike,
    y_pred: ArrayLike,
) -> Any: ...

class KLDivergence(Loss):
    def __init__(
        self,
        reduction: _Reduction = "sum_over_batch_size",
        name: str | None = "kl_divergence",
        dtype: _DType = None,
        weight: _Weight = None,
    ) -> None: ...

def poisson(
    y_true: ArrayLike,
    y_pred: ArrayLike,
) -> Any: ...

class Poisson(Loss):
    def __init__(
        self,
        reduction: _Reduction = "sum_over_batch_size",
        name: str | None = "poisson",
        dtype: _DType = None,
        weight: _Weight = None,
    ) -> None: ...

def cosine_similarity(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    axis: int = -1,
) -> Any: ...

class CosineSimilarity(Loss):
    axis: int
    def __init__(
        self,
        axis: int = -1,
        reduction: _Reduction = "sum_over_batch_size",
        name: str | None = "cosine_similarity",
        dtype: _DType = None,
        weight: _Weight = None,
    ) -> None: ...

def binary_crossentropy(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
    class_weight: Sequence[float] | None = None,
    pos_weight: float = 1.0,
) -> Any: ...

class BinaryCrossentropy(Loss):
    from_logits: bool
    label_smoothing: float
    axis: int
    class_weight: Sequence[float] | None
    pos_weight: float
    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        class_weight: Sequence[float] | None = None,
        pos_weight: float = 1.0,
        reduction: _Reduction = "sum_over_batch_size",
        name: str | None = "binary_crossentropy",
        dtype: _DType = None,
        weight: _Weight = None,
    ) -> None: ...

def binary_focal_crossentropy(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    apply_class_balancing: bool = False,
    alpha: float = 0.25,
    gamma: float = 2.0,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
    class_weight: Sequence[float] | None = None,
    pos_weight: float = 1.0,
) -> Any: ...

class BinaryFocalCrossentropy(Loss):
    apply_class_balancing: bool
    alpha: float
    gamma: float
    from_logits: bool
    label_smoothing: float
    axis: int
    class_weight: Sequence[float] | None
    pos_weight: float
    def __init__(
        self,
        apply_class_balancing: bool = False,
        alpha: float = 0.25,
        gamma: float = 2.0,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        class_weight: Sequence[float] | None = None,
        pos_weight: float = 1.0,
        reduction: _Reduction = "sum_over_batch_size",
        name: str | None = "binary_focal_crossentropy",
        dtype: _DType = None,
        weight: _Weight = None,
    ) -> None: ...

def categorical_crossentropy(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
    class_weight: Sequence[float] | None = None,
) -> Any: ...

class CategoricalCrossentropy(Loss):
    from_logits: bool
    label_smoothing: float
    axis: int
    class_weight: Sequence[float] | None
    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        class_weight: Sequence[float] | None = None,
        reduction: _Reduction = "sum_over_batch_size",
        name: str | None = "categorical_crossentropy",
        dtype: _DType = None,
        weight: _Weight = None,
    ) -> None: ...

def categorical_focal_crossentropy(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    alpha: float | Sequence[float] = 0.25,
    gamma: float = 2.0,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
    class_weight: Sequence[float] | None = None,
) -> Any: ...

class CategoricalFocalCrossentropy(Loss):
    alpha: float | Sequence[float]
    gamma: float
    from_logits: bool
    label_smoothing: float
    axis: int
    class_weight: Sequence[float] | None
    def __init__(
        self,
        alpha: float | Sequence[float] = 0.25,
        gamma: float = 2.0,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        class_weight: Sequence[float] | None = None,
        reduction: _Reduction = "sum_over_batch_size",
        name: str | None = "categorical_focal_crossentropy",
        dtype: _DType = None,
        weight: _Weight = None,
    ) -> None: ...

def sparse_categorical_crossentropy(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    from_logits: bool = False,
    ignore_class: int | None = None,
    axis: int = -1,
    class_weight: Sequence[float] | None = None,
    *,
    check: bool = False,
) -> Any: ...

class SparseCategoricalCrossentropy(Loss):
    from_logits: bool
    ignore_class: int | None
    axis: int
    class_weight: Sequence[float] | None
    def __init__(
        self,
        from_logits: bool = False,
        ignore_class: int | None = None,
        axis: int = -1,
        class_weight: Sequence[float] | None = None,
        reduction: _Reduction = "sum_over_batch_size",
        name: str | None = "sparse_categorical_crossentropy",
        dtype: _DType = None,
        weight: _Weight = None,
    ) -> None: ...

def categorical_generalized_cross_entropy(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    q: float = 0.5,
    class_weight: Sequence[float] | None = None,
    *,
    check: bool = False,
) -> Any: ...

class CategoricalGeneralizedCrossEntropy(Loss):
    q: float
    class_weight: Sequence[float] | None
    def __init__(
        self,
        q: float = 0.5,
        class_weight: Sequence[float] | None = None,
        reduction: _Reduction = "sum_over_batch_size",
        name: str | None = "categorical_generalized_cross_entropy",
        dtype: _DType = None,
        weight: _Weight = None,
    ) -> None: ...

def dice(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    axis: int | tuple[int, ...] | None = None,
    smooth: float | None = None,
) -> Any: ...

class Dice(Loss):
    axis: int | tuple[int, ...] | None
    smooth: float | None
    def __init__(
        self,
        axis: int | tuple[int, ...] | None = None,
        smooth: float | None = None,
        reduction: _Reduction = "sum_over_batch_size",
        name: str | None = "dice",
        dtype: _DType = None,
        weight: _Weight = None,
    ) -> None: ...

def iou(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    smooth: float = 1.0,
    axis: int | tuple[int, ...] | None = None,
) -> Any: ...

class IoU(Loss):
    smooth: float
    axis: int | tuple[int, ...] | None
    def __init__(
        self,
        smooth: float = 1.0,
        axis: int | tuple[int, ...] | None = None,
        reduction: _Reduction = "sum_over_batch_size",
        name: str | None = "iou",
        dtype: _DType = None,
        weight: _Weight = None,
    ) -> None: ...

def tversky(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    alpha: float = 0.5,
    beta: float = 0.5,
    axis: int | tuple[int, ...] | None = None,
) -> Any: ...

class Tversky(Loss):
    alpha: float
    beta: float
    axis: int | tuple[int, ...] | None
    def __init__(
        self,
        alpha: float = 0.5,
        beta: float = 0.5,
        axis: int | tuple[int, ...] | None = None,
        reduction: _Reduction = "sum_over_batch_size",
        name: str | None = "tversky",
        dtype: _DType = None,
        weight: _Weight = None,
    ) -> None: ...

def mean_square(
    y_true: ArrayLike | None,
    y_pred: ArrayLike,
) -> Any: ...

class MeanSquare(Loss):
    def __init__(
        self,
        reduction: _Reduction = "sum_over_batch_size",
        name: str | None = "mean_square",
        dtype: _DType = None,
        weight: _Weight = None,
    ) -> None: ...

def mean_absolute(
    y_true: ArrayLike | None,
    y_pred: ArrayLike,
) -> Any: ...

class MeanAbsolute(Loss):
    def __init__(
        self,
        reduction: _Reduction = "sum_over_batch_size",
        name: str | None = "mean_absolute",
        dtype: _DType = None,
        weight: _Weight = None,
    ) -> None: ...

def confidence_penalty(
    y_true: ArrayLike | None,
    y_pred: ArrayLike,
    from_logits: bool = False,
    axis: int = -1,
) -> Any: ...

class ConfidencePenalty(Loss):
    from_logits: bool
    axis: int
    def __init__(
        self,
        from_logits: bool = False,
        axis: int = -1,
        reduction: _Reduction = "sum_over_batch_size",
        name: str | None = "confidence_penalty",
        dtype: _DType = None,
        weight: _Weight = None,
    ) -> None: ...

def z_loss(
    y_true: ArrayLike | None,
    y_pred: ArrayLike,
    axis: int = -1,
) -> Any: ...

class ZLoss(Loss):
    axis: int
    def __init__(
        self,
        axis: int = -1,
        reduction: _Reduction = "sum_over_batch_size",
        name: str | None = "z_loss",
        dtype: _DType = None,
        weight: _Weight = None,
    ) -> None: ...

def circle(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    ref_labels: ArrayLike | None = None,
    ref_embeddings: ArrayLike | None = None,
    remove_diagonal: bool = True,
    gamma: float = 80.0,
    margin: float = 0.4,
    *,
    check: bool = False,
) -> Any: ...

class Circle(Loss):
    gamma: float
    margin: float
    remove_diagonal: bool
    def __init__(
        self,
        gamma: float = 80.0,
        margin: float = 0.4,
        remove_diagonal: bool = True,
        reduction: _Reduction = "sum_over_batch_size",
        name: str | None = "circle",
        dtype: _DType = None,
        weight: _Weight = None,
    ) -> None: ...

def ctc(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    label_length: ArrayLike | None = None,
    logit_length: ArrayLike | None = None,
    blank: int = 0,
    *,
    check: bool = False,
) -> Any: ...

class CTC(Loss):
    def __init__(
        self,
        reduction: _Reduction = "sum_over_batch_size",
        name: str | None = "ctc",
        dtype: _DType = None,
        weight: _Weight = None,
    ) -> None: ...
