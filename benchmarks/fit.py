"""Whole epochs of `fit`: a network with Keras's own loss beside the same with fastloss.keras's."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from timing import DifferentError, summary

EPOCHS = 16  # after one that compiles; half of them with either network first
CHECKED_EPOCHS, LARGEST_DIFFERENCE = 6, 1e-3
"""Of the losses of an epoch, relative: training feeds back what is rounded differently."""


@dataclass(frozen=True)
class Network:
    """A model with data to train it on; ``sizes`` are its own."""

    title: str
    build: Callable[[], Any]
    data: Callable[[np.random.Generator], tuple[Any, Any]]
    batch: int


def networks(scale: float = 1.0) -> list[Network]:
    """A small CNN, and the head of a language model; ``scale`` shortens the epochs."""
    import keras
    from keras import layers

    images, sentences = max(int(2048 * scale), 64), max(int(128 * scale), 32)
    words, length = max(int(32000 * scale), 1000), 32

    def cnn() -> Any:
        return keras.Sequential(
            [
                keras.Input((32, 32, 3)),
                layers.Conv2D(16, 3, strides=2, activation="relu"),
                layers.Conv2D(32, 3, strides=2, activation="relu"),
                layers.GlobalAveragePooling2D(),
                layers.Dense(10),
            ]
        )

    def pictures(rng: np.random.Generator) -> tuple[Any, Any]:
        """The class of an image is how bright it is."""
        labels = rng.integers(0, 10, images, np.int32)
        pixels = rng.random((images, 32, 32, 3), np.float32)
        return pixels * (labels[:, None, None, None] + 1) / np.float32(10), labels

    def head() -> Any:
        return keras.Sequential(
            [keras.Input((length,)), layers.Embedding(words, 64), layers.Dense(words)]
        )

    return [
        Network(
            f"CNN, {images} images of 32x32, 10 classes, batch 64",
            cnn,
            pictures,
            64,
        ),
        Network(
            f"language-model head, {sentences} x {length} tokens, {words} words, batch 32",
            head,
            lambda rng: tuple(rng.integers(0, words, (2, sentences, length), np.int32)),
            32,
        ),
    ]


def steps(chosen: list[Network]) -> int:
    """How many epochs `measure` trains."""
    return len(chosen) * 2 * 2 * (EPOCHS + 1)


def _model(network: Network, losses: Any, jit_compile: bool) -> Any:
    import keras

    keras.utils.set_random_seed(7)
    model = network.build()
    loss = losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, jit_compile=jit_compile)
    return model


def measure(chosen: list[Network], advance: Callable[[], None]) -> list[dict[str, Any]]:
    """Seconds an epoch, the models of a network trained in turns.

    Raises DifferentError if they come to different losses.
    """
    import keras

    import fastloss.keras

    sides = {"Keras": keras.losses, "fastloss": fastloss.keras}
    rows = []
    for network in chosen:
        x, y = network.data(np.random.default_rng(0))
        for jit_compile in (False, True):
            models = {name: _model(network, losses, jit_compile) for name, losses in sides.items()}
            seconds: dict[str, list[float]] = {name: [] for name in models}
            last: dict[str, float] = {}
            for epoch in range(EPOCHS + 1):
                for name, model in list(models.items())[:: 1 if epoch % 2 else -1]:
                    start = time.perf_counter()
                    history = model.fit(
                        x, y, batch_size=network.batch, shuffle=False, verbose=0
                    ).history
                    if epoch:
                        seconds[name].append(time.perf_counter() - start)
                    last[name] = history["loss"][0]
                    advance()
                ours, theirs = last["fastloss"], last["Keras"]
                far = not abs(ours - theirs) <= LARGEST_DIFFERENCE * abs(theirs)
                if far and epoch < CHECKED_EPOCHS:
                    raise DifferentError(
                        f"{network.title}: epoch {epoch + 1}: {ours}, Keras {theirs}"
                    )
            for name, taken in seconds.items():
                row = {"network": network.title, "jit_compile": jit_compile, "side": name}
                rows.append({**row, "loss": last[name], **summary(taken)})
    return rows
