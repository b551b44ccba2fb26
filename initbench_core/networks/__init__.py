"""Networks and their initial weights: schemes, gains, fans, models, and what theory says of them."""

from initbench_core.networks.initialize import Initialized, initialize_

__all__ = ["Initialized", "initialize_"]
