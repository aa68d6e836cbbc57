"""Commands of rules/trajectories.smk."""
