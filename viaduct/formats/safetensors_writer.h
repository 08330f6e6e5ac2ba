// Layout of safetensors files, single or sharded.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "viaduct/formats/tensor_io.h"

namespace viaduct::formats {

/// A shard that is wanted as the source had it.
struct SafetensorsShard {
  std::string name;    // "model-00001-of-00003.safetensors"
  std::string header;  // the source's header text; used when it describes exactly what the shard will hold
};

/// How the tensors are spread over files, and what is kept of the source's own text. Own headers are padded so that
/// the data begins at a multiple of 8; tensors keep the order in which they were added unless one would begin off
/// its element's size.
struct SafetensorsWriterOptions {
  std::vector<SafetensorsShard> shards;     // empty: shards are cut by size
  uint64_t max_shard_size = 5'000'000'000;  // bytes of tensor data; a larger tensor has a shard of its own
  std::string index_text;                   // the source's index; kept when it lists exactly the shards' tensors
  std::vector<std::pair<std::string, std::string>> metadata = {{"format", "pt"}};
};

/// Decides shards, offsets and the text of headers; tensors are given by `add`, in the order of their data.
class SafetensorsWriter : public TensorWriter {
 public:
  /// With a list of shards the tensors say which is theirs; without one, shards are cut by size.
  explicit SafetensorsWriter(SafetensorsWriterOptions options);

  std::string_view format() const override { return "safetensors"; }
  /// Cut by size: tensors fill shards in order.
  void add(StoredTensor tensor) override;
  /// Into shard `shard` of the options' list.
  void add(StoredTensor tensor, uint32_t shard);
  /// UserError for a tensor that was added twice. A shard of the list that got no tensor is left out.
  TargetLayout finish() override;
  /// The index file's content after finish(); empty when there is a single file and the source had no index.
  std::string index_text() const { return index_text_; }

 private:
  void assign_shards();
  void align(std::vector<uint32_t>& tensors) const;
  std::string header_text(const std::vector<uint32_t>& tensors) const;

  SafetensorsWriterOptions options_;
  std::vector<StoredTensor> tensors_;
  std::vector<uint32_t> shard_of_;
  std::string index_text_;
};

/// The bytes of a whole small file: header and data, tensors in order, metadata {"format": "pt"}.
std::string safetensors_file(const std::vector<std::pair<StoredTensor, std::vector<std::byte>>>& tensors);

}  // namespace viaduct::formats
