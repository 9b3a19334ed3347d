"""Traces, once all of them is here: which calls count, and what they were given."""
