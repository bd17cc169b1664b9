"""One code from several runs: the Bayesian mixture, the switch distribution, and a switch at every token."""
