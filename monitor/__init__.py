"""The daemon: takes records in, keeps them, watches them, says what is wrong."""

__version__ = "0.1.0"
