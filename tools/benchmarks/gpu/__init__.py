"""Everything that has to be measured on a machine with a GPU."""
