"""How good the models are: scores, what stands behind them, and what may be claimed of them."""
