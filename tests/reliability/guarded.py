"""Arrays in awkward places: strided, unaligned, of foreign byte order, beside forbidden pages."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Choose = Callable[[int, int], int]
"""A whole number from the first to the second; all that is random is made of these."""

PAGE = mmap.PAGESIZE
CANARY = 0xA5


class GuardedMemory:
    """Bytes whose neighbours on both sides are pages that end the process when they are touched."""

    def __init__(self, size: int) -> None:
        self.pages = -(-size // PAGE) or 1
        self.map = mmap.mmap(-1, (self.pages + 2) * PAGE)
        first = (ctypes.c_char * len(self.map)).from_buffer(self.map)
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        for page in (0, self.pages + 1):
            no_access = 0
            if libc.mprotect(ctypes.addressof(first) + page * PAGE, PAGE, no_access):
                raise OSError(ctypes.get_errno(), "mprotect")
        self.bytes = np.frombuffer(self.map, np.uint8)[PAGE : (self.pages + 1) * PAGE]
        self.bytes[:] = CANARY


class Placed:
    """A copy of an array somewhere, and the memory around it."""

    def __init__(self, a: Array, choose: Choose, *, native: bool = False) -> None:
        dtype = a.dtype
        swaps = not native and dtype.kind in "iuf" and choose(0, 7) == 0
        self.dtype = dtype.newbyteorder(">") if swaps else dtype
        order = list(range(a.ndim))
        for i in range(a.ndim - 1, 0, -1):
            j = choose(0, i)
            order[i], order[j] = order[j], order[i]
        steps = [(1, 1, 1, -1, 2, -3)[choose(0, 5)] for _ in range(a.ndim)]
        sizes = [max(1, abs(s) * n) for s, n in zip(steps, a.shape, strict=True)]
        length = int(np.prod(sizes)) * dtype.itemsize
        if choose(0, 3) == 0:
            memory = GuardedMemory(length).bytes
            start = 0 if choose(0, 1) else memory.size - length
        else:
            start = (64, 65, 67, 72)[choose(0, 3)]
            memory = np.full(start + length + 64, CANARY, np.uint8)
        self.memory, self.start, self.length = memory, start, length
        inside = memory[start : start + length].view(self.dtype)
        wide = inside.reshape([sizes[d] for d in order]).transpose(np.argsort(order).tolist())
        # A step of -3 leaves room on the side where the first element is not.
        self.view = wide[(..., *(slice(None, None, s) for s in steps))][
            (..., *(slice(n) for n in a.shape))
        ]
        self.view[...] = a
        self.before = memory.copy()

    def shifted(self, by: int) -> Array:
        """The same view, so many elements further in memory, if that is inside."""
        if min(self.view.strides, default=0) < 0 or by < 0:
            return self.view
        room = self.memory.size - self.start - self.length
        offset = by * self.dtype.itemsize
        if offset > room:
            return self.view
        return np.ndarray(
            self.view.shape, self.dtype, self.memory, self.start + offset, self.view.strides
        )

    def only_view_changed(self) -> bool:
        """Whether all that is not an element of the array is as it was."""
        now, before = self.memory.copy(), self.before.copy()
        offset = self.view.__array_interface__["data"][0] - self.memory.ctypes.data
        for memory in (now, before):
            own = np.ndarray(self.view.shape, self.dtype, memory, offset, self.view.strides)
            own[...] = 0
        return bool((now == before).all())

    def unchanged(self) -> bool:
        return bool((self.memory == self.before).all())
