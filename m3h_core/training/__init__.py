"""How networks are trained, and the fitted model."""
