"""Options of one task each: what is trained beside a recognizer."""
