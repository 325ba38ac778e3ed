"""The client of the upper-case echo as a program for the standard library, with one import changed.

    python examples/notes_client.py [PORT]

An empty line, or Ctrl-D, ends it.
"""

import sys

from jackfield import socket

if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 9999
    client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    client.connect(("localhost", port))
    try:
        while True:
            line = input(">>> ")
            client.sendall(line.encode() + b"\n")
            answer = client.recv(1024)
            if not answer:
                break
            print(answer.decode())
    except EOFError:
        pass
    finally:
        client.close()
