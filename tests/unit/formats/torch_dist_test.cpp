#include "viaduct/formats/torch_dist.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "scratch_folder.h"
#include "viaduct/core/error.h"
#include "viaduct/core/hash.h"
#include "viaduct/formats/torch_dist_metadata.h"
#include "viaduct/formats/torch_dist_writer.h"
#include "viaduct/formats/torch_file.h"
#include "viaduct/formats/zip_archive.h"

namespace viaduct::formats {
namespace {

using testing::HasSubstr;

const Path kFixtures = Path(VIADUCT_SOURCE_DIR) / "tests/golden/fixtures/torch";
const Path kGolden = VIADUCT_GOLDEN_DIR;

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

// ---------------------------------------------------------------- what upstream wrote

// Tensors as torch's own reader gives them, of checkpoints of both generations under several layouts.
TEST(TorchDist, ReadsWhatTorchReads) {
  const Json all = Json::parse(read_text_file(kFixtures / "expected.json"), "expected.json");
  int checkpoints = 0, tensors = 0;
  for (const auto& [name, entries] : all.members()) {
    if (!name.starts_with("runs/")) continue;
    const std::unique_ptr<TensorReader> reader = open_torch_dist(resolve_iteration(kGolden / name));
    ++checkpoints;
    ASSERT_EQ(reader->tensors().size(), entries.members().size()) << name;
    for (const auto& [key, entry] : entries.members()) {
      const StoredTensor* tensor = reader->find(key);
      ASSERT_NE(tensor, nullptr) << name << " " << key;
      EXPECT_EQ(torch_name(tensor->dtype), entry.items()[0].as_string()) << key;
      EXPECT_EQ(crc32(read_tensor(*reader, *tensor)), static_cast<uint32_t>(entry.items()[2].as_int())) << key;
      ++tensors;
    }
  }
  EXPECT_EQ(checkpoints, 9);
  EXPECT_EQ(tensors, 89);
}

TEST(TorchDist, CommonStateOfBothGenerations) {
  const auto a = TorchDistReader::open(kGolden / "runs/gena_core014_llama_tp2/megatron/iter_0000003");
  EXPECT_EQ(a->iteration(), 3);
  EXPECT_EQ(a->common_state().at("checkpoint_version").as_double(), 3.0);
  EXPECT_EQ(a->content_metadata()->at("singleton_local_shards").as_bool(), false);
  EXPECT_EQ(a->backend().at("common_backend").as_string(), "torch");
  const auto b = TorchDistReader::open(kGolden / "runs/llama_tp2_pp2/megatron/iter_0000000");
  EXPECT_EQ(b->iteration(), 0);
  EXPECT_EQ(b->content_metadata()->at("chained_optim_avoid_prefix").as_bool(), true);
  EXPECT_FALSE(b->backend().contains("common_backend"));
  // Megatron-LM keeps its arguments there, with classes of its own.
  const auto lm = TorchDistReader::open(resolve_iteration(kGolden / "runs/mlm_torch_dist_llama_tp2/megatron"));
  EXPECT_EQ(lm->common_state().at("args").at("num_layers").as_int(), 2);
}

// ---------------------------------------------------------------- bytes that upstream has

TEST(TorchDistFiles, EqualUpstreams) {
  const Path bridge = kGolden / "runs/llama_tp2_pp2/megatron",
             core = kGolden / "runs/gena_core014_llama_tp2/megatron";
  EXPECT_EQ(torch_dist_metadata_json(), read_text_file(core / "iter_0000003/metadata.json"));
  const auto reader = TorchDistReader::open(bridge / "iter_0000000");
  int states = 0;
  for (const StoredObject& object : reader->objects()) {
    if (object.name.find("_extra_state") == std::string::npos) continue;
    const std::vector<std::byte> bytes = read_object(*reader, object);
    EXPECT_EQ(std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()),
              empty_extra_state().view());
    ++states;
  }
  EXPECT_GT(states, 10);
  // All but the archive's fingerprint (40 digits, their CRC in two places).
  const auto differing = [](const std::string& a, const std::string& b) {
    size_t count = a.size() == b.size() ? 0 : 1000;
    for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) count += a[i] != b[i];
    return count;
  };
  EXPECT_LE(differing(common_state_file(3), read_text_file(core / "iter_0000003/common.pt")), 48u);
  EXPECT_LE(differing(train_state_file(0), read_text_file(bridge / "latest_train_state.pt")), 48u);
  TrainState state;
  state.step = 5;
  state.do_train = true;
  const PickleValue value = read_torch_object(bytes_of(train_state_file(state)), "train_state.pt");
  EXPECT_EQ(value.at("step").as_tensor().bytes[0], 5);
  EXPECT_EQ(value.at("do_train").as_tensor().bytes, "\1");
}

// ---------------------------------------------------------------- the writer

std::string data_of(const StoredTensor& tensor, const StoredChunk& chunk) {
  std::string bytes(static_cast<size_t>(num_bytes(tensor.dtype, num_elements(chunk.size))), '\0');
  for (size_t i = 0; i < bytes.size(); ++i)
    bytes[i] = static_cast<char>(i * 31 + tensor.name.size() +
                                 static_cast<size_t>(chunk.offset.empty() ? 0 : chunk.offset[0]));
  return bytes;
}

// The data files that a layout describes, filled.
std::vector<std::string> fill(const TargetLayout& layout) {
  std::vector<std::string> files;
  for (const TargetFile& file : layout.files) files.emplace_back(file.size, '\0');
  for (const Literal& literal : layout.literals)
    std::memcpy(files.at(literal.file).data() + literal.offset, literal.bytes.data(), literal.bytes.size());
  std::map<std::pair<uint32_t, uint32_t>, uint32_t> crcs;
  for (uint32_t t = 0; t < layout.tensors.size(); ++t)
    for (uint32_t c = 0; c < layout.tensors[t].chunks.size(); ++c) {
      const StoredChunk& chunk = layout.tensors[t].chunks[c];
      const std::string data = data_of(layout.tensors[t], chunk);
      std::memcpy(files.at(chunk.file).data() + chunk.byte_offset, data.data(), data.size());
      crcs[{t, c}] = crc32(bytes_of(data));
    }
  for (const CrcField& field : layout.crc_fields)
    std::memcpy(files.at(field.file).data() + field.offset, &crcs.at({field.tensor, field.chunk}), 4);
  return files;
}

// Writes what is laid out below `folder`.
void store(const TargetLayout& layout, const ScratchFolder& folder) {
  const std::vector<std::string> files = fill(layout);
  for (size_t f = 0; f < files.size(); ++f) folder.file(layout.files[f].name, files[f]);
}

void store(TorchDistWriter& writer, const ScratchFolder& folder) {
  store(writer.finish(), folder);
  folder.file(".metadata", writer.metadata());
  folder.file("metadata.json", torch_dist_metadata_json());
  folder.file("common.pt", common_state_file(12));
}

void add_examples(TorchDistWriter& writer) {
  writer.add({"decoder.layers.mlp.linear_fc1.weight", DType::kBF16, {2, 8, 4}, {{{0, 0, 0}, {1, 4, 4}}}});
  writer.add({"decoder.layers.mlp.linear_fc1.weight", DType::kBF16, {2, 8, 4}, {{{1, 0, 0}, {1, 4, 4}}}});
  writer.add({"embedding.word_embeddings.weight", DType::kF32, {1024, 300}, {}});
  writer.add({"decoder.layers.mlp.linear_fc1.weight",
              DType::kBF16,
              {2, 8, 4},
              {{{0, 4, 0}, {1, 4, 4}}, {{1, 4, 0}, {1, 4, 4}}}});
  writer.add({"scalar", DType::kI64, {}, {}});
  writer.add({"nothing", DType::kF16, {0, 7}, {}});
  writer.add({"experts", DType::kF8E4M3, {2, 1 << 20}, {{{0, 0}, {1, 1 << 20}}, {{1, 0}, {1, 1 << 20}}}});
  writer.add_object("a._extra_state/shard_0_1", empty_extra_state());
  writer.add_object("b._extra_state/shard_0_1", empty_extra_state());
}

TEST(TorchDistWriter, ReadsBack) {
  for (const int num_files : {1, 2, 5}) {
    TorchDistWriter writer({.num_files = num_files});
    add_examples(writer);
    const ScratchFolder folder;
    store(writer, folder);
    const auto reader = TorchDistReader::open(folder.path());
    ASSERT_EQ(reader->tensors().size(), 5u);
    EXPECT_EQ(reader->tensors()[0].name, "decoder.layers.mlp.linear_fc1.weight");
    EXPECT_EQ(reader->tensors()[0].chunks.size(), 4u);
    EXPECT_EQ(reader->tensors()[0].chunks[2].offset, Shape({0, 4, 0}));
    EXPECT_EQ(reader->iteration(), 12);
    EXPECT_LE(reader->files().size(), static_cast<size_t>(num_files));
    EXPECT_GE(reader->files().size(), std::min<size_t>(static_cast<size_t>(num_files), 2));
    for (const StoredTensor& tensor : reader->tensors())
      for (const StoredChunk& chunk : tensor.chunks) {
        std::string bytes(data_of(tensor, chunk).size(), '\0');
        File::open(reader->files()[chunk.file], File::Mode::kRead)
            .read(chunk.byte_offset, std::as_writable_bytes(std::span(bytes)));
        EXPECT_EQ(bytes, data_of(tensor, chunk)) << tensor.name;
        EXPECT_EQ(chunk.byte_offset % (bytes.size() >= kTorchDistLargeChunk ? kTorchDistPage : 64), 0u)
            << tensor.name;
      }
    EXPECT_EQ(reader->objects().size(), 2u);
    EXPECT_EQ(reader->read_value(reader->objects()[0]).as_tensor().shape, Shape({0}));
  }
}

// Each entry of the index is a zip archive of its own, with the right CRCs.
TEST(TorchDistWriter, EntriesAreWholeArchives) {
  TorchDistShard shard(3, 2);
  shard.add({"w", DType::kBF16, {3, 5}, {{{0, 0}, {2, 5}}, {{2, 0}, {1, 5}}}});
  shard.add({"big", DType::kI32, {1 << 18}, {}});
  shard.add_object("state/shard_0_1", std::string("any bytes"));
  const TargetLayout layout = shard.finish();
  const std::vector<std::string> files = fill(layout);
  const TorchDistIndex index = shard.take_index();
  EXPECT_EQ(index.files[0], "__3_0.distcp");
  EXPECT_TRUE(layout.gaps_are_zero);
  int archives = 0;
  for (const TorchDistTensor& tensor : index.tensors)
    for (const TorchDistChunk& chunk : tensor.chunks) {
      const std::string slice = files[chunk.place.file].substr(chunk.place.offset, chunk.place.size);
      const ZipArchive archive = ZipArchive::open(bytes_of(slice), "slice");
      ASSERT_EQ(archive.entries().size(), 4u);
      for (const ZipEntry& entry : archive.entries()) archive.read(entry, 4 << 20);
      EXPECT_EQ(archive.read(*archive.find("archive/version"), 10), "3\n");
      ++archives;
    }
  EXPECT_EQ(archives, 3);
}

// Every byte belongs to one literal, one chunk, or a gap that is zero; equal literals are one piece of memory.
TEST(TorchDistWriter, LayoutHasNoOverlaps) {
  TorchDistWriter writer({.num_files = 3});
  add_examples(writer);
  const TargetLayout layout = writer.finish();
  std::vector<std::vector<std::pair<uint64_t, uint64_t>>> ranges(layout.files.size());
  for (const Literal& literal : layout.literals)
    ranges[literal.file].emplace_back(literal.offset, literal.offset + literal.bytes.size());
  for (const StoredTensor& tensor : layout.tensors)
    for (const StoredChunk& chunk : tensor.chunks)
      ranges[chunk.file].emplace_back(chunk.byte_offset, chunk.byte_offset + data_of(tensor, chunk).size());
  for (size_t f = 0; f < ranges.size(); ++f) {
    std::sort(ranges[f].begin(), ranges[f].end());
    uint64_t end = 0;
    for (const auto& [from, to] : ranges[f]) {
      EXPECT_GE(from, end);
      end = to;
    }
    EXPECT_EQ(end, layout.files[f].size);
  }
  EXPECT_TRUE(
      std::is_sorted(layout.literals.begin(), layout.literals.end(), [](const Literal& a, const Literal& b) {
        return std::pair(a.file, a.offset) < std::pair(b.file, b.offset);
      }));
  EXPECT_TRUE(
      std::is_sorted(layout.crc_fields.begin(), layout.crc_fields.end(), [](const CrcField& a, const CrcField& b) {
        return std::pair(a.file, a.offset) < std::pair(b.file, b.offset);
      }));
  EXPECT_EQ(layout.literals[0].bytes.data(), layout.literals[1].bytes.data());
}

TEST(TorchDistWriter, RefusesWhatCannotBe) {
  const auto error = [](StoredTensor tensor) {
    TorchDistWriter writer;
    return error_of([&] {
      writer.add(std::move(tensor));
      writer.finish();
    });
  };
  EXPECT_THAT(error({"w", DType::kF4, {2, 2}, {}}), HasSubstr("elements of F4"));
  EXPECT_THAT(error({"w", DType::kQ8_0, {32}, {}}), HasSubstr("elements of Q8_0"));
  EXPECT_THAT(error({"w", DType::kF32, {4}, {{{0}, {3}}}}), HasSubstr("no chunk holds the box [3:4]"));
  EXPECT_THAT(error({"w", DType::kF32, {4}, {{{0}, {3}}, {{1}, {3}}}}), HasSubstr("two chunks"));
  TorchDistWriter writer;
  writer.add({"w", DType::kF32, {4}, {{{0}, {2}}}});
  EXPECT_THAT(error_of([&] { writer.add({"w", DType::kF32, {5}, {{{2}, {2}}}}); }), HasSubstr("[4]"));
  TorchDistWriter twice;
  twice.add({"w", DType::kF32, {4}, {}});
  twice.add_object("w", std::string("x"));
  EXPECT_THAT(error_of([&] { twice.finish(); }), HasSubstr("w is there twice"));
}

// Two processes' shards and one index.
TEST(TorchDistShard, IndexMergedFromMany) {
  TorchDistShard first(0, 1), second(1, 1);
  first.add({"w", DType::kF32, {4, 2}, {{{0, 0}, {2, 2}}}});
  first.add({"only_first", DType::kF32, {1}, {}});
  second.add({"w", DType::kF32, {4, 2}, {{{2, 0}, {2, 2}}}});
  second.add_object("state/shard_0_1", empty_extra_state());
  const ScratchFolder folder;
  store(first.finish(), folder);
  store(second.finish(), folder);
  const std::vector<TorchDistIndex> parts{first.take_index(), second.take_index()};
  const TorchDistIndex index = merge_indices(parts);
  folder.file(".metadata", write_torch_dist_metadata(index));
  const auto reader = TorchDistReader::open(folder.path());
  EXPECT_EQ(reader->find("w")->chunks.size(), 2u);
  EXPECT_EQ(reader->files().size(), 2u);
  EXPECT_EQ(reader->objects().size(), 1u);
  EXPECT_TRUE(reader->common_state().is_none());

  EXPECT_THAT(error_of([&] { merge_indices({parts[0]}); }), HasSubstr("no chunk holds the box [2:4, 0:2]"));
  EXPECT_THAT(error_of([&] { merge_indices({parts[0], parts[0]}); }), HasSubstr("a file __0_0.distcp"));
  TorchDistIndex other = parts[1];
  other.tensors[0].dtype = DType::kBF16;
  EXPECT_THAT(error_of([&] { merge_indices({parts[0], other}); }), HasSubstr("F32 [4, 2] in one part"));
}

// ---------------------------------------------------------------- damaged checkpoints

class DamagedTorchDist : public testing::Test {
 protected:
  DamagedTorchDist() {
    TorchDistShard shard(0, 1);
    shard.add({"w", DType::kF32, {4, 2}, {{{0, 0}, {2, 2}}, {{2, 0}, {2, 2}}}});
    shard.add_object("w._extra_state/shard_0_1", empty_extra_state());
    const TargetLayout layout = shard.finish();
    data_ = fill(layout)[0];
    index_ = shard.take_index();
    folder_.file("metadata.json", torch_dist_metadata_json());
  }
  std::string open() {
    folder_.file("__0_0.distcp", data_);
    folder_.file(".metadata", write_torch_dist_metadata(index_));
    return error_of([&] { open_torch_dist(folder_.path()); });
  }

  ScratchFolder folder_;
  TorchDistIndex index_;
  std::string data_;
};

TEST_F(DamagedTorchDist, Whole) { EXPECT_EQ(open(), ""); }

TEST_F(DamagedTorchDist, NoFolder) {
  EXPECT_THAT(error_of([&] { open_torch_dist(folder_ / "absent"); }), HasSubstr("no .metadata"));
  folder_.file("metadata.json", R"({"sharded_backend": "zarr", "sharded_backend_version": 1})");
  EXPECT_THAT(open(), HasSubstr("zarr"));
}

TEST_F(DamagedTorchDist, MissingFile) {
  index_.files[0] = "__7_0.distcp";
  EXPECT_THAT(open(), testing::AllOf(HasSubstr("__7_0.distcp is missing"), HasSubstr("lies in it")));
}

TEST_F(DamagedTorchDist, FilesOutsideOfTheFolder) {
  for (const char* name : {"../secret", "/etc/passwd", "a/../../b", ""}) {
    index_.files[0] = name;
    EXPECT_THAT(open(), HasSubstr("outside of the checkpoint's folder")) << name;
  }
}

TEST_F(DamagedTorchDist, TruncatedData) {
  data_.resize(data_.size() - 1);
  EXPECT_THAT(open(), testing::AllOf(HasSubstr("truncated"), HasSubstr("w")));
}

TEST_F(DamagedTorchDist, OverlappingEntries) {
  index_.tensors[0].chunks[1].place = index_.tensors[0].chunks[0].place;
  EXPECT_THAT(open(), HasSubstr("overlap"));
}

TEST_F(DamagedTorchDist, HolesAndOverlapsOfChunks) {
  index_.tensors[0].shape = {5, 2};
  EXPECT_THAT(open(), HasSubstr("tensor w of shape [5, 2]: no chunk holds the box [4:5, 0:2]"));
  index_.tensors[0].shape = {3, 2};
  EXPECT_THAT(open(), HasSubstr("reaches outside"));
}

TEST_F(DamagedTorchDist, PayloadOfAnotherTypeOrShape) {
  index_.tensors[0].dtype = DType::kI32;
  EXPECT_THAT(open(), testing::AllOf(HasSubstr("tensor w, chunk at [0, 0]"), HasSubstr("it holds F32 [2, 2]"),
                                     HasSubstr("the index says I32 [2, 2]")));
  index_.tensors[0].dtype = DType::kF32;
  for (TorchDistChunk& chunk : index_.tensors[0].chunks) chunk.size = {2, 3};
  index_.tensors[0].shape = {4, 3};
  EXPECT_THAT(open(), HasSubstr("the index says F32 [2, 3]"));
}

TEST_F(DamagedTorchDist, EntryThatIsNoTensor) {
  std::swap(index_.tensors[0].chunks[0].place, index_.objects[0].place);
  EXPECT_THAT(open(), HasSubstr("its object is no tensor"));
}

TEST_F(DamagedTorchDist, SliceOfTheWrongLength) {
  index_.tensors[0].chunks[0].place.size -= 1;
  EXPECT_THAT(open(), HasSubstr("no zip end record"));
}

// .metadata and the records of the data file, cut and changed everywhere: an error or a proper checkpoint, always
// in bounds.
TEST_F(DamagedTorchDist, MetadataTruncatedAndChanged) {
  const std::string whole = write_torch_dist_metadata(index_);
  for (size_t size = 0; size < whole.size(); ++size)
    EXPECT_THAT(error_of([&] { parse_torch_dist_metadata(whole.substr(0, size), "m"); }), HasSubstr("m: ")) << size;
  for (size_t i = 0; i < whole.size(); ++i)
    for (const int change : {1, 0x40, 0xff}) {
      std::string changed = whole;
      changed[i] = static_cast<char>(changed[i] ^ change);
      error_of([&] { parse_torch_dist_metadata(changed, "m"); });
    }
  EXPECT_THAT(error_of([&] { parse_torch_dist_metadata(whole + "x", "m"); }), HasSubstr("follow the end"));
}

TEST_F(DamagedTorchDist, DataChanged) {
  ASSERT_EQ(open(), "");
  const std::string whole = data_;
  size_t refused = 0;
  for (size_t i = empty_extra_state().size(); i < whole.size(); i += 7) {
    data_ = whole;
    data_[i] = static_cast<char>(data_[i] ^ 0x11);
    folder_.file("__0_0.distcp", data_);
    refused += !error_of([&] { open_torch_dist(folder_.path()); }).empty();
  }
  EXPECT_GT(refused, 20u);
}

TEST(TorchDistMetadata, TransformedEntriesAreRefused) {
  TorchDistIndex index{{"__0_0.distcp"}, {{"w", DType::kF32, {1}, {{{0}, {1}, {0, 0, 100}}}}}, {}};
  std::string bytes = write_torch_dist_metadata(index);
  // The last member of the place becomes transform_descriptors = ["zstd"].
  const std::string length = "\x8c\x06length";
  const size_t at = bytes.find(length);
  ASSERT_NE(at, std::string::npos);
  const size_t end = bytes.find("ub", at);
  bytes.insert(end, "\x8c\x15transform_descriptors]\x8c\x04zstda");
  bytes.replace(2, 9, "");  // without the frame, whose length is no longer right
  EXPECT_THAT(error_of([&] { parse_torch_dist_metadata(bytes, "m"); }), HasSubstr("stored transformed"));
}

TEST(TorchDistMetadata, RefusesWhatRunsCode) {
  EXPECT_THAT(error_of([] { parse_torch_dist_metadata("cos\nsystem\n(S'echo'\ntR.", "m"); }),
              HasSubstr("os.system"));
  EXPECT_THAT(error_of([] { parse_torch_dist_metadata("N.", "m"); }),
              HasSubstr("no index of a torch_dist checkpoint"));
}

// One list of chunks that many tensors share must not be multiplied.
TEST(TorchDistMetadata, SharedChunkListsStayInBounds) {
  const auto object = [](const std::string& name) {
    return "ctorch.distributed.checkpoint.metadata\n" + name + "\n)\x81";
  };
  std::string bytes = object("Metadata") + "}(Vstate_dict_metadata\n}(Vw\n" + object("TensorStorageMetadata") +
                      "}(Vproperties\n" + object("TensorProperties") +
                      "(ctorch\nfloat32\nNtbVsize\n(I200\ntVchunks\n](";
  for (int i = 0; i < 200; ++i)
    bytes += object("ChunkStorageMetadata") + "}(Voffsets\n(I" + std::to_string(i) + "\ntVsizes\n(I1\ntub";
  bytes += "eubp1\n";
  for (int i = 0; i < 50'000; ++i) bytes += "V" + std::to_string(i) + "\ng1\n";
  bytes += "uVstorage_data\n}(";
  for (int i = 0; i < 200; ++i) bytes += "NN";
  bytes += "uub.";
  EXPECT_THAT(error_of([&] { parse_torch_dist_metadata(bytes, "m"); }),
              HasSubstr("tensor 0: with its 200 chunks there are more chunks than the 200 stored entries"));
}

}  // namespace
}  // namespace viaduct::formats
