"""A WSGI site as anybody would write it; it knows nothing of us. Prints its port, serves until Ctrl-C."""

import hashlib
import socketserver
from wsgiref.simple_server import WSGIServer, make_server
from wsgiref.validate import validator


class Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


def site(environ, start_response):
    if environ["PATH_INFO"] == "/fail":
        raise RuntimeError("as asked")
    if environ["REQUEST_METHOD"] == "POST":
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        parts = [hashlib.sha256(body).hexdigest().encode()]
    else:
        parts = [b"part %d of %s\n" % (index, environ["PATH_INFO"].encode()) for index in range(1000)]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return iter(parts)


if __name__ == "__main__":
    with make_server("127.0.0.1", 0, validator(site), server_class=Server) as server:
        print("port", server.server_address[1], flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("the end", flush=True)
