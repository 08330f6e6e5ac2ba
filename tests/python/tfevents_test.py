"""Event files: what we write TensorBoard reads, what torch's SummaryWriter writes we read."""
import math
import pathlib
import re
import struct
import unittest

from probe import Probe
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto import event_pb2
from tensorboard.util import tensor_util
from viaduct_test import report, scratch

TAGS = ["lm loss", "learning-rate", "grad-norm/größe", "throughput/tokens_per_sec"]


def float32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def loaded(folder):
    accumulator = EventAccumulator(str(folder), size_guidance=dict(scalars=0, tensors=0, histograms=0))
    accumulator.Reload()
    return accumulator


class TfEvents(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.probe = Probe("training_probe")

    @classmethod
    def tearDownClass(cls):
        cls.probe.__exit__()

    def test_tensorboard_reads_ours(self):
        folder = scratch("ours")
        values = [1 / 3, 0.0, -1e-30, 1e30, math.inf, -math.inf, 12.5, math.pi]
        events = [dict(tag=tag, step=step * 1000 + (2 ** 40 if step > 150 else 0), time=1.7e9 + step / 7 + i,
                       scalar=values[(step + i) % len(values)] * (1 + step)) for step in range(200) for i, tag in enumerate(TAGS)]
        path = self.probe.ask(write_events=events, folder=str(folder), host="node-7.example")
        self.assertRegex(path, re.escape(str(folder)) + r"/events\.out\.tfevents\.\d{10}\.node-7\.example\.\d+\.\d+$")
        accumulator = loaded(folder)
        self.assertEqual(sorted(accumulator.Tags()["scalars"]), sorted(TAGS))
        self.assertEqual(accumulator.FirstEventTimestamp() > 1.7e9, True)
        for tag in TAGS:
            got = [(e.step, e.wall_time, e.value) for e in accumulator.Scalars(tag)]
            want = [(e["step"], e["time"], float32(e["scalar"])) for e in events if e["tag"] == tag]
            self.assertEqual(got, want, tag)
        raw = [event_pb2.Event.FromString(record) for record in RawEventFileLoader(path).Load()]
        self.assertEqual(raw[0].file_version, "brain.Event:2")
        self.assertEqual(len(raw), 1 + len(events))
        # The same bytes as the protocol buffers' own library writes.
        for record, event in zip(RawEventFileLoader(path).Load(), raw):
            self.assertEqual(record, event.SerializeToString(deterministic=True))
        report(f"tfevents: TensorBoard reads {len(events)} scalars back exactly")

    def test_text_and_histogram(self):
        folder = scratch("kinds")
        histogram = dict(min=-2.5, max=9.0, count=6.0, sum=3.25, sum_of_squares=99.5, limits=[-1.0, 0.0, 10.0], counts=[1.0, 2.0, 3.0])
        self.probe.ask(folder=str(folder), host="h", write_events=[
            dict(tag="config", step=0, time=5.0, text="# größe\n\n| a | b |\n"),
            dict(tag="weights", step=3, time=6.0, histogram=histogram)])
        accumulator = loaded(folder)
        (text,) = accumulator.Tensors("config/text_summary")
        self.assertEqual(tensor_util.make_ndarray(text.tensor_proto).tolist(), ["# größe\n\n| a | b |\n".encode()])
        self.assertEqual(accumulator.SummaryMetadata("config/text_summary").plugin_data.plugin_name, "text")
        (event,) = RawEventFileLoader(str(next(folder.iterdir()))).Load(),
        event = event_pb2.Event.FromString(list(event)[2]).summary.value[0].histo
        self.assertEqual((event.min, event.max, event.num, event.sum, event.sum_squares), (-2.5, 9.0, 6.0, 3.25, 99.5))
        self.assertEqual((list(event.bucket_limit), list(event.bucket)), (histogram["limits"], histogram["counts"]))

    def test_a_second_start_writes_a_second_file(self):
        folder = scratch("twice")
        paths = {self.probe.ask(folder=str(folder), host="h", write_events=[dict(tag="loss", step=step, time=1.0 + step, scalar=step)])
                 for step in (1, 2, 3)}
        self.assertEqual(len(paths), 3)
        self.assertEqual([e.value for e in loaded(folder).Scalars("loss")], [1.0, 2.0, 3.0])

    def test_we_read_torchs(self):
        from torch.utils.tensorboard import SummaryWriter

        folder = scratch("torch")
        with SummaryWriter(str(folder)) as writer:
            for step in range(5):
                writer.add_scalar("old", step / 3, step)
                writer.add_scalar("new", step / 7, step, new_style=True)
                writer.add_scalar("double", step / 9, step, new_style=True, double_precision=True)
            writer.add_text("notes", "hello", 2)
            writer.add_histogram("h", __import__("numpy").arange(100.0), 4)
        answer = self.probe.ask(read_events=str(next(folder.iterdir())))
        values = [(v["tag"], e["step"], v) for e in answer["events"] for v in e["values"]]
        for tag, divisor in (("old", 3), ("new", 7), ("double", 9)):
            self.assertEqual([v["scalar"] for t, _, v in values if t == tag], [float32(i / divisor) for i in range(5)])
        self.assertEqual([(t, s, v["text"]) for t, s, v in values if "text" in v], [("notes/text_summary", 2, "hello")])
        (histogram,) = (v["histogram"] for _, _, v in values if "histogram" in v)
        self.assertEqual(histogram["count"], 100.0)
        self.assertEqual(sum(histogram["counts"]), 100.0)
        self.assertEqual(answer["events"][0]["version"], "brain.Event:2")

    def test_cut_and_damaged_files(self):
        folder = scratch("damaged")
        path = self.probe.ask(folder=str(folder), host="h",
                              write_events=[dict(tag="loss", step=i, time=1.0, scalar=i) for i in range(50)])
        content = pathlib.Path(path).read_bytes()
        whole = self.probe.ask(read_events=path)
        self.assertEqual((len(whole["events"]), whole["bytes"]), (51, len(content)))
        cut = folder / "cut"
        for size in (len(content) - 1, len(content) - 30, 13, 0):
            cut.write_bytes(content[:size])
            answer = self.probe.ask(read_events=str(cut))
            self.assertTrue(answer["bytes"] <= size and len(answer["events"]) < 51, size)
        for at in (0, 9, 15, len(content) // 2, len(content) - 2):
            damaged = bytearray(content)
            damaged[at] ^= 4
            cut.write_bytes(damaged)
            self.assertIn("checksum", self.probe.error(read_events=str(cut)))


if __name__ == "__main__":
    unittest.main()
