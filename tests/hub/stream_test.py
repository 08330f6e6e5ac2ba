"""import --stream: the bytes of a downloaded import, without a copy of the weights, against a server that fails on purpose."""
import collections
import itertools
import json
import math
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import unittest

from hub_server import Hub, Repo
from stream_case import BLOCK, MIB, StreamCase, big_model, content, fixture, weights_of
from viaduct_test import FAMILIES, GOLDEN, PROGRAM, parallel_options, report

class Output(StreamCase):
    def test_every_family(self):
        """All families of the fixtures (tied, FP8, MXFP4, kept buffers, several shards ...), cut every way that fits."""
        for family in FAMILIES:
            with self.subTest(family):
                self.serve(fixture(family), f"org/{family}")
                options = parallel_options(GOLDEN / "families" / family / "hf")
                expected = self.downloaded_import(*options, name=f"org/{family}", target=family)
                self.stream(*options, name=f"org/{family}", target=family)
                self.assert_output(expected, family)
                record = json.loads(next((self.home / family).glob("iter_*/viaduct/record.json")).read_text())
                self.assertEqual((record["origin"], record["revision"]), (f"org/{family}", self.hub.repos[f"org/{family}"].commit))
        report(f"hub: {len(FAMILIES)} families streamed to the bytes of a downloaded import")

    def test_little_is_fetched_and_kept(self):
        """Each weight once over the network, next to nothing on the disk, bounded memory, few connections."""
        files = big_model()
        size = sum(map(len, weights_of(files).values()))
        repo = self.serve(files)
        self.hub.elsewhere = other = Hub()
        self.addCleanup(other.close)
        other.repos = {"org/model": repo}
        for options in (), ("--tp", "4"), ("--tp", "2", "--pp", "2", "--files", "3"), ("--dtype", "float32"):
            expected = self.downloaded_import(*options)
            for hub in self.hub, other:
                hub.sent.clear()
                hub.requests.clear()
            other.connections = 0
            said = json.loads(self.stream("--json", *options))
            self.assert_output(expected)
            shutil.rmtree(self.home / "out")
            self.assertLess(self.sent(other), 1.01 * size)
            self.assertGreaterEqual(self.sent(other), size - MIB)
            self.assertLess(said["peak_memory"], 256 * MIB)
            self.assertLess(other.connections, 30)
            asked = [path for path, _ in self.hub.requests if path.endswith(".safetensors")]
            self.assertLess(len(asked), 40, "the address that the hub sends on to is asked for too often")
            disk = sum(p.lstat().st_blocks * 512 for p in (self.home / "hf").rglob("*"))
            self.assertLess(disk, 2 * MIB)
        report(f"hub: a stream of {size / 1e6:.0f} MB took {self.sent(other) / size:.3f} of it over the network, {disk >> 10} KiB "
               f"of disk and {said['peak_memory'] >> 20} MiB of memory")
        said = json.loads(self.stream("--json", "--max-ram", "96MiB", "--discard"))
        self.assertLess(said["peak_memory"], 96 * MIB)
        # Once more without a header that is there already.
        other.sent.clear()
        self.stream("--dry-run")
        self.assertEqual(self.sent(other), 0)

    def test_in_parts(self):
        """Two runs that stream make one target, with the bytes of a downloaded import of so many files."""
        self.serve(fixture("llama"))
        expected = self.downloaded_import("--files", "2")
        for part in "2/2", "1/2":
            said = self.stream("--part", part)
        self.assertIn("all parts are done", said)
        self.assert_output(expected)

    def test_other_commands(self):
        files = fixture("llama2")
        self.serve(files)
        folder = self.home / "folder"
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)

        def facts(*arguments):
            found = json.loads(self.run_program(*arguments, "--json"))
            return {k: v for k, v in found.items() if k not in ("path", "origin", "source", "estimated_seconds", "estimated_peak_memory", "free_space")}

        self.assertEqual(facts("inspect", "org/model", "--stream", "--tensors"), facts("inspect", folder, "--tensors"))
        target = self.home / "out"
        plan = "plan", "org/model", target, "--to", "megatron"
        streamed = facts(*plan, "--stream")
        self.assertEqual(streamed, facts(*plan))
        shutil.rmtree(self.home / "hf")
        self.assertIn("as the network gives it", self.run_program(*plan, "--stream"))
        self.stream()
        self.assertIn("equal", self.run_program("verify", "org/model", target, "--stream"))
        self.assertIn("equal", self.run_program("verify", folder, target))
        self.assertIn("read", self.run_program("import", "org/model", self.home / "none", "--stream", "--discard"))
        self.assertFalse((self.home / "none").exists())

    def test_vocabulary(self):
        self.serve(fixture("llama"))
        rows = json.loads(fixture("llama")["config.json"])["vocab_size"]
        for size in rows - 37, rows + 5:
            expected = self.downloaded_import("--vocab-size", size)
            said = self.stream("--vocab-size", size)
            self.assert_output(expected)
            shutil.rmtree(self.home / "out")
            if size < rows:
                self.assertIn("37 dropped, 37 of them not zero", said)

    def test_only_what_the_model_is(self):
        """Other forms of the weights and weights in folders are left where they are."""
        llama = fixture("llama")
        self.serve({**llama, "pytorch_model.bin": b"b" * 5000, "onnx/model.onnx": b"o", "consolidated.safetensors": b"c" * 2000,
                    "text/model.safetensors": b"no header at all", "additional_chat_templates/a.jinja": b"{{ a }}"})
        expected = self.downloaded_import()
        self.stream()
        self.assert_output(expected)
        self.assertEqual(self.hub.sent["text/model.safetensors"] + self.hub.sent["consolidated.safetensors"] + self.hub.sent["pytorch_model.bin"], 0)


class Stubs(StreamCase):
    def test_are_refused(self):
        """Whoever takes a stub for the file is told, this program and others."""
        self.serve(fixture("llama"))
        self.stream()
        folder = self.stubs()
        stub = min(folder.glob("*.safetensors"))
        self.assertEqual(stub.stat().st_size, len(fixture("llama")[stub.name]))
        copy = self.home / "copy"
        shutil.copytree(folder, copy)
        for source in folder, copy, stub, copy / stub.name:
            for arguments in (["import", source, self.home / "zeros"], ["export", source, self.home / "zeros"], ["inspect", source],
                              ["verify", source, self.home / "out"], ["diff", source, self.home / "out"],
                              ["plan", source, self.home / "zeros", "--to", "megatron"],
                              ["export", self.home / "out", self.home / "zeros", "--reference", source]):
                said = self.run_program(*arguments, expect=2)
                if source.is_dir():
                    self.assertIn("is a stub that --stream made", said, arguments)
                self.assertFalse((self.home / "zeros").exists())
        self.assertIn("is on this machine", self.run_program("import", folder, self.home / "zeros", "--stream", expect=2))
        import safetensors
        with self.assertRaises(safetensors.SafetensorError):
            safetensors.safe_open(str(stub), "np").keys()

    def test_cache_is_not_disturbed(self):
        """huggingface_hub sees a snapshot without weights; a later download is whole, and so is a stream beside it."""
        self.serve(fixture("llama"))
        self.stream()
        python = """
import json
import math
from huggingface_hub import scan_cache_dir
cache = scan_cache_dir()
print(json.dumps([[str(w) for w in cache.warnings], [r.repo_id for r in cache.repos]]))
"""
        run = subprocess.run([sys.executable, "-c", python], capture_output=True, text=True, env=self.environment)
        self.assertEqual(json.loads(run.stdout or "null"), [[], ["org/model"]], run.stderr)
        self.assertIn("nothing is in", self.run_program("inspect", "org/model", expect=2, HF_HUB_OFFLINE="1"))
        folder = self.download("org/model")
        self.assertEqual({n: (folder / n).read_bytes() for n in fixture("llama")}, fixture("llama"))
        self.run_program("import", folder, self.home / "local")
        self.assertIn("equal", self.run_program("verify", self.home / "local", self.home / "out"))

    def test_made_anew_they_are_the_same(self):
        """The time of a stub stands for the content: equal for equal files, different for others of the same size."""
        self.serve(fixture("llama"))
        self.stream("--dry-run")
        first = {p.name: p.stat().st_mtime_ns for p in self.stubs().glob("*.safetensors")}
        shutil.rmtree(self.home / "hf")
        self.stream("--dry-run")
        self.assertEqual({p.name: p.stat().st_mtime_ns for p in self.stubs().glob("*.safetensors")}, first)
        name = min(first)
        changed = bytearray(fixture("llama")[name])
        changed[-1] ^= 1
        self.serve({**fixture("llama"), name: bytes(changed)})
        self.stream("--dry-run")
        self.assertNotEqual((self.stubs() / name).stat().st_mtime_ns, first[name])

    def test_hostile_headers(self):
        llama = fixture("llama")
        name = min(weights_of(llama))
        for data, words in ((b"\xff" * 5000, "header of"), ((10**7).to_bytes(8, "little") + b"{" * 5000, "header of"),
                            ((2000).to_bytes(8, "little") + b"[" * 4000, "should begin a JSON header"),
                            ((2000).to_bytes(8, "little") + b"{" * 4000, "not JSON"), (b"abc" + b"", "too few"),
                            ((4000).to_bytes(4, "little") + b"VSTB" + b"{" * 4000, "stub")):
            self.serve({**llama, name: data})
            said = self.stream(expect=2)
            self.assertIn(words, said)
            self.assertIn(name, said)
            self.assertFalse((self.home / "out").exists())


class Refused(StreamCase):
    def test_names_what_cannot_be_streamed(self):
        llama = fixture("llama")
        small = {name: data for name, data in llama.items() if not name.endswith(".safetensors") and "index" not in name}
        for files, words in (({**small, "pytorch_model.bin": b"x" * 2000}, "no *.safetensors (but pytorch_model.bin)"),
                             ({**small, "model.gguf": b"GGUF" * 1000}, "no *.safetensors (but model.gguf)"), (small, "no *.safetensors, and")):
            self.serve(files)
            said = self.stream(expect=2)
            self.assertIn(words, said)
            self.assertIn("viaduct download org/model", said)
        self.serve(llama)
        self.assertIn("HF_HUB_OFFLINE is set", self.stream(expect=2, HF_HUB_OFFLINE="1"))
        self.assertIn("is no name of the hub", self.run_program("import", "missing", self.home / "out", "--stream", expect=2))
        self.assertIn("is no name of the hub", self.run_program("import", "../a/b", self.home / "out", "--stream", expect=2))
        self.assertIn("there is no model org/none", self.stream(name="org/none", expect=2, HF_TOKEN=self.hub.token))
        self.assertIn('no revision "v3"', self.stream(name="org/model@v3", expect=2))
        self.serve({**llama, "config.json": b'{"architectures": ["NoSuchModel"]}'})
        self.assertIn("NoSuchModel", self.stream(expect=2))
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            self.assertIn("does not answer", self.stream(expect=2, HF_ENDPOINT=f"http://127.0.0.1:{unused.getsockname()[1]}"))
        self.assertFalse((self.home / "out").exists())
        self.assertEqual(self.partials(), [])

    def test_gated(self):
        """The token goes to the hub alone, and is in nothing that is written or said (run_program looks at the latter)."""
        repo = self.serve(fixture("llama"), gated=True)
        self.assertIn("gated or private, and no token", self.stream(expect=2))
        other = self.hub.elsewhere = Hub()
        self.addCleanup(other.close)
        other.repos = {"org/model": Repo(fixture("llama"))}
        other.repos["org/model"].commit = repo.commit
        self.stream(HF_TOKEN=self.hub.token)
        self.assertTrue(other.requests)
        self.assertFalse([headers for _, headers in other.requests if "Authorization" in headers])
        for path in self.home.rglob("*"):
            if path.is_file():
                self.assertFalse(self.hub.token.encode() in path.read_bytes() or b"signature" in path.read_bytes(), path)
        # Access that ends in the middle, and a server that tells the token.
        shutil.rmtree(self.home / "out")
        self.hub.faults["/resolve/.*safetensors"] = lambda handler: self.hub.send(handler, 403, {"error": f"no {self.hub.token}"})
        said = self.stream(expect=2, HF_TOKEN=self.hub.token)
        self.assertIn("the token that is known gives no access", said)
        self.assertIn("no ***", said)


class Faults(StreamCase):
    """Every answer to a range of a weight goes wrong in some way, after the headers have come."""

    def setUp(self):
        super().setUp()
        self.files = big_model()
        self.serve(self.files)
        self.stream("--dry-run")
        self.hub.sent.clear()

    def elsewhere(self):
        other = self.hub.elsewhere = Hub()
        self.addCleanup(other.close)
        other.repos = self.hub.repos
        return other

    def test_what_passes_is_waited_for(self):
        expected = self.downloaded_import()
        self.stream("--dry-run")
        dice, lock = random.Random(5), threading.Lock()
        counts = collections.Counter()

        def sometimes(handler):
            with lock:
                kind = dice.choice(["busy", "limit", "cut", "slow", "fine", "fine", "fine", "fine", "fine", "fine"])
                counts[kind] += 1
            if kind == "busy":
                return self.hub.send(handler, dice.choice([500, 502, 503]))
            if kind == "limit":
                return self.hub.send(handler, 429, b"", {"Retry-After": "1"})
            if kind == "slow":
                time.sleep(0.3)
            if kind != "cut":
                return True
            begin, end = map(int, re.match(r"bytes=(\d+)-(\d+)", handler.headers["Range"]).groups())
            data = self.files[handler.path.rsplit("/", 1)[1]]
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {begin}-{end}/{len(data)}")
            handler.send_header("Content-Length", str(end + 1 - begin))
            handler.end_headers()
            handler.wfile.write(data[begin:begin + (end - begin) // 2])
            handler.wfile.flush()
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)

        self.hub.faults["/resolve/.*safetensors"] = sometimes
        self.stream()
        self.assert_output(expected)
        self.assertTrue(all(counts[kind] for kind in ("busy", "limit", "cut", "slow")), counts)

    def test_signatures_end(self):
        """An address holds for three requests; then the hub is asked for another one."""
        expected = self.downloaded_import()
        other = self.elsewhere()
        uses, lock = collections.Counter(), threading.Lock()

        def expiring(handler):
            with lock:
                uses[handler.path.split("signature=")[1]] += 1
                return uses[handler.path.split("signature=")[1]] <= 3 or other.send(handler, 403, b"<Error>expired</Error>")

        other.faults["/resolve/"] = expiring
        self.stream()
        self.assert_output(expected)
        self.assertGreater(len(uses), 5)
        # One that refuses every address.
        shutil.rmtree(self.home / "out")
        other.faults["/resolve/"] = lambda handler: other.send(handler, 403, b"<Error>never</Error>")
        said = self.stream(expect=2)
        self.assertIn("answers 403", said)
        self.assertNotIn("signature=", said)
        self.assertIn("--resume", said)

    def check_failure(self, words, kept):
        start = time.monotonic()
        said = self.stream(expect=2)
        self.assertIn(words, said)
        self.assertIn("org/model", said)
        self.assertLess(time.monotonic() - start, 20)
        self.assertEqual(len(self.partials()), 1 if kept else 0, said)
        self.assertEqual("--resume" in said, kept, said)
        self.assertFalse(list((self.home / "out").glob("iter_*")) if (self.home / "out").exists() else [])
        shutil.rmtree(self.home / "out", ignore_errors=True)

    def after(self, count, fault):
        """The fault from the `count`-th request of a weight on."""
        seen = itertools.count(1)
        self.hub.faults["/resolve/.*safetensors"] = lambda handler: next(seen) < count or fault(handler)

    def test_failures_are_named(self):
        name = min(weights_of(self.files))
        for status, words, kept in ((404, "org/model", True), (401, "gated or private", True), (403, "gated or private", True),
                                    (400, "answers 400", True), (503, "answers 503", True), (416, "size", False)):
            self.after(4, lambda handler, status=status: self.hub.send(handler, status))
            self.check_failure(words, kept)
        # Nobody answers any more.
        def gone(handler):
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)
        self.after(4, gone)
        self.check_failure("does not answer", True)

        def answer(handler, status=206, shift=0, total=None, etag=None, linked=None, commit=None, range_text=None):
            data = self.files[handler.path.split("?")[0].rsplit("/", 1)[1]]
            begin, end = map(int, re.match(r"bytes=(\d+)-(\d+)", handler.headers["Range"]).groups())
            text = range_text if range_text is not None else f"bytes {begin + shift}-{end + shift}/{total or len(data)}"
            headers = {"Content-Range": text, "ETag": etag, "X-Linked-Etag": linked, "X-Repo-Commit": commit}
            body = data[begin + shift:end + 1 + shift] if status == 206 else data
            self.hub.send(handler, status, body, {k: v for k, v in headers.items() if v})

        for wrong, words in ((dict(linked='"' + "0" * 64 + '"'), "hash 000"), (dict(commit="1" * 40), "commit 111"), (dict(total=5), "size 5, expected"),
                             (dict(shift=-1), "expected bytes from"), (dict(range_text="none"), "range"), (dict(status=200), "gives no ranges")):
            self.after(4, lambda handler, wrong=wrong: answer(handler, **wrong))
            said = words
            self.check_failure(said, "status" in wrong)
        # The same from a place that the hub sends on to: its own mark changes.
        other = self.elsewhere()
        self.hub.faults.clear()
        marks = itertools.count()
        other.faults["/resolve/"] = lambda handler: answer(handler, etag=f'"mark{next(marks) // 4}"')
        self.check_failure("ETag", False)
        self.assertIn(name, self.stubs().joinpath(name).name)

    def test_stalled_server_ends_with_the_first_failure(self):
        """One connection fails for good while the others wait to try again: nobody waits for them."""
        seen = itertools.count()
        self.hub.faults["/resolve/.*safetensors"] = lambda handler: self.hub.send(
            handler, 400 if next(seen) == 6 else 503, b"", {"Retry-After": "30"})
        start = time.monotonic()
        self.assertIn("answers 400", self.stream(expect=2))
        self.assertLess(time.monotonic() - start, 10)


class Resume(StreamCase):
    def setUp(self):
        super().setUp()
        self.files = big_model()
        self.size = sum(map(len, weights_of(self.files).values()))
        self.serve(self.files)
        self.expected = self.downloaded_import("--tp", "2")
        self.chunks = self.chunk_sizes()
        self.hub.faults["/resolve/.*safetensors"] = lambda handler: time.sleep(0.05) or True

    def start(self, *options):
        return subprocess.Popen([str(PROGRAM), "import", "org/model", str(self.home / "out"), "--stream", "--tp", "2", *options],
                                env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def chunk_sizes(self):
        """Bytes of each target chunk, in the order in which the journal counts them."""
        plan = json.loads(self.run_program("plan", "org/model", self.home / "out", "--to", "megatron", "--tp", "2", "--stream", "--all", "--json"))
        return [math.prod(chunk["size"]) * {"BF16": 2, "F32": 4}[chunk["dtype"]] for chunk in plan["plan"]]

    def done(self):
        """Bytes of the blocks that the journal of an unfinished run lists."""
        size = 0
        for journal in (p for folder in self.partials() for p in folder.iterdir() if p.is_file() and "journal" in p.name):
            data = journal.read_bytes()
            blocks = {struct.unpack_from("<II", data, at) for at in range(24, len(data) - 23, 24)}
            size += sum(min(BLOCK, self.chunks[chunk] - block * BLOCK) for chunk, block in blocks)
        return size

    def assert_rest_is_fetched(self, done, before):
        """What a run has fetched since `before` is not more than what was missing needs: a part of a row its whole row."""
        self.assertLessEqual(self.sent() - before, min(1.01 * self.size, 2 * (self.size - done) + 8 * MIB))

    def test_killed(self):
        """Killed at 30 moments, some runs several times: the right bytes, and only what is missing is fetched again."""
        dice = random.Random(7)
        kills = begun = whole = 0
        while kills < 30:
            done, before = self.done(), self.sent()
            process = self.start(*(["--resume"] if self.partials() else []))
            try:
                _, err = process.communicate(timeout=dice.uniform(0.05, 1.5))
                self.assertEqual(process.returncode, 0, err)
                self.assert_output(self.expected)
                self.assert_rest_is_fetched(done, before)
                shutil.rmtree(self.home / "out")
                whole += 1
                if dice.random() < 0.5:
                    shutil.rmtree(self.home / "hf")  # the stubs are made anew
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                kills += 1
                begun += self.done() > 0
                if (self.home / "out/iter_0000000").exists():  # killed while it put the target in place
                    there = {name: data for name, data in content(self.home / "out").items() if ".viaduct-partial-" not in str(name)}
                    self.assertEqual(there, {name: self.expected[name] for name in there})
                    shutil.rmtree(self.home / "out")
        done, before = self.done(), self.sent()
        self.stream("--tp", "2", *(["--resume"] if self.partials() else []))
        self.assert_output(self.expected)
        self.assert_rest_is_fetched(done, before)
        self.assertGreater(begun, 5)
        report(f"hub: {kills} kills of streamed imports, {begun} with blocks done, {whole + 1} completions with the right bytes")

    def test_what_a_failure_leaves_is_completed(self):
        seen = itertools.count()
        self.hub.faults["/resolve/.*safetensors"] = lambda handler: next(seen) < 20 or self.hub.send(handler, 400)
        said = self.stream("--tp", "2", expect=2)
        self.assertIn("What is done is kept in", said)
        done, before = self.done(), self.sent()
        self.assertGreater(done, 0)
        self.hub.faults.clear()
        self.stream("--tp", "2", "--resume")
        self.assert_output(self.expected)
        self.assert_rest_is_fetched(done, before)

    def test_interrupted_it_keeps_what_it_has(self):
        self.hub.faults["/resolve/.*safetensors"] = lambda handler: time.sleep(0.2) or True
        process = self.start()
        while process.poll() is None and self.done() < 3 * BLOCK:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
        self.assertEqual(process.returncode, 130, err)
        self.assertIn("--resume goes on", err)
        self.assertGreater(self.done(), 0)
        self.hub.faults.clear()
        self.stream("--tp", "2", "--resume")
        self.assert_output(self.expected)

    def test_another_commit_is_another_source(self):
        """The branch moves on to weights of the same sizes: nothing of the old ones stays in the result."""
        process = self.start()
        while process.poll() is None and self.done() < 3 * BLOCK:
            time.sleep(0.01)
        process.kill()
        process.communicate()
        left = self.partials()
        self.assertEqual(len(left), 1)
        changed = {name: data[:-MIB] + bytes(MIB) if name.endswith(".safetensors") else data for name, data in self.files.items()}
        self.serve(changed)
        self.hub.faults.clear()
        left[0].rename(self.home / "left")
        expected = self.downloaded_import("--tp", "2")
        left[0].parent.mkdir()
        (self.home / "left").rename(left[0])
        self.stream("--tp", "2", "--resume")
        self.assert_output(expected)
        self.assertGreaterEqual(self.sent(), 0.99 * self.size)


if __name__ == "__main__":
    unittest.main()
