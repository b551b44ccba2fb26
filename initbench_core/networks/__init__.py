"""Networks and their initial weights: schemes, gains, fans, models, and what theory says of them."""
