"""download, login and models by name against a server with the hub's API, and against huggingface_hub itself."""
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import time
import unittest

from hub_case import HubCase
from hub_server import Hub, Repo
from viaduct_test import GOLDEN, PROGRAM, report

WEIGHTS = min(p.name for p in (GOLDEN / "families/llama/hf").glob("*.safetensors"))
LLAMA = {p.name: p.read_bytes() for p in sorted((GOLDEN / "families/llama/hf").iterdir())}


class Cache(HubCase):
    def test_is_huggingface_hubs(self):
        """It finds what was fetched, all of it and by its own names; and nothing is fetched of what it fetched."""
        self.hub.repos["org/model"] = Repo({**LLAMA, "sub/more.json": b"{}"})
        folder = self.download("org/model")
        python = """
import json, sys
from huggingface_hub import snapshot_download, scan_cache_dir, try_to_load_from_cache
offline = sys.argv[1] == "offline"
folder = snapshot_download("org/model", local_files_only=offline)
cache = scan_cache_dir()
print(json.dumps([folder, [str(w) for w in cache.warnings], [r.repo_id for r in cache.repos],
                  try_to_load_from_cache("org/model", "config.json")]))
"""
        def their(mode, **environment):
            run = subprocess.run([os.sys.executable, "-c", python, mode], capture_output=True, text=True,
                                 env=self.environment | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"} | environment)
            self.assertEqual(run.returncode, 0, run.stderr)
            return json.loads(run.stdout.splitlines()[-1])

        theirs = their("offline", HF_HUB_OFFLINE="1")
        self.assertEqual(theirs, [str(folder), [], ["org/model"], str(folder / "config.json")])
        for name, content in {**LLAMA, "sub/more.json": b"{}"}.items():
            self.assertEqual((folder / name).read_bytes(), content)
            self.assertTrue((folder / name).is_symlink() and not os.readlink(folder / name).startswith("/"), name)
        # The other way round.
        shutil.rmtree(self.home)
        theirs = their("online")
        self.hub.requests.clear()
        again = self.download("org/model")
        self.assertEqual(str(again), theirs[0])
        self.assertFalse([path for path, _ in self.hub.requests if "/resolve/" in path])

    def test_patterns_and_forms(self):
        files = {"config.json": b"{}", "a.txt": b"a", "model.safetensors": b"s", "pytorch_model.bin": b"b",
                 "original/params.json": b"o", "consolidated.safetensors": b"c", "tokenizer.json": b"t"}
        self.hub.repos["org/model"] = Repo(files)

        def names(*options):
            shutil.rmtree(self.home, ignore_errors=True)
            folder = self.download("org/model", *options)
            return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_symlink())

        self.assertEqual(names(), ["a.txt", "config.json", "model.safetensors", "tokenizer.json"])
        self.assertEqual(names("--all"), sorted(files))
        self.assertEqual(names("--include", "*.json"), ["config.json", "original/params.json", "tokenizer.json"])
        self.assertEqual(names("--include", "*.json", "--exclude", "orig*"), ["config.json", "tokenizer.json"])

    def test_every_command_takes_a_name(self):
        self.hub.repos["org/model"] = Repo(LLAMA)
        self.run_program("import", "org/model", self.home / "megatron", "--tp", "2")
        record = json.loads(next((self.home / "megatron").glob("iter_*/viaduct/record.json")).read_text())
        self.assertEqual((record["origin"], record["revision"]), ("org/model", self.hub.repos["org/model"].commit))
        self.run_program("export", self.home / "megatron", self.home / "back")
        for name, content in LLAMA.items():
            self.assertEqual((self.home / "back" / name).read_bytes(), content, name)
        self.run_program("verify", "org/model@main", self.home / "megatron")
        self.run_program("inspect", "org/model", "--json")
        # From now on without the server.
        self.run_program("verify", "org/model", self.home / "megatron", HF_HUB_OFFLINE="1")
        self.run_program("verify", "org/model", self.home / "megatron", HF_ENDPOINT="http://127.0.0.1:9")

    def test_login(self):
        self.hub.repos["org/gated"] = Repo(LLAMA, gated=True)
        self.assertIn("viaduct login", self.run_program("download", "org/gated", expect=2))
        self.assert_nothing_left("org/gated")
        self.run_program("login", input=self.hub.token + "\n")
        file = self.home / "hf/token"
        self.assertEqual((file.read_text(), stat.S_IMODE(file.stat().st_mode)), (self.hub.token, 0o600))
        self.download("org/gated")
        self.hub.faults["/revision/"] = lambda handler: self.hub.send(  # run_program looks for the token in what is said
            handler, 403, b"", {"X-Error-Message": f"no access with {handler.headers['Authorization']}"})
        self.assertIn("no access with Bearer ***", self.run_program("download", "org/gated", expect=2))
        self.hub.faults.clear()
        self.assertIn("gives no access", self.run_program("download", "org/gated", expect=2, HF_TOKEN="hf_other"))
        shutil.rmtree(self.home / "hf/hub")
        elsewhere = self.home / "token-elsewhere"
        shutil.move(file, elsewhere)
        self.download("org/gated", HF_TOKEN_PATH=str(elsewhere))
        self.run_program("import", "org/gated", self.home / "out", HF_TOKEN=self.hub.token)
        text = b"".join(p.read_bytes() for p in (self.home / "out").rglob("*") if p.is_file())
        self.assertNotIn(self.hub.token.encode(), text)


class Errors(HubCase):
    def test_names(self):
        self.hub.repos["org/model"] = Repo(LLAMA, branches=("main", "v2"))
        self.hub.token = "hf_known"
        said = self.run_program("download", "org/modle", expect=2, HF_TOKEN="hf_known")
        self.assertIn("there is no model org/modle", said)
        self.assertIn("org/model", said)
        said = self.run_program("download", "org/model@v3", expect=2)
        self.assertIn('no revision "v3"; it has main, v2', said)
        said = self.run_program("import", "org/none", self.home / "out", expect=2)
        self.assertIn("there is no folder org/none", said)
        self.assertFalse((self.home / "out").exists())
        self.assertIn("no name of the hub", self.run_program("download", "../etc/passwd", expect=2))
        self.assertIn("HF_HUB_OFFLINE", self.run_program("inspect", "org/unseen", expect=2, HF_HUB_OFFLINE="1"))

    def test_no_server(self):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        said = self.run_program("download", "org/model", expect=2, HF_ENDPOINT=address)
        self.assertIn("does not answer", said)
        self.assertIn("HF_ENDPOINT", said)

    def test_corrupted_bytes(self):
        for name in WEIGHTS, "config.json":
            repo = self.hub.repos["org/model"] = Repo(LLAMA)
            entry = repo.entry
            wrong = bytearray(LLAMA[name])
            wrong[len(wrong) // 2] ^= 1

            def lying(handler, name=name, wrong=bytes(wrong), repo=repo):
                true = repo.entry(name)
                repo.files[name], repo.entry = wrong, lambda n: true if n == name else entry(n)
                return True

            self.hub.faults[f"/resolve/.*/{name}"] = lying
            said = self.run_program("download", "org/model", "--include", name, expect=2)
            self.assertIn(f"{name} of org/model came with other bytes", said)
            self.assert_nothing_left("org/model")
            self.hub.faults.clear()

    def test_hostile_listings(self):
        repo = self.hub.repos["org/model"] = Repo(LLAMA)
        for path in "../../escape", "/etc/passwd", "a/../../b", "a\\..\\b", "", "a//b", "a\nb":
            def listing(handler, path=path):
                self.hub.send(handler, 200, [{"type": "file", "path": path, "size": 1, "oid": "0" * 40}])
            self.hub.faults["/tree/"] = listing
            self.assertIn("may not be a file's", self.run_program("download", "org/model", expect=2))
        for body, words in ((b"[{", "byte"), (b'{"a": 1}', "array"), ([{"type": "file", "path": "a", "size": -1, "oid": "0" * 40}], "-1 bytes"),
                            ([{"type": "file", "path": "a", "size": 1, "oid": "../x"}], "40 digits")):
            self.hub.faults["/tree/"] = lambda handler, body=body: self.hub.send(handler, 200, body)
            self.assertIn(words, self.run_program("download", "org/model", expect=2))
        self.hub.faults["/tree/"] = lambda handler: self.hub.send(handler, 302, b"", {"Location": handler.path})
        self.assertIn("sends on more than", self.run_program("download", "org/model", expect=2))
        self.hub.faults["/tree/"] = lambda handler: self.hub.send(handler, 302, b"", {"Location": "file:///etc/passwd"})
        self.assertIn("no web address", self.run_program("download", "org/model", expect=2))
        self.assert_nothing_left("org/model")
        self.assertFalse((self.home / "escape").exists())
        self.assertEqual(repo.commit, self.hub.repos["org/model"].commit)


class Faults(HubCase):
    def test_what_passes_is_waited_for(self):
        """Busy answers, connections that end in the middle, a server without ranges: all files arrive."""
        content = random.Random(1).randbytes(40 << 20)
        self.hub.repos["org/model"] = Repo({"model.safetensors": content, "config.json": b"{}"})
        left = {"busy": 2, "limit": 1, "cut": 3, "error": 2}

        def busy(handler):
            left["busy"] -= 1
            return left["busy"] < 0 or self.hub.send(handler, 503)

        def limited(handler):
            left["limit"] -= 1
            return left["limit"] < 0 or self.hub.send(handler, 429, b"", {"Retry-After": "1"})

        def cut(handler):
            left["cut"] -= 1
            if left["cut"] < 0:
                return True
            handler.send_response(206)
            handler.send_header("Content-Length", "1000000")
            begin = int(handler.headers["Range"].split("=")[1].split("-")[0])
            handler.end_headers()
            handler.wfile.write(content[begin:begin + 500000])
            handler.close_connection = True
            handler.wfile.flush()
            handler.connection.shutdown(socket.SHUT_RDWR)

        self.hub.faults["/revision/"] = busy
        self.hub.faults["/tree/"] = limited
        self.hub.faults["/resolve/.*safetensors"] = cut
        folder = self.download("org/model")
        self.assertEqual((folder / "model.safetensors").read_bytes(), content)
        self.assertEqual(left["busy"], -1)
        self.assertLess(left["cut"], 0)

        shutil.rmtree(self.home)
        self.hub.faults.clear()
        self.hub.faults["/resolve/.*safetensors"] = lambda handler: handler.headers.__delitem__("Range") or True
        self.assertEqual((self.download("org/model") / "model.safetensors").read_bytes(), content)

    def test_the_token_stays_with_the_hub(self):
        """Large files come from elsewhere: that place does not see the token, and its signature is in no message."""
        self.hub.repos["org/gated"] = Repo(LLAMA, gated=True)
        other = self.hub.elsewhere = Hub()
        self.addCleanup(other.close)
        other.repos = {"org/gated": Repo(LLAMA)}
        self.download("org/gated", HF_TOKEN=self.hub.token)
        self.assertTrue(other.requests)
        self.assertFalse([headers for _, headers in other.requests if "Authorization" in headers])
        shutil.rmtree(self.home)
        other.repos["org/gated"].files.pop(WEIGHTS)
        self.assertNotIn("signature", self.run_program("download", "org/gated", expect=2, HF_TOKEN=self.hub.token))

    def test_killed_it_goes_on(self):
        """Killed at random moments and started again, until it is through: the right bytes, and few of them twice."""
        content = random.Random(2).randbytes(96 << 20)
        self.hub.repos["org/model"] = Repo({"model.safetensors": content, "config.json": b"{}"})
        kills = whole = 0
        dice = random.Random(3)
        deadline = time.monotonic() + 45
        while kills < 100 and time.monotonic() < deadline:
            process = subprocess.Popen([str(PROGRAM), "download", "org/model"], env=self.environment,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                process.wait(dice.uniform(0.01, 0.25))
                self.assertEqual(process.returncode, 0)
                folder = self.download("org/model")
                self.assertEqual(hashlib.sha256((folder / "model.safetensors").read_bytes()).digest(), hashlib.sha256(content).digest())
                self.assertFalse(list(self.cache_of("org/model").rglob("*.viaduct.*")))
                whole += 1
                shutil.rmtree(self.home)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
        folder = self.download("org/model")
        self.assertEqual((folder / "model.safetensors").read_bytes(), content)
        self.assertGreaterEqual(kills, 50)
        self.assertGreater(whole, 0)
        report(f"hub: {kills} kills of downloads of {len(content) >> 20} MiB, {whole + 1} completions with the right sha256")

    def test_two_at_once_fetch_once(self):
        content = random.Random(4).randbytes(48 << 20)
        self.hub.repos["org/model"] = Repo({"model.safetensors": content})
        runs = [subprocess.Popen([str(PROGRAM), "download", "org/model"], env=self.environment, stdout=subprocess.PIPE,
                                 stderr=subprocess.DEVNULL) for _ in range(2)]
        folders = {run.communicate()[0] for run in runs}
        self.assertEqual([run.returncode for run in runs], [0, 0])
        self.assertEqual(len(folders), 1)
        self.assertEqual(len([p for p, _ in self.hub.requests if "/resolve/" in p]), 3)


if __name__ == "__main__":
    unittest.main()
