"""Evaluations: each scores a model, steered or not, and returns estimates with their intervals and the data behind them."""
