"""An XML-RPC server as anybody would write it; it knows nothing of us. Prints its port, serves until Ctrl-C."""

import socketserver
import xmlrpc.client
import xmlrpc.server


class Calculator:
    def pow(self, base, exponent):
        return base**exponent

    def reverse(self, data):
        return xmlrpc.client.Binary(data.data[::-1])

    def fail(self):
        raise ValueError("as asked")


class Server(socketserver.ThreadingMixIn, xmlrpc.server.SimpleXMLRPCServer):
    daemon_threads = True


if __name__ == "__main__":
    with Server(("127.0.0.1", 0), allow_none=True) as server:
        server.register_introspection_functions()
        server.register_multicall_functions()
        server.register_instance(Calculator())
        server.register_function(lambda *words: " ".join(words), "join")
        print("port", server.server_address[1], flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("the end", flush=True)
