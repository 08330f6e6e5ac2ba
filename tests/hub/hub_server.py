"""A server on the loopback address with the shape of the hub's API, which can fail on purpose."""
import collections
import hashlib
import http.server
import itertools
import json
import os
import re
import threading
import urllib.parse


def git_hash(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Repo:
    """One model: files by name, all in one commit. Files of more than `large` bytes are LFS files."""

    def __init__(self, files, large=1000, gated=False, branches=("main",)):
        self.files, self.gated, self.branches = dict(files), gated, branches
        self.large, self.entries = large, {}
        self.commit = hashlib.sha1(repr(sorted((k, hashlib.sha256(v).hexdigest()) for k, v in files.items())).encode()).hexdigest()

    def entry(self, name):
        content = self.files[name]
        if name not in self.entries or self.entries[name][0] is not content:
            self.entries[name] = content, self.made_entry(name, content)
        return self.entries[name][1]

    def made_entry(self, name, content):
        entry = {"type": "file", "path": name, "size": len(content), "oid": git_hash(content)}
        if len(content) > self.large:
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return entry


class Hub:
    """`faults` maps a path's regular expression to a function of (handler) that answers instead, or returns True to go on;
    each is called while it is there."""

    def __init__(self, token="hf_secret_of_the_test"):
        self.repos, self.token, self.faults = {}, token, collections.OrderedDict()
        self.requests, self.elsewhere = [], None
        self.sent = collections.Counter()  # bytes of files, by path
        self.connections = 0
        self.signatures = itertools.count()
        self.answering, self.changed = 0, threading.Condition()
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_):
                pass

            def setup(self):
                hub.connections += 1
                super().setup()

            def do_GET(self):
                hub.requests.append((self.path, dict(self.headers)))
                with hub.changed:
                    hub.answering += 1
                try:
                    for pattern, fault in list(hub.faults.items()):
                        if re.search(pattern, self.path) and not fault(self):
                            return
                    hub.answer(self)
                finally:
                    with hub.changed:
                        hub.answering -= 1
                        hub.changed.notify_all()

            do_HEAD = do_GET

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, request, address):
                """A client that goes away, or is killed, is nothing to tell."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def wait_until_quiet(self):
        """Until what a client asked for that was killed has been answered too."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.answering == 0, timeout=30)

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def send(self, handler, status, body=b"", headers=()):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        handler.send_response(status)
        for name, value in dict(headers).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if handler.command != "HEAD":
            if "/resolve/" in handler.path and status < 300:
                self.sent[urllib.parse.urlsplit(handler.path).path.split("/", 5)[-1]] += len(body)
            handler.wfile.write(body)

    def answer(self, handler):
        url = urllib.parse.urlsplit(handler.path)
        path = urllib.parse.unquote(url.path)
        query = urllib.parse.parse_qs(url.query)
        if path == "/api/models":
            word = query.get("search", [""])[0]
            return self.send(handler, 200, [{"id": name} for name in self.repos if word[:3].lower() in name.lower()])
        match = (re.match(r"/api/models/(?P<repo>[^/]+/[^/]+)/(?P<what>revision|tree|refs)(?:/(?P<rev>[^/]+))?$", path) or
                 re.match(r"/(?P<repo>[^/]+/[^/]+)/(?P<what>resolve)/(?P<rev>[^/]+)/(?P<file>.+)$", path))
        repo = self.repos.get(match["repo"]) if match else None
        if not repo:
            return self.send(handler, 401 if not self.authorised(handler) else 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        if repo.gated and not self.authorised(handler):
            return self.send(handler, 401, {"error": "Access to this model is restricted"}, {"X-Error-Code": "GatedRepo"})
        if match["what"] == "refs":
            return self.send(handler, 200, {"branches": [{"name": b} for b in repo.branches], "tags": []})
        if match["rev"] not in (*repo.branches, repo.commit):
            return self.send(handler, 404, {"error": "Invalid rev"}, {"X-Error-Code": "RevisionNotFound"})
        if match["what"] == "revision":
            return self.send(handler, 200, {"id": match["repo"], "sha": repo.commit,
                                            "siblings": [{"rfilename": name} for name in repo.files]})
        if match["what"] == "tree":
            names, page = sorted(repo.files), int(query.get("cursor", ["0"])[0])
            headers = {}
            if len(names) > page + 3:  # pages of three, so that they are followed
                headers["Link"] = f'<{self.address}{url.path}?recursive=true&expand=false&cursor={page + 3}>; rel="next"'
            return self.send(handler, 200, [repo.entry(name) for name in names[page:page + 3]], headers)
        if match["file"] not in repo.files:
            return self.send(handler, 404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        entry, content = repo.entry(match["file"]), repo.files[match["file"]]
        headers = {"X-Repo-Commit": repo.commit, "Accept-Ranges": "bytes", "ETag": f'"{entry["oid"]}"'}
        if "lfs" in entry:
            headers |= {"X-Linked-Etag": f'"{entry["lfs"]["oid"]}"', "X-Linked-Size": str(len(content))}
            if self.elsewhere and handler.headers.get("Host") == self.address.split("//")[1]:
                headers["Location"] = f"{self.elsewhere.address}{handler.path}?signature=secret{next(self.signatures)}"
                return self.send(handler, 302, b"", headers)
        span = re.match(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", ""))
        if not span:
            return self.send(handler, 200, content, headers)
        begin, end = int(span[1]), int(span[2] or len(content) - 1) + 1
        headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(content)}"
        self.send(handler, 206, content[begin:end], headers)

    def authorised(self, handler):
        return handler.headers.get("Authorization") == f"Bearer {self.token}"
