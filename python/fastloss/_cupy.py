"""The losses on GPU arrays: CuPy's own, and others that it can look at without a copy.

Results are CuPy arrays on the device of y_pred, from CuPy's pool; work goes on CuPy's current
stream, and nothing waits for it.
"""

from __future__ import annotations

import numbers
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from fastloss import _core
from fastloss._evaluate import REDUCTIONS, Call, GridPlan, Plan, integer_labels, is_on_gpu
from fastloss._samples import BatchPlan, Host, Samples, ctc_label_length, ctc_logit_length
from fastloss._sum import SumPlan

if TYPE_CHECKING:
    from types import ModuleType

FLOATS = ("float16", "bfloat16", "float32", "float64")
BUILD_HINT = "FASTLOSS_CUDA=13 pip install '.[cuda13]'"

# Workspaces of calls that a graph has captured, which may be replayed as long as the process lives.
_captured: list[Any] = []

_device_plans: weakref.WeakKeyDictionary[Plan, Any] = weakref.WeakKeyDictionary()


def kernels() -> ModuleType:
    """The compiled CUDA kernels."""
    try:
        from fastloss import _cuda
    except ImportError as error:
        raise RuntimeError(
            "GPU arrays need CUDA kernels, which this installation of fastloss was built without; "
            f"build them with {BUILD_HINT}"
        ) from error
    return _cuda


def _cupy() -> ModuleType:
    try:
        import cupy
    except ImportError as error:
        raise ImportError(
            "GPU arrays need CuPy: pip install 'fastloss[cuda13]', or cuda12 for an older driver"
        ) from error
    module: ModuleType = cupy
    return module


def _looked_at(x: Any, argument: str) -> Any:
    """Another library's array as a CuPy array of the same memory."""
    cp = _cupy()
    try:
        # Of the two protocols, DLPack orders the streams without waiting.
        return cp.from_dlpack(x) if hasattr(x, "__dlpack__") else cp.asarray(x)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise TypeError(
            f"{argument}: expected an array that CuPy can share memory with, got "
            f"{type(x).__name__}: {error}"
        ) from error


def _array(x: Any, argument: str, device: int | None = None) -> Any:
    """``x`` as a CuPy array, without a copy, on the device that y_pred is on."""
    cp = _cupy()
    if not is_on_gpu(x):
        raise TypeError(
            f"{argument}: expected a GPU array, as y_pred is one, got {type(x).__name__}; "
            f"cupy.asarray copies it to the GPU"
        )
    a = x if isinstance(x, cp.ndarray) else _looked_at(x, argument)
    if device is not None and a.device.id != device:
        raise ValueError(
            f"{argument}: expected an array on device {device}, where y_pred is, got one on "
            f"device {a.device.id}"
        )
    return a


def predictions(x: Any, argument: str = "y_pred", device: int | None = None) -> Any:
    """An array of a dtype that the kernels compute in or store."""
    a = _array(x, argument, device)
    if a.dtype.name in FLOATS:
        return a
    if a.dtype.kind in "biu":
        return a.astype(np.float64)
    raise TypeError(
        f"{argument}: expected float16, bfloat16, float32 or float64 (integers become float64), "
        f"got {a.dtype}"
    )


def _real_numbers(x: Any, argument: str, device: int) -> Any:
    a = _array(x, argument, device)
    if a.dtype.kind in "biu" or a.dtype.name in FLOATS:
        return a
    raise TypeError(f"{argument}: expected real numbers, got dtype {a.dtype}")


def _number_on_gpu(x: Any) -> Any:
    """A weight or a mask that is a number, as an array, which the GPU itself spreads."""
    return _cupy().full((), x) if isinstance(x, (numbers.Real, np.generic)) else x


def _described(a: Any) -> tuple[int, str, tuple[int, ...], tuple[int, ...]]:
    return a.data.ptr, a.dtype.name, a.shape, a.strides


def _described_or_none(a: Any) -> Any:
    return None if a is None else _described(a)


def _extent(a: Any) -> tuple[int, int]:
    """The first byte of an array and one past its last."""
    first = end = a.data.ptr
    if a.size == 0:
        return first, end
    for n, stride in zip(a.shape, a.strides, strict=True):
        if stride < 0:
            first += (n - 1) * stride
        else:
            end += (n - 1) * stride
    return first, end + a.dtype.itemsize


def _may_fill(out: Any, a: Any) -> bool:
    """Whether a kernel may fill ``out`` while it reads ``a``: they are the same, or apart."""
    if a is None:
        return True
    (begin, end), (other_begin, other_end) = _extent(out), _extent(a)
    return end <= other_begin or other_end <= begin or _described(out) == _described(a)


def _check_out(out: Any, y_pred: Any) -> None:
    cp = _cupy()
    if not isinstance(out, cp.ndarray):
        raise TypeError(f"out: expected a CuPy array, got {type(out).__name__}")
    if out.shape != y_pred.shape:
        raise ValueError(f"out: expected the shape of y_pred, {y_pred.shape}, got {out.shape}")
    if out.dtype != y_pred.dtype:
        raise TypeError(f"out: expected the dtype of y_pred, {y_pred.dtype}, got {out.dtype}")
    if out.device.id != y_pred.device.id:
        raise ValueError(
            f"out: expected an array on device {y_pred.device.id}, where y_pred is, got one on "
            f"device {out.device.id}"
        )


class _Results:
    """What a call allocates on a device, and where it is enqueued."""

    def __init__(self, device: int) -> None:
        self.device = device
        self.stream = _cupy().cuda.get_current_stream()
        self.made: list[Any] = []  # the value and the workspace

    def allocate(self, shape: tuple[int, ...], dtype: str) -> int:
        """The address of a new array."""
        self.made.append(_cupy().empty(shape, dtype))
        address: int = self.made[-1].data.ptr
        return address

    def value(self) -> Any:
        """The value of the call that has been enqueued."""
        if self.stream.is_capturing():
            _captured.append(self.made[1])
        return self.made[0]


class _Gpu(Host):
    """The arrays of one device. With ``checks``, labels are looked at, which waits for them."""

    def __init__(self, device: int, checks: bool) -> None:
        self.xp = _cupy()
        self.device, self.checks = device, checks

    def predictions(self, x: Any, argument: str = "y_pred") -> Any:
        return predictions(x, argument, self.device)

    def real_numbers(self, x: Any, argument: str) -> Any:
        return _real_numbers(x, argument, self.device)

    def integers(self, x: Any, argument: str) -> Any:
        a = self.real_numbers(x, argument)
        if self.checks:
            integer_labels(self.xp.asnumpy(a), argument)
        return a

    def broken(self, labels: Any) -> Any:
        if labels.dtype.kind in "iub":
            return None
        a = labels.astype(np.float64)
        return self.xp.logical_not((self.xp.abs(a) < 9e15) & (a == self.xp.floor(a)))

    def number_or_array(self, x: Any, argument: str) -> Any:
        if isinstance(x, (numbers.Real, np.generic)):
            return float(x)
        return self.real_numbers(x, argument)

    def check_out(self, out: Any, y_pred: Any) -> None:
        _check_out(out, y_pred)

    def may_fill(self, out: Any, a: Any) -> bool:
        return _may_fill(out, a)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return self.xp.empty(shape, dtype)

    def run_ctc(
        self, labels: Any, logits: Any, label_length: Any, logit_length: Any, blank: int,
        samples: Samples, grad: Any,
    ) -> Any:  # fmt: skip
        if self.checks:
            self._check_ctc(labels, logits, label_length, logit_length, blank, samples)
        upstream = samples.upstream
        if not isinstance(upstream, float):
            upstream = _described(self.xp.broadcast_to(upstream, (samples.n,)))
        results = _Results(self.device)
        kernels().run_ctc(
            _described(labels),
            _described_or_none(label_length),
            _described(logits),
            _described_or_none(logit_length),
            blank,
            samples.reduction,
            _described_or_none(samples.weight),
            _described_or_none(samples.mask),
            upstream,
            _described_or_none(grad),
            results.allocate,
            self.device,
            results.stream.ptr,
        )
        return results.value()

    def _check_ctc(
        self, labels: Any, logits: Any, label_length: Any, logit_length: Any, blank: int,
        samples: Samples,
    ) -> None:  # fmt: skip
        copy = self.xp.asnumpy
        labels, weight = copy(labels), copy(samples.coefficients())
        label_length, logit_length = (
            None if a is None else copy(a) for a in (label_length, logit_length)
        )
        _core.check_ctc(
            labels.astype(np.int64, copy=False),
            ctc_label_length(labels, label_length, blank),
            ctc_logit_length(logits.shape, logit_length),
            weight,
            *logits.shape[1:],
        )


class _DevicePlan:
    """A plan compiled for GPUs, and its class weights on those that have used it."""

    def __init__(self, plan: GridPlan) -> None:
        warns = plan.spec.kind == "row" and "label_smoothing" in plan.parameters
        self.compiled = kernels().Plan(plan.compiled.line(), warns)
        self.class_weight: dict[int, Any] = {}

    def class_weight_on(self, device: int) -> int:
        """Their address; 0 without any. Copied when a device first sees the plan."""
        weights = self.compiled.class_weight
        if not weights:
            return 0
        if device not in self.class_weight:
            self.class_weight[device] = _cupy().asarray(np.array(weights, np.float64))
        address: int = self.class_weight[device].data.ptr
        return address


def _device_plan(plan: GridPlan) -> _DevicePlan:
    if plan not in _device_plans:
        _device_plans[plan] = _DevicePlan(plan)
    made: _DevicePlan = _device_plans[plan]
    return made


def cast(y_pred: Any, dtype: str) -> Any:
    """``y_pred`` in another dtype."""
    return predictions(y_pred).astype(dtype, copy=False)


def evaluate(plan: Plan, call: Call) -> tuple[Any, Any, Any]:
    """For GPU arrays what `Plan.evaluate` gives for arrays of the host.

    The reduced value is an array without dimensions, so that nothing waits for it.
    """
    kernels()
    cp = _cupy()
    y_pred = predictions(call.y_pred)
    device = y_pred.device.id
    y_true, out, wrt = call.y_true, call.out, call.wrt
    with cp.cuda.Device(device):
        if isinstance(plan, SumPlan):  # the kernels of GPUs do one loss at a time
            if out is not None:
                _check_out(out, y_pred)
            return plan.by_terms(call._replace(y_pred=y_pred))
        sample_weight, mask, weight = map(
            _number_on_gpu, (call.sample_weight, call.mask, call.weight)
        )
        if isinstance(plan, BatchPlan):
            on_gpu = call._replace(
                y_pred=y_pred, sample_weight=sample_weight, mask=mask, weight=weight
            )
            return plan.compute(_Gpu(device, call.check), on_gpu)
        assert isinstance(plan, GridPlan)
        compiled = _device_plan(plan)
        y_true = y_pred if plan.ignores(y_true) else _real_numbers(y_true, "y_true", device)
        if sample_weight is not None:
            sample_weight = _real_numbers(sample_weight, "sample_weight", device)
        if weight is not None:
            weight = _real_numbers(weight, "weight", device)
            if sample_weight is not None and sample_weight.ndim not in (0, weight.ndim):
                raise ValueError(
                    "sample_weight: expected as many dimensions as the loss's own weight has on a "
                    f"GPU, {weight.ndim}, got {sample_weight.ndim}"
                )
            sample_weight = weight if sample_weight is None else weight * sample_weight
        if mask is not None:
            mask = _real_numbers(mask, "mask", device)
            mask = mask if mask.dtype.kind == "b" else mask != 0
        upstream = call.upstream
        if is_on_gpu(upstream):
            upstream = _real_numbers(upstream, "upstream", device)
        elif isinstance(upstream, (numbers.Real, np.generic)):
            upstream = float(upstream)
        else:
            upstream = _array(upstream, "upstream", device)
        grad_pred = grad_true = None
        if out is not None:
            _check_out(out, y_pred)
        if wrt in ("y_pred", "both"):
            inputs = (y_true, y_pred, sample_weight, mask)
            inputs += () if isinstance(upstream, float) else (upstream,)
            fills_out = out is not None and all(_may_fill(out, a) for a in inputs)
            grad_pred = out if fills_out else cp.empty(y_pred.shape, y_pred.dtype)
        if wrt in ("y_true", "both"):
            grad_true = cp.empty(y_true.shape, y_pred.dtype)
        if call.check and plan.spec.labels == "integer":
            on_host = (None if a is None else cp.asnumpy(a) for a in (sample_weight, mask))
            plan.compiled.check_labels(cp.asnumpy(y_true), y_pred.shape, *on_host)
        results = _Results(device)
        compiled.compiled.run(
            _described(y_true),
            _described(y_pred),
            REDUCTIONS[call.reduction],
            _described_or_none(sample_weight),
            _described_or_none(mask),
            upstream if isinstance(upstream, float) else _described(upstream),
            _described_or_none(grad_pred),
            _described_or_none(grad_true),
            compiled.class_weight_on(device),
            results.allocate,
            device,
            results.stream.ptr,
        )
        if grad_pred is not None and out is not None and grad_pred is not out:
            out[...] = grad_pred
            grad_pred = out
        return results.value(), grad_pred, grad_true
