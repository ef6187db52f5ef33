"""fastloss: training losses and their gradients in one fused pass."""

from fastloss import losses
from fastloss._evaluate import set_num_threads
from fastloss.losses import *  # noqa: F403

__version__ = "0.1.0"

__all__ = [*losses.__all__, "set_num_threads"]
