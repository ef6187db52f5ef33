"""What the documentation says of each loss beside its row of the registry."""

from __future__ import annotations

from typing import NamedTuple


class Notes(NamedTuple):
    """What happens at kinks, clips and limits; and what Keras does otherwise, and why."""

    edges: str = ""
    differs: str = ""


NOTES = {
    "mean_absolute_percentage_error": Notes(
        edges=(
            "A target of 0 counts as 1e-7: t = 0, p = 1 gives 1e9. The gradient where the "
            "error is 0 is 0."
        ),
    ),
    "mean_squared_logarithmic_error": Notes(
        edges="Values below 1e-7 count as 1e-7 and have no gradient.",
        differs=(
            "Keras subtracts two logarithms, which cancel for close values; here one "
            "logarithm of their quotient is exact."
        ),
    ),
    "huber": Notes(
        edges="At |e| = delta both branches agree. A delta of 0 or less is an error.",
        differs="Keras keeps delta out of get_config; here it is in.",
    ),
    "log_cosh": Notes(
        edges="The slope is tanh(e): no overflow for large errors.",
        differs=(
            "Keras cancels to 0 for small errors (at e = 1e-4, where 5e-9 is right); here "
            "they are exact."
        ),
    ),
    "hinge": Notes(
        edges=(
            "Targets become 2 t - 1 if and only if every target of the call is 0 or 1. At t p "
            "= 1 the gradient is -t, as in TensorFlow."
        ),
    ),
    "squared_hinge": Notes(
        edges="Targets as for the hinge. At t p = 1 value and gradient are 0.",
    ),
    "categorical_hinge": Notes(
        edges=(
            "Targets are not converted. The maximum includes the 0 of the true class; classes "
            "that tie for it share its gradient."
        ),
    ),
    "kl_divergence": Notes(
        edges=("Outside the clip the gradient is 0. It is a sum over the last axis, not a mean."),
        differs=(
            "In float16 Keras is NaN on probabilities of exactly 0 or 1; here half types "
            "compute in float32."
        ),
    ),
    "poisson": Notes(
        edges="p below -1e-7 gives NaN.",
    ),
    "cosine_similarity": Notes(
        edges=(
            "In [-1, 1]; -1 is equal directions. A vector shorter than 1e-7, also the zero "
            "vector, is scaled by 1e7: its loss and gradient are finite."
        ),
        differs="Keras keeps axis out of get_config; here it is in.",
    ),
    "binary_crossentropy": Notes(
        edges=(
            "The clip is as the dtype rounds it: in float32, p = 1 for t = 0 gives 15.942 and "
            "p = 0 for t = 1 gives 16.118. Outside the clip the gradient is 0. "
            "label_smoothing s makes the target t (1 - s) + s / 2."
        ),
        differs=(
            "From logits, the gradient is (1 - t) s(p) - t s(-p) with the sigmoid s, exact "
            "also where the sigmoid rounds to 1. In float16 Keras is NaN on probabilities of "
            "exactly 0 or 1; here half types compute in float32."
        ),
    ),
    "binary_focal_crossentropy": Notes(
        edges=(
            "From probabilities clipped as for binary_crossentropy, but p_t is not clipped. "
            "label_smoothing as there. Where 1 - p_t is 0 and gamma is below 1, no finite "
            "slope exists and 0 is used."
        ),
        differs=(
            "From logits, Keras clips the sigmoid, so the loss saturates at 16.118 with "
            "gradient 0, and its gradient is NaN at large logits for gamma below 1; here "
            "neither happens."
        ),
    ),
    "categorical_crossentropy": Notes(
        edges=(
            "Targets are not normalized. label_smoothing s makes the target t (1 - s) + s / "
            "C, C the size of the class axis. A class axis of size 1 is a SyntaxWarning. "
            "Outside the clip the gradient is 0."
        ),
        differs=(
            "In float16 Keras is NaN on probabilities of exactly 0 or 1; here half types "
            "compute in float32."
        ),
    ),
    "categorical_focal_crossentropy": Notes(
        edges=(
            "alpha is one number, or one per class. Clip and label_smoothing as for "
            "categorical_crossentropy."
        ),
        differs=(
            "From logits, Keras clips the softmax, so the loss saturates at 16.118 with "
            "gradient 0; here it does not."
        ),
    ),
    "sparse_categorical_crossentropy": Notes(
        edges=(
            "Labels may be of shape (N, 1). Ignored samples have loss 0 and drop out of the "
            "mean. From probabilities the clip comes before the division by the sum, as in "
            "Keras on TensorFlow."
        ),
        differs=(
            "A label outside the classes is an error that names it; Keras on TensorFlow gives "
            "NaN or an error, by device. Labels stay integers, where Keras casts them to the "
            "dtype (257 in bfloat16 becomes 256). Keras keeps axis out of get_config; here it "
            "is in."
        ),
    ),
    "categorical_generalized_cross_entropy": Notes(
        edges="At p[label] = 0 the loss is 1 / q. q outside (0, 1) is an error.",
        differs=(
            "q has a default of 0.5 in the function also. At p[label] = 0 the gradient of "
            "Keras is infinite; here it is finite."
        ),
    ),
    "dice": Notes(
        edges=(
            "With axis=None the batch is one region. Both regions empty give 1; with smooth "
            "above 0 they give 0."
        ),
        differs="smooth is an addition to Keras.",
    ),
    "iou": Notes(
        edges="With axis=None the batch is one region. Both regions empty give 0.",
        differs="Not in Keras: the loss of the field's tutorials.",
    ),
    "tversky": Notes(
        edges="With axis=None the batch is one region. Both regions empty give 1.",
        differs=(
            "alpha weighs t (1 - p) and beta p (1 - t), as in Keras 3.15; Keras 3.16 swaps "
            "them to match its documentation."
        ),
    ),
    "mean_square": Notes(differs="Not in Keras, whose layers take an `activity_regularizer`."),
    "mean_absolute": Notes(differs="Not in Keras, whose layers take an `activity_regularizer`."),
    "confidence_penalty": Notes(
        edges=(
            "Between minus the logarithm of the number of classes and 0. Probabilities are not "
            "normalized; outside the clip the gradient is 0."
        ),
        differs="Not in Keras.",
    ),
    "z_loss": Notes(
        edges="The gradient is 2 log(sum(exp(p))) softmax(p).", differs="Not in Keras."
    ),
    "circle": Notes(
        edges=(
            "A sample without a positive or without a negative has loss 0 and gradient 0. The mean "
            "of the class is over the samples whose loss is not 0."
        ),
        differs="Keras's mask is loss > 0, which also hides a NaN; here a NaN stays visible.",
    ),
    "ctc": Notes(
        edges=(
            "Equal neighbours need a blank between them. Frames beyond logit_length have gradient "
            "0."
        ),
        differs=(
            "A label that cannot be aligned is infinite with gradient 0; TensorFlow's dense "
            "computation gives a finite number near 709. The lengths and the blank are additions."
        ),
    ),
}

# The formulas of the registry as the site typesets them, in one or several lines. A loss without
# one is shown as text.
LATEX = {
    "mean_squared_error": r"\frac{1}{n} \sum_i (t_i - p_i)^2",
    "mean_absolute_error": r"\frac{1}{n} \sum_i \left|t_i - p_i\right|",
    "mean_absolute_percentage_error": (
        r"\frac{100}{n} \sum_i \frac{\left|t_i - p_i\right|}{\max(\left|t_i\right|, \varepsilon)}"
    ),
    "mean_squared_logarithmic_error": (
        r"\frac{1}{n} \sum_i \left(\log(1 + \max(p_i, \varepsilon)) "
        r"- \log(1 + \max(t_i, \varepsilon))\right)^2"
    ),
    "huber": (
        r"\frac{1}{n} \sum_i \begin{cases} \frac{1}{2} e_i^2 & \left|e_i\right| \le \delta \\ "
        r"\delta \left|e_i\right| - \frac{1}{2} \delta^2 & \left|e_i\right| > \delta \end{cases} "
        r"\qquad e = p - t"
    ),
    "log_cosh": r"\frac{1}{n} \sum_i \log \cosh (p_i - t_i)",
    "hinge": r"\frac{1}{n} \sum_i \max(1 - t_i p_i, 0)",
    "squared_hinge": r"\frac{1}{n} \sum_i \max(1 - t_i p_i, 0)^2",
    "categorical_hinge": (r"\max\left(\max_i (1 - t_i) p_i - \sum_i t_i p_i + 1, 0\right)"),
    "kl_divergence": r"\sum_i t_i \log \frac{t_i}{p_i}",
    "poisson": r"\frac{1}{n} \sum_i \left(p_i - t_i \log(p_i + \varepsilon)\right)",
    "cosine_similarity": r"-\frac{t \cdot p}{\|t\| \, \|p\|}",
    "binary_crossentropy": (
        r"-\frac{1}{n} \sum_i \left(t_i \log p_i + (1 - t_i) \log(1 - p_i)\right)"
    ),
    "binary_focal_crossentropy": (
        r"\frac{1}{n} \sum_i (1 - q_i)^\gamma \, \mathrm{BCE}(t_i, p_i) "
        r"\qquad q_i = t_i p_i + (1 - t_i)(1 - p_i)"
    ),
    "categorical_crossentropy": (
        r"-\sum_i t_i \log q_i \qquad q = \frac{p}{\sum_i p_i} \;\text{or}\; "
        r"\mathrm{softmax}(p)"
    ),
    "categorical_focal_crossentropy": (
        r"-\sum_i \alpha_i (1 - q_i)^\gamma \, t_i \log q_i \qquad "
        r"q = \frac{p}{\sum_i p_i} \;\text{or}\; \mathrm{softmax}(p)"
    ),
    "sparse_categorical_crossentropy": (
        r"-\log q_t \qquad q = \frac{p}{\sum_i p_i} \;\text{or}\; \mathrm{softmax}(p)"
    ),
    "categorical_generalized_cross_entropy": r"\frac{1 - p_t^q}{q}",
    "dice": r"1 - \frac{2 \sum_i t_i p_i}{\sum_i t_i + \sum_i p_i}",
    "iou": (
        r"1 - \frac{\sum_i t_i p_i + s}{\sum_i t_i + \sum_i p_i - \sum_i t_i p_i + s} "
        r"\qquad s = \text{smooth}"
    ),
    "tversky": (
        r"1 - \frac{\sum_i t_i p_i}{\sum_i t_i p_i + \alpha \sum_i t_i (1 - p_i) "
        r"+ \beta \sum_i p_i (1 - t_i)}"
    ),
    "mean_square": r"\frac{1}{n} \sum_i p_i^2",
    "mean_absolute": r"\frac{1}{n} \sum_i \left|p_i\right|",
    "confidence_penalty": r"\sum_i q_i \log q_i",
    "z_loss": r"\left(\log \sum_i e^{p_i}\right)^2",
    "circle": (
        r"\log\left(1 + \sum_{j \in P} e^{-\gamma [m + d_j]_+ (m - d_j)} "
        r"\sum_{k \in N} e^{\gamma [1 + m - d_k]_+ (1 - m - d_k)}\right)"
        "\n"
        r"d_j = \max(1 - p \cdot r_j, 0), \quad m = \text{margin}"
        "\n"
        r"P \text{: references of the same label}, \quad N \text{: the others}"
    ),
    "ctc": r"-\log \sum_{a \to t} \prod_i \mathrm{softmax}(p_i)_{a_i}",
}
