"""Scripts that made the files in `detectors/weights`. Nothing here is imported at run time."""
