"""The commands of the original programs under their names: each prints the current command and runs it.

`commands.py` is the table of options, `meanings.py` combines several, `translation.py` applies the table and
`running.py` runs the command. They run from the root of a clone.
"""
