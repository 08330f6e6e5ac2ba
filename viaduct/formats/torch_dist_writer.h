// Lays out torch_dist checkpoints (generation A) that torch, megatron-core and Megatron-Bridge load.
//
// Two parts: a shard is what one process stores, its data files; the index is merged from the shards of all
// processes. Conversion has one shard (TorchDistWriter), parallel saves several.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "viaduct/formats/tensor_io.h"
#include "viaduct/formats/torch_dist_files.h"
#include "viaduct/formats/torch_dist_metadata.h"

namespace viaduct::formats {

/// Chunks of this many bytes or more start at a multiple of kTorchDistPage in their file, smaller ones at 64.
inline constexpr uint64_t kTorchDistLargeChunk = 1u << 20;
/// What the data of large chunks are aligned to, for O_DIRECT.
inline constexpr uint64_t kTorchDistPage = 4096;

/// Lays out the data files of one process.
class TorchDistShard {
 public:
  /// Files are called __{rank}_0.distcp, __{rank}_1.distcp, ...: at most `num_files`, about equally large.
  TorchDistShard(int rank, int num_files);

  /// Chunks of a tensor (none: one chunk, the whole); further calls with the same name add further chunks. Data lie
  /// in the order of the calls. UserError for an element type that torch has not or that is smaller than a byte,
  /// and when calls of one name disagree.
  void add(StoredTensor tensor);
  /// A bytes entry, `bytes` being what torch.save gives. Entries lie at the start of the first file.
  void add_object(std::string name, SharedBytes bytes);

  /// Files with the chunks' places, the records around them and the fields for their CRCs. Tensors are in the order
  /// of their first add, the chunks of each in the order of the calls. Called once.
  TargetLayout finish();
  /// What lies where, after finish(). Called once.
  TorchDistIndex take_index() { return std::move(index_); }

 private:
  /// The archive of a chunk of one element type and shape: the same bytes wherever it lies.
  struct EntryTemplate {
    SharedBytes head, tail;
    uint64_t data_bytes = 0;
    std::vector<uint64_t> crc_offsets;  // from the archive's start
  };
  using Key = std::pair<DType, Shape>;
  struct KeyHash {
    size_t operator()(const Key& key) const;
  };
  std::pair<const Key*, const EntryTemplate*> entry_template(DType dtype, const Shape& shape);

  int rank_;
  int num_files_;
  struct Unit {
    uint32_t tensor;
    uint32_t chunk;
  };

  std::vector<StoredTensor> tensors_;
  std::unordered_map<std::string, uint32_t> ids_;
  std::vector<Unit> units_;  // chunks in the order of the calls
  std::vector<std::pair<std::string, SharedBytes>> objects_;
  std::unordered_map<Key, EntryTemplate, KeyHash> templates_;
  TorchDistIndex index_;
};

/// How many data files are written.
struct TorchDistOptions {
  int num_files = 1;
};

/// The data of a whole iteration folder by one process.
class TorchDistWriter : public TensorWriter {
 public:
  /// One shard of rank 0 with options.num_files files.
  explicit TorchDistWriter(const TorchDistOptions& options = {}) : shard_(0, options.num_files) {}

  std::string_view format() const override { return "torch_dist"; }
  void add(StoredTensor tensor) override { shard_.add(std::move(tensor)); }
  /// As TorchDistShard::add_object.
  void add_object(std::string name, SharedBytes bytes) { shard_.add_object(std::move(name), std::move(bytes)); }
  /// The data files. UserError when chunks do not cover a tensor exactly once or a key is there twice.
  TargetLayout finish() override;
  /// `.metadata` of what finish() laid out. The folder's other small files are in torch_dist_files.h.
  std::string metadata(const Path& checkpoint_id = {}) const;

 private:
  TorchDistShard shard_;
  TorchDistIndex index_;
};

}  // namespace viaduct::formats
