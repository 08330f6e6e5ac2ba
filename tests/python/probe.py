"""A probe program as an object: one line of JSON asks, one line answers."""
import json
import subprocess

from viaduct_test import PROGRAM


class Probe:
    def __init__(self, name):
        self.name = name
        self.process = subprocess.Popen([PROGRAM.parent / name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        encoding="utf-8")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(timeout=60)

    def send(self, message):
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def receive(self):
        line = self.process.stdout.readline()
        assert line, f"{self.name} ended with {self.process.wait()}"
        return json.loads(line)

    def any_answer(self, **request):
        self.send(request)
        return self.receive()

    def ask(self, **request):
        answer = self.any_answer(**request)
        assert not (isinstance(answer, dict) and "error" in answer), answer
        return answer

    def error(self, **request):
        """What is wrong with a request that must be refused."""
        answer = self.any_answer(**request)
        assert isinstance(answer, dict) and "error" in answer, f"not refused: {request}"
        return answer["error"]
