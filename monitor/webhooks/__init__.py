"""Tells others of an incident that opens, so that they can begin to retrain: signed, and at least once."""
