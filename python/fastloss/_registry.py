"""The registry: one row per loss.

A row holds what the front ends need to know of a loss: its names, its parameters, and its text.
How it is computed stands in ``csrc/losses`` alone; the compiled kernel is found by name, and its
parameters by theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from fastloss._parameters import (
    ArrayArgument,
    Parameter,
    axes,
    boolean,
    class_alpha,
    class_weight,
    integer,
    optional_integer,
    real,
)

Kind = Literal["map", "row", "region", "pairwise", "sequence"]

_FROM_LOGITS = Parameter(
    "from_logits", False, "Whether y_pred holds logits instead of probabilities.", "bool", boolean
)
_SMOOTHING = Parameter(
    "label_smoothing",
    0.0,
    "In [0, 1]: the share of each target that is spread evenly over the classes.",
    "float",
    real(0, 1),
)
_AXIS = Parameter("axis", -1, "The axis that one loss value is taken over.", "int", integer)
_REGION_AXIS = Parameter(
    "axis",
    None,
    "The axes that one loss value is taken over; None is all of them, the batch included.",
    "int | tuple[int, ...] | None",
    axes,
)
_CLASS_WEIGHT = Parameter(
    "class_weight",
    None,
    "One weight per class, which multiplies what that class adds to the loss. The mean is still "
    "over samples.",
    "Sequence[float] | None",
    class_weight(),
)
_BINARY_CLASS_WEIGHT = Parameter(
    "class_weight",
    None,
    "The weights (of class 0, of class 1), which multiply what that class adds to the loss.",
    "Sequence[float] | None",
    class_weight(2),
)
_POS_WEIGHT = Parameter(
    "pos_weight", 1.0, "The weight of class 1 beside that of class 0.", "float", real(0)
)
_GAMMA = Parameter("gamma", 2.0, "The focusing exponent, at least 0.", "float", real(0))


@dataclass(frozen=True)
class LossSpec:
    """A row of the registry.

    ``name`` is the function, ``class_name`` the class, ``object_name`` the default name of an
    instance. ``labels`` tells whether y_true has the shape of y_pred or holds class indices.
    ``arrays`` are what a call may take beside y_true and y_pred. Without ``uses_target``, y_true is
    not looked at and may be None. The class takes ``class_options``, the names of all parameters
    unless told otherwise.
    ``example`` is (y_true, y_pred, value) as source text, for one sample or, where a call needs a
    batch, for one whose first loss is the mean.
    """

    name: str
    class_name: str
    kind: Kind
    summary: str
    formula: str
    source: str
    example: tuple[str, str, str]
    parameters: tuple[Parameter, ...] = ()
    labels: Literal["dense", "integer"] = "dense"
    aliases: tuple[str, ...] = ()
    object_name: str = ""
    arrays: tuple[ArrayArgument, ...] = ()
    uses_target: bool = True
    class_options: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not self.object_name:
            object.__setattr__(self, "object_name", self.name)

    @property
    def class_parameters(self) -> tuple[Parameter, ...]:
        """The parameters of the class, in the order of its constructor."""
        if self.class_options is None:
            return self.parameters
        by_name = {p.name: p for p in self.parameters}
        return tuple(by_name[name] for name in self.class_options)

    @property
    def batched(self) -> bool:
        """Whether a call needs a batch: a loss is then not one of a single sample."""
        return self.kind in ("pairwise", "sequence")

    def bind(self, given: dict[str, Any]) -> dict[str, Any]:
        """All parameters with their checked values, in order; ``given`` overrides the defaults."""
        unknown = given.keys() - {p.name for p in self.parameters}
        if unknown:
            names = ", ".join(p.name for p in self.parameters) or "none"
            raise TypeError(
                f"{min(unknown)}: not a parameter of {self.name}, whose parameters are: {names}"
            )
        return {p.name: p.check(p.name, given.get(p.name, p.default)) for p in self.parameters}


_KERAS = "Keras 3, keras.losses.{}"
_LIN = "Lin et al., Focal Loss for Dense Object Detection, 2017"

REGISTRY: tuple[LossSpec, ...] = (
    LossSpec(
        "mean_squared_error", "MeanSquaredError", "map",
        "Mean of the squared errors.",
        "mean((t - p)^2)",
        _KERAS.format("MeanSquaredError"),
        ("[1., 0.]", "[2., 3.]", "5.0"),
        aliases=("mse", "MSE"),
    ),
    LossSpec(
        "mean_absolute_error", "MeanAbsoluteError", "map",
        "Mean of the absolute errors; the gradient where the error is 0 is 0.",
        "mean(|t - p|)",
        _KERAS.format("MeanAbsoluteError"),
        ("[1., 0.]", "[2., 3.]", "2.0"),
        aliases=("mae", "MAE"),
    ),
    LossSpec(
        "mean_absolute_percentage_error", "MeanAbsolutePercentageError", "map",
        "Mean of the absolute errors in percent of the target.",
        "100 mean(|t - p| / max(|t|, 1e-7))",
        _KERAS.format("MeanAbsolutePercentageError"),
        ("[1., 2.]", "[1.5, 1.]", "50.0"),
        aliases=("mape", "MAPE"),
    ),
    LossSpec(
        "mean_squared_logarithmic_error", "MeanSquaredLogarithmicError", "map",
        "Mean of the squared differences of log(1 + x).",
        "mean((log(1 + max(p, 1e-7)) - log(1 + max(t, 1e-7)))^2)",
        _KERAS.format("MeanSquaredLogarithmicError"),
        ("[0., 1.]", "[1., 1.]", "0.2402264"),
        aliases=("msle", "MSLE"),
    ),
    LossSpec(
        "huber", "Huber", "map",
        "Quadratic for small errors, linear for large ones.",
        "mean(e^2 / 2 if |e| <= delta else delta |e| - delta^2 / 2), e = p - t",
        "Huber, Robust Estimation of a Location Parameter, 1964; " + _KERAS.format("Huber"),
        ("[0., 1.]", "[0.5, 3.]", "0.8125"),
        (Parameter("delta", 1.0, "Where the loss turns linear, above 0.", "float",
                   real(0, open_ends=True)),),
        object_name="huber_loss",
        aliases=("huber_loss",),
    ),
    LossSpec(
        "log_cosh", "LogCosh", "map",
        "Mean of the logarithm of the hyperbolic cosine of the error.",
        "mean(log(cosh(p - t)))",
        _KERAS.format("LogCosh"),
        ("[0., 1.]", "[1., 1.]", "0.2168904"),
        aliases=("logcosh",),
    ),
    LossSpec(
        "hinge", "Hinge", "map",
        "Mean of the hinge; targets are -1 and 1, or 0 and 1 if every target of the call is.",
        "mean(max(1 - t p, 0))",
        _KERAS.format("Hinge"),
        ("[1., -1.]", "[0.5, 0.]", "0.75"),
    ),
    LossSpec(
        "squared_hinge", "SquaredHinge", "map",
        "Mean of the squared hinge; targets as for the hinge.",
        "mean(max(1 - t p, 0)^2)",
        _KERAS.format("SquaredHinge"),
        ("[1., -1.]", "[0.5, 0.]", "0.625"),
    ),
    LossSpec(
        "categorical_hinge", "CategoricalHinge", "row",
        "The margin between the true class and the best other one.",
        "max(max((1 - t) p) - sum(t p) + 1, 0)",
        _KERAS.format("CategoricalHinge"),
        ("[0., 1., 0.]", "[0.25, 0.5, 0.25]", "0.75"),
    ),
    LossSpec(
        "kl_divergence", "KLDivergence", "map",
        "The Kullback-Leibler divergence of y_pred from y_true.",
        "sum(t log(t / p)), t and p clipped to [1e-7, 1]",
        "Kullback and Leibler, On Information and Sufficiency, 1951; "
        + _KERAS.format("KLDivergence"),
        ("[0.5, 0.5]", "[0.25, 0.75]", "0.1438410"),
        aliases=("kld", "KLD", "kullback_leibler_divergence"),
    ),
    LossSpec(
        "poisson", "Poisson", "map",
        "The negative Poisson log likelihood of the counts y_true at the rates y_pred.",
        "mean(p - t log(p + 1e-7))",
        _KERAS.format("Poisson"),
        ("[1., 2.]", "[1., 4.]", "1.113706"),
    ),
    LossSpec(
        "cosine_similarity", "CosineSimilarity", "row",
        "The negative cosine of the angle between the vectors.",
        "-sum(n(t) n(p)), n(x) = x min(1 / |x|, 1e7)",
        _KERAS.format("CosineSimilarity"),
        ("[0., 1.]", "[3., 4.]", "-0.8"),
        (_AXIS,),
    ),
    LossSpec(
        "binary_crossentropy", "BinaryCrossentropy", "map",
        "The cross-entropy of independent binary targets.",
        "mean(-t log(p) - (1 - t) log(1 - p)), p clipped to [1e-7, 1 - 1e-7]",
        _KERAS.format("BinaryCrossentropy"),
        ("[1., 0.]", "[0.75, 0.5]", "0.4904146"),
        (_FROM_LOGITS, _SMOOTHING, _AXIS, _BINARY_CLASS_WEIGHT, _POS_WEIGHT),
        aliases=("bce", "BCE"),
    ),
    LossSpec(
        "binary_focal_crossentropy", "BinaryFocalCrossentropy", "map",
        "Binary cross-entropy with well-predicted targets weighted down.",
        "mean((1 - p_t)^gamma BCE(t, p)), p_t = t p + (1 - t)(1 - p); "
        "times t alpha + (1 - t)(1 - alpha) if apply_class_balancing",
        f"{_LIN}; " + _KERAS.format("BinaryFocalCrossentropy"),
        ("[1., 0.]", "[0.75, 0.5]", "0.09563346"),
        (
            Parameter("apply_class_balancing", False, "Whether to weigh by alpha.", "bool",
                      boolean),
            Parameter("alpha", 0.25, "The weight of class 1; class 0 has 1 - alpha.", "float",
                      real(0, 1)),
            _GAMMA, _FROM_LOGITS, _SMOOTHING, _AXIS, _BINARY_CLASS_WEIGHT, _POS_WEIGHT,
        ),
    ),
    LossSpec(
        "categorical_crossentropy", "CategoricalCrossentropy", "row",
        "The cross-entropy of classes given as rows of probabilities.",
        "-sum(t log(q)), q = p / sum(p) clipped to [1e-7, 1 - 1e-7]; q = softmax(p) from logits",
        _KERAS.format("CategoricalCrossentropy"),
        ("[0., 1., 0.]", "[0.25, 0.5, 0.25]", "0.6931472"),
        (_FROM_LOGITS, _SMOOTHING, _AXIS, _CLASS_WEIGHT),
    ),
    LossSpec(
        "categorical_focal_crossentropy", "CategoricalFocalCrossentropy", "row",
        "Categorical cross-entropy with well-predicted classes weighted down.",
        "-sum(alpha (1 - q)^gamma t log(q)), q as for categorical_crossentropy",
        f"{_LIN}; " + _KERAS.format("CategoricalFocalCrossentropy"),
        ("[0., 1., 0.]", "[0.25, 0.5, 0.25]", "0.04332170"),
        (
            Parameter("alpha", 0.25, "The weight of every class, or one weight per class.",
                      "float | Sequence[float]", class_alpha),
            _GAMMA, _FROM_LOGITS, _SMOOTHING, _AXIS, _CLASS_WEIGHT,
        ),
    ),
    LossSpec(
        "sparse_categorical_crossentropy", "SparseCategoricalCrossentropy", "row",
        "The cross-entropy of classes given as integer labels.",
        "-log(q[label]), q = p clipped to [1e-7, 1 - 1e-7] and divided by its sum; "
        "q = softmax(p) from logits",
        _KERAS.format("SparseCategoricalCrossentropy"),
        ("1", "[0.25, 0.5, 0.25]", "0.6931472"),
        (
            _FROM_LOGITS,
            Parameter("ignore_class", None,
                      "A label whose samples have no loss and drop out of the mean.",
                      "int | None", optional_integer),
            _AXIS, _CLASS_WEIGHT,
        ),
        labels="integer",
    ),
    LossSpec(
        "categorical_generalized_cross_entropy", "CategoricalGeneralizedCrossEntropy", "row",
        "Between cross-entropy (q near 0) and absolute error (q near 1); robust to wrong labels.",
        "(1 - p[label]^q) / q; below p = 1e-7 the gradient stays at its value there",
        "Zhang and Sabuncu, Generalized Cross Entropy Loss, 2018; "
        + _KERAS.format("CategoricalGeneralizedCrossEntropy"),
        ("1", "[0.25, 0.25, 0.5]", "1.0"),
        (Parameter("q", 0.5, "In (0, 1).", "float", real(0, 1, open_ends=True)), _CLASS_WEIGHT),
        labels="integer",
    ),
    LossSpec(
        "dice", "Dice", "region",
        "One minus the Dice coefficient: the overlap of two regions.",
        "1 - 2 sum(t p) / (sum(t) + sum(p) + 1e-7); "
        "with smooth, 1 - (2 sum(t p) + smooth) / (sum(t) + sum(p) + smooth)",
        "Dice, 1945; Milletari et al., V-Net, 2016; " + _KERAS.format("Dice"),
        ("[1., 0.]", "[0.5, 0.5]", "0.5"),
        (
            _REGION_AXIS,
            Parameter("smooth", None, "Added to numerator and denominator; None is Keras's form.",
                      "float | None", real(0, optional=True)),
        ),
    ),
    LossSpec(
        "iou", "IoU", "region",
        "One minus the Jaccard index: intersection over union of two regions.",
        "1 - (I + smooth) / (sum(t) + sum(p) - I + smooth), I = sum(t p)",
        "Jaccard, 1912; Rahman and Wang, Optimizing Intersection-Over-Union, 2016",
        ("[1., 0.]", "[0.5, 0.5]", "0.4"),
        (
            Parameter("smooth", 1.0, "Added to numerator and denominator.", "float", real(0)),
            _REGION_AXIS,
        ),
        aliases=("jaccard",),
    ),
    LossSpec(
        "tversky", "Tversky", "region",
        "Dice with separate weights for what is missed and what is added.",
        "1 - I / (I + alpha sum(t (1 - p)) + beta sum(p (1 - t)) + 1e-7), I = sum(t p)",
        "Salehi et al., Tversky Loss Function for Image Segmentation, 2017; "
        + _KERAS.format("Tversky"),
        ("[1., 0.]", "[0.5, 0.5]", "0.5"),
        (
            Parameter("alpha", 0.5, "The weight of what y_true has and y_pred misses.", "float",
                      real(0)),
            Parameter("beta", 0.5, "The weight of what y_pred adds.", "float", real(0)),
            _REGION_AXIS,
        ),
    ),
    LossSpec(
        "mean_square", "MeanSquare", "map",
        "Mean of the squared predictions: a penalty for large ones. y_true is not looked at.",
        "mean(p^2)",
        "Hoerl and Kennard, Ridge Regression, 1970, of predictions instead of weights",
        ("None", "[1., -3.]", "5.0"),
        uses_target=False,
    ),
    LossSpec(
        "mean_absolute", "MeanAbsolute", "map",
        "Mean of the absolute predictions: a penalty that makes them sparse. y_true is not looked "
        "at; the gradient at 0 is 0.",
        "mean(|p|)",
        "Tibshirani, Regression Shrinkage and Selection via the Lasso, 1996, of predictions "
        "instead of weights",
        ("None", "[1., -3.]", "2.0"),
        uses_target=False,
    ),
    LossSpec(
        "confidence_penalty", "ConfidencePenalty", "row",
        "The negative entropy of the predicted distribution: a penalty for confident predictions. "
        "y_true is not looked at.",
        "sum(q log(q)), q = p clipped to [1e-7, 1]; q = softmax(p) from logits",
        "Pereyra et al., Regularizing Neural Networks by Penalizing Confident Output "
        "Distributions, 2017",
        ("None", "[0.25, 0.75]", "-0.5623351"),
        (_FROM_LOGITS, _AXIS),
        uses_target=False,
    ),
    LossSpec(
        "z_loss", "ZLoss", "row",
        "The squared logarithm of the partition function of logits, which keeps them from "
        "drifting. y_true is not looked at.",
        "log(sum(exp(p)))^2",
        "Zoph et al., ST-MoE: Designing Stable and Transferable Sparse Expert Models, 2022",
        ("None", "[1., 2.]", "5.351180"),
        (_AXIS,),
        uses_target=False,
    ),
    LossSpec(
        "circle", "Circle", "pairwise",
        "Pulls embeddings of equal labels together and pushes the others apart.",
        "softplus(LSE+ + LSE-), with d = max(1 - p r, 0) for every reference r;\n"
        "    LSE+ = log(sum(exp(-gamma max(margin + d, 0) (margin - d)))) over equal labels,\n"
        "    LSE- = log(sum(exp(gamma max(1 + margin - d, 0) (1 - margin - d)))) over others;\n"
        "    0 without any of either",
        "Sun et al., Circle Loss: A Unified Perspective of Pair Similarity Optimization, 2020; "
        + _KERAS.format("Circle"),
        ("[0, 0, 1]", "[[0.8, 0.6], [0.8, -0.6], [1., 0.]]", "67.072"),
        (
            Parameter("remove_diagonal", True, "Whether a sample is no positive of itself.", "bool",
                      boolean),
            Parameter("gamma", 80.0, "The scale of the similarities, above 0.", "float",
                      real(0, open_ends=True)),
            Parameter("margin", 0.4, "How far from the optimum similarities may be.", "float",
                      real()),
        ),
        labels="integer",
        arrays=(
            ArrayArgument("ref_labels", "The labels of the references, (references,); y_true if "
                          "not given."),
            ArrayArgument("ref_embeddings", "What to compare y_pred with, (references, features); "
                          "y_pred itself if not given."),
        ),
        class_options=("gamma", "margin", "remove_diagonal"),
    ),
    LossSpec(
        "ctc", "CTC", "sequence",
        "Connectionist temporal classification: labels in order, at unknown times. A label that "
        "needs more frames than there are has loss inf and gradient 0.",
        "-log(sum over a of the product over i of softmax(p[i])[a[i]]), i being the frames and\n"
        "    a the sequences of classes that are t when first repeats, then blanks are dropped",
        "Graves et al., Connectionist Temporal Classification, 2006; " + _KERAS.format("CTC"),
        ("[[1]]", "[[[0., 0.], [0., 0.]]]", "0.2876821"),
        (Parameter("blank", 0, "The class that stands for no label; a negative one counts from the "
                   "last.", "int", integer),),
        labels="integer",
        arrays=(
            ArrayArgument("label_length", "How many labels of each sample count, (batch,); if not "
                          "given, as many as are not blank."),
            ArrayArgument("logit_length", "How many frames of each sample count, (batch,); if not "
                          "given, all."),
        ),
        class_options=(),
    ),
)  # fmt: skip

BY_NAME = {spec.name: spec for spec in REGISTRY}

# Every string that names a loss.
ALIASES = {
    alias: spec for spec in REGISTRY for alias in (spec.name, spec.class_name, *spec.aliases)
}
