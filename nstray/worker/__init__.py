"""One shard's way from its images to its part, without Ray."""
