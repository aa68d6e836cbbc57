"""What a picture is measured by: features, distances between sets of them, and measures of pairs. Needs PyTorch."""
