"""Commands of rules/calibration.smk."""
