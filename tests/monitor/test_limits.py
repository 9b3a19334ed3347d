"""Limits on a piece of work: it is called off, and the process goes on as before."""

from __future__ import annotations

import resource
import signal

import numpy as np
import pytest

from monitor.limits import TooLong, data_bytes, limited


def test_what_takes_too_long_is_called_off() -> None:
    before = signal.getsignal(signal.SIGALRM)
    endless = iter(int, 1)
    with pytest.raises(TooLong, match=r"not done within 0\.05 s"), limited(0.05, None):
        all(zero == 0 for zero in endless)
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_what_wants_too_much_memory_is_refused_and_others_are_not_afterwards() -> None:
    if data_bytes() is None:
        pytest.skip("this kernel does not say how much memory a process has")
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(MemoryError), limited(None, 64 * 2**20):
        np.ones(256 * 2**20, dtype=np.uint8)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    assert np.ones(256 * 2**20, dtype=np.uint8).sum() == 256 * 2**20


def test_what_stays_within_is_not_disturbed() -> None:
    with limited(10, 2**30):
        assert len(np.ones(2**20)) == 2**20
