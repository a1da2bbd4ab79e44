"""What importance sampling is made of: proposals, fits, and sums over log-weights."""
