"""Scores on their way out, as OpenTelemetry events."""
