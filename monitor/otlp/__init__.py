"""OTLP: spans and log records, from the wire to rows."""
