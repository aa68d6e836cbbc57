"""Picture evaluation: features, distances between picture sets, and pairwise measures. Needs PyTorch."""
