"""What could not be stored: listed, shown, sent once more, dropped."""
