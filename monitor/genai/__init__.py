"""What a span says of a model call or a retrieval, in whichever dialect."""
