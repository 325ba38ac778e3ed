"""The upper-case echo as a program for the standard library, with one import changed.

    python examples/notes_server.py [PORT]

Then, in another terminal, examples/notes_client.py. Ctrl-C ends it; like the standard library's threading server it
first waits for the clients that are connected.
"""

import sys

from jackfield import socketserver


class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        while True:
            data = self.request.recv(1024).strip()
            if not data:
                break
            print(f"{self.client_address[0]} wrote: {data.decode()}", flush=True)
            self.request.sendall(data.upper())


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 9999
    with socketserver.ThreadingTCPServer(("localhost", port), Handler) as server:
        try:
            print("listening on {}:{}".format(*server.server_address), flush=True)
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopping", flush=True)
