"""Data that steerlib does not ship: read from the hub of Hugging Face, or from a copy of one's own."""
