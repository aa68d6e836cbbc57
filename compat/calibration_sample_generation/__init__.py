"""The original package of the flat calibration set."""
