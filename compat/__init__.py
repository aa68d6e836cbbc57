"""The commands of the original programs under their names: each prints today's command and runs it.

`commands.py` is the table of what every option has become, `meanings.py` what several mean together; `translation.py`
reads the table and `running.py` acts. They run from the root of a clone.
"""
