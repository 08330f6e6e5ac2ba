// torch_dist checkpoints (torch DCP as megatron-core writes it), one iteration folder.
#pragma once

#include <memory>
#include <optional>
#include <string_view>

#include "viaduct/core/json.h"
#include "viaduct/formats/iteration_folder.h"
#include "viaduct/formats/pickle_value.h"
#include "viaduct/formats/tensor_io.h"

namespace viaduct::formats {

/// Generations A (common.pt) and B (common_state inside of the data files). Opening reads the index and, of every
/// stored chunk, the records around its data; no tensor data moves.
class TorchDistReader : public TensorReader {
 public:
  /// UserError that names file, key and offset when an entry is outside of its file, when two overlap, when a
  /// payload's element type or shape is not what the index says, or when the chunks do not cover a tensor exactly
  /// once.
  static std::unique_ptr<TorchDistReader> open(const Path& folder);

  std::string_view format() const override { return "torch_dist"; }
  const std::vector<Path>& files() const override { return files_; }
  const std::vector<StoredTensor>& tensors() const override { return tensors_; }
  /// Bytes entries: _extra_state, common_state, rng_state.
  const std::vector<StoredObject>& objects() const override { return objects_; }

  /// The iteration folder, as it was given.
  const Path& folder() const { return folder_; }
  /// nullptr when there is none of that name.
  const StoredObject* find_object(std::string_view name) const;
  /// The object of a bytes entry. megatron-core stores a list with one object: that object, then.
  PickleValue read_value(const StoredObject& object) const;

  /// From common.pt, else from the entry common_state/shard_0_1; None when there is neither. Classes that are not
  /// plain data (Megatron-LM's args) are kObject.
  const PickleValue& common_state() const { return common_state_; }
  /// The entry of the common state; nullptr when absent.
  const PickleValue* content_metadata() const { return common_state_.find("content_metadata"); }
  /// The content of metadata.json; null when there is none (Megatron-FSDP, plain DCP).
  const Json& backend() const { return backend_; }
  /// From the common state, else from the folder's name.
  std::optional<int64_t> iteration() const;

  /// Takes `prefix` off the names of tensors and objects that have it: the wrapper's name that some trainers store
  /// ("module."). Before the first find. UserError when a name is there with it and without.
  void drop_prefix(std::string_view prefix);

 private:
  TorchDistReader() = default;
  void collect_plain_state();

  Path folder_;
  std::vector<Path> files_;
  std::vector<StoredTensor> tensors_;
  std::vector<StoredObject> objects_;
  PickleValue common_state_;
  Json backend_;
};

/// TorchDistReader::open.
std::unique_ptr<TensorReader> open_torch_dist(const Path& folder);

/// The common state alone, as TorchDistReader::common_state.
PickleValue read_common_state(const Path& folder);

/// True for a folder with a `.metadata` file.
bool is_torch_dist_directory(const Path& folder);

}  // namespace viaduct::formats
