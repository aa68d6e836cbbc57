"""Ask a server for a process, and end as it ends: client.py ADDRESS FOLDER PYTHON -m MODULE ARGUMENTS."""

import json
import os
import socket
import sys

KILLED = 137  # what a shell says of a process that ended without a word

address, *words = sys.argv[1:]
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(address)
    socket.send_fds(connection, [b" "], [0, 1, 2])
    connection.sendall(json.dumps([words, dict(os.environ)]).encode())
    connection.shutdown(socket.SHUT_WR)
    code = connection.recv(8)
sys.exit(int(code) if code else KILLED)
