"""What is minimised: the terms of the loss, where they apply, and the gradient."""
