// A Hugging Face model folder: safetensors shards with their index, one safetensors file, or pytorch_model*.bin.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "viaduct/formats/hf_index.h"
#include "viaduct/formats/safetensors.h"
#include "viaduct/formats/tensor_io.h"

namespace viaduct::formats {

/// Files that the index does not list (Mistral's consolidated.safetensors) are not part of the model. Without an
/// index model.safetensors alone counts when it is there, else numbered shards (NAME-00001-of-00003.safetensors),
/// of which none may be missing, else all *.safetensors.
class HfDirectory : public TensorReader {
 public:
  std::string_view format() const override { return format_; }
  const std::vector<Path>& files() const override { return files_; }
  /// By shard, then by place in the shard.
  const std::vector<StoredTensor>& tensors() const override { return tensors_; }

  ReadBytes open(uint32_t file) const override;

  /// File names of the shards, in natural order; files() counts the same.
  const std::vector<std::string>& shard_names() const { return shard_names_; }
  /// A shard's safetensors header byte for byte; empty for other formats.
  std::string_view header_text(size_t shard) const { return headers_.at(shard).text; }
  /// A shard's __metadata__; empty for other formats.
  const std::vector<std::pair<std::string, std::string>>& metadata(size_t shard) const {
    return headers_.at(shard).metadata;
  }
  /// model.safetensors.index.json byte for byte; empty when there is none.
  const std::string& index_text() const { return index_text_; }
  /// The same, read: total_size and other metadata, the weight map in its order. Empty when there is none.
  const HfIndex& index() const { return index_; }

 private:
  struct ShardHeader {
    std::string text;
    std::vector<std::pair<std::string, std::string>> metadata;
  };
  friend std::unique_ptr<HfDirectory> open_hf_directory(const Path& folder, ReadFile data);
  void open_safetensors_shards(const Path& folder);
  void open_torch_shards(const Path& folder);
  void check_index(const Path& folder) const;
  void check_unique(const Path& folder) const;

  ReadFile data_;
  std::string_view format_;
  std::vector<Path> files_;
  std::vector<std::string> shard_names_;
  std::vector<ShardHeader> headers_;
  std::string index_text_;
  HfIndex index_;
  std::vector<StoredTensor> tensors_;
};

/// Does the folder hold weights in one of these forms? Only names are looked at.
bool has_hf_weights(const Path& folder);

/// UserError naming files and tensors: no weights at all, a shard that is missing, a tensor that the index lists
/// and its shard lacks (or the other way round), a tensor in two shards. With `data` the shards may be stubs, whose
/// data it reads.
std::unique_ptr<HfDirectory> open_hf_directory(const Path& folder, ReadFile data = nullptr);

}  // namespace viaduct::formats
