"""What a detector said of a row lately, for those who build on it.

`hallucination` reads the claims that `faithfulness` looked up. Where both judge a row, the second one to ask gets what the first
one found. A row is known by the texts that the detector reads of it, so equal texts are the same row; whoever may not see a
difference in the value must not see one in the cost either.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Key = tuple[str, bytes]

MOST = 1_024  # results: a batch of the scorer is tens of rows, and its detectors follow on each other


class Memo(Generic[T]):
    """The latest results by maker and content. Safe to call from several threads: of two that ask for the same row at once,
    one computes and the other waits for it."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._found: OrderedDict[Key, T] = OrderedDict()
        self._lock = threading.Lock()
        self._making: dict[str, threading.Lock] = {}

    def of(
        self, maker: str, rows: Sequence[Mapping[str, Any]], inputs: Sequence[str], make: Callable[[Sequence[Any]], Sequence[T]]
    ) -> list[T]:
        """`make` of the rows that are not known yet, in their order, and what is known of the others.

        `maker` stands for `make` and all its settings; `inputs` are the keys of a row that it reads. `make` must give a row
        alone what it gives it among others.
        """
        keys = [(maker, digest([row.get(name) for name in inputs])) for row in rows]
        with self._lock:
            making = self._making.setdefault(maker, threading.Lock())
        with making:
            with self._lock:
                known = {key: self._found[key] for key in keys if key in self._found}
            new = {key: row for key, row in zip(keys, rows, strict=True) if key not in known}
            made = dict(zip(new, make(list(new.values())), strict=True)) if new else {}
            with self._lock:
                self._found.update(made)
                for key in known:
                    self._found.move_to_end(key)
                while len(self._found) > self._most:
                    self._found.popitem(last=False)
        return [made[key] if key in made else known[key] for key in keys]


def digest(value: Any) -> bytes:
    """Sixteen bytes of any value of texts, numbers, lists and None; others count by their `repr`.

    >>> digest(["a", ["b"]]) == digest(["a", ["b"]]), digest(["a", "b"]) == digest(["ab"])
    (True, False)
    """
    hashed = hashlib.blake2b(digest_size=16)
    _feed(hashed, value)
    return hashed.digest()


def _feed(hashed: Any, value: Any) -> None:
    if isinstance(value, str):
        content = value.encode("utf-8", "surrogatepass")  # half of a pair is content, too
        hashed.update(b"s%d:" % len(content))
        hashed.update(content)
    elif isinstance(value, list | tuple):
        hashed.update(b"l%d:" % len(value))
        for one in value:
            _feed(hashed, one)
    else:
        hashed.update(b"o")
        _feed(hashed, repr(value))
