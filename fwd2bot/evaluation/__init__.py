"""Figures: answers and retrieval on the generated world, with the baselines beside them."""
