"""Baselines: what a steering must beat. An instruction makes another Task, a low-rank fine-tune an Adapter; neither makes a Steering."""
