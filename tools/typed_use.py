"""What a user may write, and what not, with types checked. mypy reads this; nothing runs it."""

import numpy as np

import fastloss

t = p = np.zeros((2, 3))

loss: fastloss.Huber = fastloss.Huber(delta=2.0, reduction="sum")
delta: float = loss.delta
value, grad = loss.value_and_grad(t, p, wrt="y_true")
both = loss.value_and_grad(t, p, sample_weight=[1.0, 0.0], wrt="both", upstream=2.0)
per_sample = fastloss.categorical_focal_crossentropy(t, p, alpha=[0.2, 0.3, 0.5])
found: fastloss.Loss = fastloss.get("mse")
total: fastloss.Loss = 0.5 * loss + fastloss.MeanSquare(weight=[1.0, 2.0]) / 4
parts: fastloss.Loss = fastloss.sliced([(np.s_[..., :2], loss)], [0.5], allow_gaps=True)
penalty = fastloss.z_loss(None, p)

fastloss.Huber(reduction="average")  # type: ignore[arg-type]
fastloss.Huber(beta=2.0)  # type: ignore[call-arg]
fastloss.Dice(axis="rows")  # type: ignore[arg-type]
loss.value_and_grad(t, p, wrt="sample_weight")  # type: ignore[arg-type]
