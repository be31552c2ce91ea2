"""How it is minimised: L-BFGS and Adam over a batch of independent problems."""
