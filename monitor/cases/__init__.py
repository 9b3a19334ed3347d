"""Incidents of one model that overlap in time, as one case: one page, with what most likely caused it."""
