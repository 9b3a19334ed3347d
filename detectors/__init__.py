"""Detectors: the maths of modelwatch, usable in a notebook without the daemon."""
