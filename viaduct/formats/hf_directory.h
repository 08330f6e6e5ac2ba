// A Hugging Face model folder: safetensors shards with their index, one safetensors file, or pytorch_model*.bin.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "viaduct/formats/safetensors.h"
#include "viaduct/formats/tensor_io.h"

namespace viaduct::formats {

/// Files that the index does not list (Mistral's consolidated.safetensors) are not part of the model. Without an index
/// all *.safetensors count, model.safetensors alone when it is there.
class HfDirectory : public TensorReader {
 public:
  std::string_view format() const override { return format_; }
  const std::vector<Path>& files() const override { return files_; }
  const std::vector<StoredTensor>& tensors() const override { return tensors_; }

  /// File names of the shards, in order; files() counts the same.
  const std::vector<std::string>& shard_names() const { return shard_names_; }
  /// A shard's safetensors header byte for byte; empty for other formats.
  std::string_view header_text(size_t shard) const { return headers_.at(shard); }
  /// model.safetensors.index.json byte for byte; empty when there is none.
  const std::string& index_text() const { return index_text_; }

 private:
  friend std::unique_ptr<HfDirectory> open_hf_directory(const Path& folder);
  void open_safetensors_shards(const Path& folder);
  void open_torch_shards(const Path& folder);

  std::string_view format_;
  std::vector<Path> files_;
  std::vector<std::string> shard_names_;
  std::vector<std::string> headers_;
  std::string index_text_;
  std::vector<StoredTensor> tensors_;
};

bool has_hf_weights(const Path& folder);

/// UserError naming files and tensors: no weights at all, a shard that the index names and that is missing, a tensor
/// that the index lists and its shard lacks (or the other way round), a tensor in two shards.
std::unique_ptr<HfDirectory> open_hf_directory(const Path& folder);

}  // namespace viaduct::formats
