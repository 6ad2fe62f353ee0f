"""Models that can be asked: loading, prompts, scoring, and where a network may be touched."""
