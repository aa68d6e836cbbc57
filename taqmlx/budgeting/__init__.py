"""Cost of a configuration: jobs, time, memory and disk of each stage, estimated before a run."""
