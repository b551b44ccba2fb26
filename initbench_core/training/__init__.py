"""Training: data, the one loop, its metrics and outcomes, and the sweep over trials."""
