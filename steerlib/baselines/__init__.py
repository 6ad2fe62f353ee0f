"""Baselines: what a steering must beat. An instruction makes another Task, a fine-tune an Adapter, or a Steering of one full map."""
