"""One record over a severity threshold opens an incident at once, without a window."""
