// What the reader says of a checkpoint, and a checkpoint written again by our writer, for comparison with torch's
// own.
//
//   torch_dist_probe read PATH          a JSON object: tensors (dtype, shape, CRC-32 of the row-major bytes),
//   objects torch_dist_probe rewrite FROM TO N  the iteration folder FROM laid out anew in TO with N data files
//   torch_dist_probe make TO N          N random-sized tensors of every element type
#include <cstdio>
#include <cstring>
#include <map>
#include <random>

#include "viaduct/core/error.h"
#include "viaduct/core/hash.h"
#include "viaduct/core/json.h"
#include "viaduct/formats/torch_dist.h"
#include "viaduct/formats/torch_dist_writer.h"
#include "viaduct/formats/torch_file.h"

namespace viaduct::formats {
namespace {

Json json_shape(const Shape& shape) {
  Json array = Json::array();
  for (const int64_t size : shape) array.items().push_back(size);
  return array;
}

std::unique_ptr<TensorReader> open(const Path& path) {
  if (std::filesystem::is_directory(path)) return open_torch_dist(resolve_iteration(path));
  return open_torch_file(path, {.unknown_classes = true});
}

void read(const Path& path) {
  const std::unique_ptr<TensorReader> reader = open(path);
  Json tensors = Json::object();
  for (const StoredTensor& tensor : reader->tensors()) {
    const std::vector<std::byte> bytes = read_tensor(*reader, tensor);
    tensors.set(tensor.name, Json::object({{"dtype", torch_name(tensor.dtype)},
                                           {"shape", json_shape(tensor.shape)},
                                           {"chunks", static_cast<int64_t>(tensor.chunks.size())},
                                           {"crc32", static_cast<int64_t>(crc32(bytes))}}));
  }
  Json objects = Json::object();
  for (const StoredObject& object : reader->objects())
    objects.set(object.name, static_cast<int64_t>(crc32(read_object(*reader, object))));
  Json result = Json::object({{"tensors", tensors}, {"objects", objects}});
  if (const auto* dist = dynamic_cast<const TorchDistReader*>(reader.get())) {
    result.set("common_state", dist->common_state().to_text(400));
    if (dist->iteration()) result.set("iteration", *dist->iteration());
  }
  std::puts(result.dump().c_str());
}

void write_at(std::map<uint32_t, File>& files, uint32_t file, uint64_t offset, std::string_view bytes) {
  files.at(file).write(offset, std::as_bytes(std::span(bytes)));
}

// Fills a layout with what `data` gives for each chunk.
template <class Data>
void fill(const Path& to, TorchDistWriter& writer, const Data& data) {
  const TargetLayout layout = writer.finish();
  std::filesystem::create_directories(to);
  std::map<uint32_t, File> files;
  for (uint32_t f = 0; f < layout.files.size(); ++f) {
    files[f] = File::open(to / layout.files[f].name, File::Mode::kWrite);
    files[f].resize(layout.files[f].size);
  }
  for (const Literal& literal : layout.literals) write_at(files, literal.file, literal.offset, literal.bytes);
  std::map<std::pair<uint32_t, uint32_t>, uint32_t> crcs;
  for (uint32_t t = 0; t < layout.tensors.size(); ++t) {
    for (uint32_t c = 0; c < layout.tensors[t].chunks.size(); ++c) {
      const StoredChunk& chunk = layout.tensors[t].chunks[c];
      const std::string bytes = data(layout.tensors[t], chunk);
      crcs[{t, c}] = crc32(std::as_bytes(std::span(bytes)));
      write_at(files, chunk.file, chunk.byte_offset, bytes);
    }
  }
  for (const CrcField& field : layout.crc_fields) {
    const uint32_t crc = crcs.at({field.tensor, field.chunk});
    write_at(files, field.file, field.offset, {reinterpret_cast<const char*>(&crc), sizeof crc});
  }
  write_file(to / ".metadata", writer.metadata(to));
  write_file(to / "metadata.json", torch_dist_metadata_json());
}

void rewrite(const Path& from, const Path& to, int num_files) {
  const auto reader = TorchDistReader::open(resolve_iteration(from));
  TorchDistWriter writer({.num_files = num_files});
  for (StoredTensor tensor : reader->tensors()) {
    for (StoredChunk& chunk : tensor.chunks) chunk = {chunk.offset, chunk.size};
    writer.add(std::move(tensor));
  }
  for (const StoredObject& object : reader->objects()) {
    const std::vector<std::byte> bytes = read_object(*reader, object);
    if (object.name != "common_state/shard_0_1")
      writer.add_object(object.name, std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  }
  fill(to, writer, [&](const StoredTensor& tensor, const StoredChunk& chunk) {
    const StoredTensor* source = reader->find(tensor.name);
    for (const StoredChunk& stored : source->chunks) {
      if (!(stored.offset == chunk.offset)) continue;
      VIADUCT_CHECK(stored.strides.empty(), "{}", tensor.name);
      std::string bytes(static_cast<size_t>(num_bytes(tensor.dtype, num_elements(chunk.size))), '\0');
      File::open(reader->files()[stored.file], File::Mode::kRead)
          .read(stored.byte_offset, std::as_writable_bytes(std::span(bytes)));
      return bytes;
    }
    throw InternalError("no chunk");
  });
  write_file(to / "common.pt", common_state_file(reader->iteration().value_or(0)));
  write_file(to / "train_state.pt", train_state_file(7));
}

void make(const Path& to, int count) {
  std::mt19937 random(7);
  TorchDistWriter writer({.num_files = 3});
  constexpr DType kTypes[] = {DType::kF64, DType::kF32,  DType::kF16,    DType::kBF16,   DType::kI64,
                              DType::kI32, DType::kI16,  DType::kI8,     DType::kU8,     DType::kBool,
                              DType::kC64, DType::kC128, DType::kF8E4M3, DType::kF8E5M2, DType::kF8E8M0,
                              DType::kU16, DType::kU32,  DType::kU64};
  for (int i = 0; i < count; ++i) {
    StoredTensor tensor{fmt::format("t{}", i), kTypes[static_cast<size_t>(i) % std::size(kTypes)], {}, {}};
    const int rank = static_cast<int>(random() % 6);
    for (int axis = 0; axis < rank; ++axis) tensor.shape.push_back(1 + random() % 9);
    if (i == 5) tensor.shape = {0, 3};
    if (i == 6) tensor.shape = {300, 5000};  // large enough for a page of its own
    writer.add(std::move(tensor));
  }
  writer.add_object("some._extra_state/shard_0_1", empty_extra_state());
  fill(to, writer, [](const StoredTensor& tensor, const StoredChunk& chunk) {
    std::string bytes(static_cast<size_t>(num_bytes(tensor.dtype, num_elements(chunk.size))), '\0');
    for (size_t b = 0; b < bytes.size(); ++b)
      bytes[b] = static_cast<char>(tensor.dtype == DType::kBool ? b % 2 : (b * 37 + tensor.name.size()) % 100);
    return bytes;
  });
  write_file(to / "common.pt", common_state_file(0));
}

}  // namespace
}  // namespace viaduct::formats

int main(int argc, char** argv) {
  using namespace viaduct;
  try {
    const std::string command = argc > 2 ? argv[1] : "";
    if (command == "read")
      formats::read(argv[2]);
    else if (command == "rewrite" && argc == 5)
      formats::rewrite(argv[2], argv[3], std::atoi(argv[4]));
    else if (command == "make" && argc == 4)
      formats::make(argv[2], std::atoi(argv[3]));
    else
      return std::fputs("torch_dist_probe read PATH | rewrite FROM TO FILES | make TO TENSORS\n", stderr), 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
  return 0;
}
