"""Commands that no rule runs, and checks."""
