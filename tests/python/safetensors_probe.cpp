// What the reader sees and what the writer lays out, for safetensors_test.py.
//   safetensors_probe list PATH               a line a tensor: dtype, shape, CRC-32 of the bytes, shard, name
//   safetensors_probe copy FOLDER TARGET      the same shards, headers and index, where they still hold
//   safetensors_probe split FOLDER TARGET N   own shards of at most N bytes
#include <cstdio>
#include <exception>
#include <string_view>

#include "viaduct/core/hash.h"
#include "viaduct/formats/hf_directory.h"
#include "viaduct/formats/safetensors_writer.h"

namespace {

using namespace viaduct;
using namespace viaduct::formats;

void list(const Path& path) {
  const auto reader = open_reader(path);
  for (const StoredTensor& tensor : reader->tensors()) {
    const std::string line =
        fmt::format("{}\t{}\t{}\t{}\t{}\n", tensor.dtype, tensor.shape, crc32(read_tensor(*reader, tensor)),
                    reader->files().at(tensor.chunks.at(0).file).filename().string(), tensor.name);
    std::fputs(line.c_str(), stdout);
  }
}

void lay_out(const Path& folder, const Path& target, std::optional<uint64_t> max_shard_size) {
  const auto source = open_hf_directory(folder);
  SafetensorsWriterOptions options;
  if (max_shard_size) {
    options.max_shard_size = *max_shard_size;
  } else {
    options.index_text = source->index_text();
    for (size_t i = 0; i < source->shard_names().size(); ++i)
      options.shards.push_back({source->shard_names()[i], std::string(source->header_text(i))});
  }
  SafetensorsWriter writer(options);
  for (StoredTensor tensor : source->tensors()) {
    const uint32_t shard = tensor.chunks.at(0).file;
    tensor.chunks.clear();
    if (max_shard_size) {
      writer.add(tensor);
    } else {
      writer.add(tensor, shard);
    }
  }
  const TargetLayout layout = writer.finish();
  std::filesystem::create_directories(target);
  std::vector<File> files;
  for (const TargetFile& file : layout.files) {
    files.push_back(File::open(target / file.name, File::Mode::kWrite));
    files.back().resize(file.size);
  }
  for (const Literal& literal : layout.literals)
    files.at(literal.file).write(literal.offset, std::as_bytes(std::span(literal.bytes.view())));
  for (const StoredTensor& tensor : layout.tensors)
    files.at(tensor.chunks.at(0).file)
        .write(tensor.chunks.at(0).byte_offset, read_tensor(*source, *source->find(tensor.name)));
  if (!writer.index_text().empty()) write_file(target / kHfIndexName, writer.index_text());
}

}  // namespace

int main(int argc, char** argv) {
  const std::string_view command = argc > 1 ? argv[1] : "";
  try {
    if (command == "list" && argc == 3) {
      list(argv[2]);
    } else if (command == "copy" && argc == 4) {
      lay_out(argv[2], argv[3], std::nullopt);
    } else if (command == "split" && argc == 5) {
      lay_out(argv[2], argv[3], std::stoull(argv[4]));
    } else {
      return 2;
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
