"""Requests and answers that model servers log as CloudEvents, paired to predictions."""
