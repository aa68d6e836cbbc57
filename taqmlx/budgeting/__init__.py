"""What a configuration will cost: jobs, time, memory and disk of each stage, before anything starts."""
