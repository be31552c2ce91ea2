"""The feature network: VGG-19, where its weights come from, and how they are normalised."""
