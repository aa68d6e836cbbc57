"""The commands of rules/trajectories.smk."""
