"""When work is done on a model, and when nothing may be deployed."""
