"""Which records a judge is asked about: by a hash of their id, so that whoever looks again finds the same."""

from __future__ import annotations

import hashlib


def sampled(record_id: str, rate: float, seed: int = 0) -> bool:
    """Whether a record is in the sample of this rate (0 to 1). Samples are nested: what is in that of 1 % is in that of 5 %, and
    two metrics of one rate and seed judge the same records.

    >>> sum(sampled(f"record-{i}", 0.1) for i in range(10_000))
    981
    >>> sampled("record-1", 0.0), sampled("record-1", 1.0)
    (False, True)
    """
    digest = hashlib.blake2b(f"{seed}:{record_id}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < rate * 2**64
