"""What models may spend in a day or a month, and what they have spent of it."""
