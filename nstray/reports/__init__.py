"""What people look at: contact sheets and figures of an output's pictures."""
