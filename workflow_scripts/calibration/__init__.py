"""The commands of rules/calibration.smk."""
