"""What may be stored of what comes."""
