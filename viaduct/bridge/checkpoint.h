// Checkpoint: an opened source in either world, with its architecture and its tensors in plain coordinates (as the
// model's parameters or as Hugging Face tensors, without stacked axes).
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "viaduct/bridge/source_record.h"
#include "viaduct/bridge/transfer.h"
#include "viaduct/bridge/weight_graph.h"
#include "viaduct/core/json.h"
#include "viaduct/core/progress.h"
#include "viaduct/formats/pickle_value.h"
#include "viaduct/formats/tensor_io.h"

namespace viaduct::bridge {

/// A stored tensor, or the slice of a stacked one, as a tensor of its own.
struct PlainTensor {
  /// A box of it and the place that holds it.
  struct Chunk {
    Shape offset;       // in this tensor
    SourceChunk place;  // place.size is the chunk's box
  };
  std::string name;  // as stored, for messages
  DType dtype{};     // of its values; that of its places differs where they hold codes
  Shape shape;
  std::vector<Chunk> chunks;
};

/// A stored tensor as it is, whole.
PlainTensor plain_tensor(const formats::StoredTensor& stored);

/// The files of a source and the tensors in them.
struct StoredTensors {
  std::vector<Path> files;
  std::shared_ptr<const ByteStore> store;  // that they are read from; null: from the disk
  std::vector<PlainTensor> tensors;
  std::vector<Scales> scales;  // SourceChunk::scales counts here
  std::vector<ScaledForm> forms;
};

/// Just to.size() bytes at an offset of a file, for a few that are wanted at once.
void read_bytes(const StoredTensors& stored, uint32_t file, uint64_t offset, std::span<std::byte> to);

/// How the files of the store are read; null without one.
formats::ReadFile read_file(const StoredTensors& stored);

/// Whose tensors a checkpoint holds.
enum class World { kHuggingFace, kMegatron };

/// The piece that takes all of tensor `id` as tensor 0.
layout::Piece whole_piece(int32_t id, const Shape& shape);

/// Two stored tensors that must have the same bits: a tied copy and its original. Indices into stored().tensors.
struct Tie {
  int32_t copy = 0;
  int32_t original = 0;
};

/// A tensor that the source holds and that goes nowhere by itself, with the reason.
struct UnusedTensor {
  std::string name;
  std::string reason;
};

/// What a Megatron checkpoint says of the run that wrote it.
struct RunState {
  std::optional<int64_t> iteration;  // none: not of a run, or not said
  formats::PickleValue args;         // Megatron-LM's; None when another program wrote it
};

/// An opened source; what it says stays valid as long as it lives.
class Checkpoint {
 public:
  virtual ~Checkpoint() = default;

  /// Whose tensors stored() are.
  World world() const { return world_; }
  /// The path as it was opened: a folder, a .gguf file, or of a Megatron checkpoint the root or the iteration's
  /// folder.
  const Path& path() const { return path_; }

  /// The model, and how its parameters and Hugging Face tensors are made of each other.
  const models::ArchSpec& arch() const { return graph_.arch; }
  const WeightGraph& graph() const { return graph_; }

  /// The tensors that the files hold.
  const StoredTensors& stored() const { return stored_; }
  /// What of the source is known beyond its weights; always there, partly empty.
  const SourceRecord& record() const { return record_; }
  /// What a Megatron checkpoint says of its run; empty for others.
  const RunState& run_state() const { return run_state_; }
  /// Tensors of the source that go nowhere, in the order in which it lists them.
  const std::vector<UnusedTensor>& unused() const { return unused_; }
  /// What the user should know of the source, whatever becomes of it: rows of the vocabulary that go or come.
  const std::vector<std::string>& notes() const { return notes_; }
  /// Copies that must have the bits of another tensor; check_ties compares them.
  const std::vector<Tie>& ties() const { return ties_; }
  /// Derived tensors that no parameter holds and that import keeps beside the checkpoint: indices into
  /// stored().tensors.
  const std::vector<int32_t>& kept() const { return kept_; }

  /// Pieces of stored().tensors (source ids) that make a parameter, or a Hugging Face tensor, of the graph (target
  /// 0).
  layout::Pieces parameter_pieces(size_t parameter) const;
  layout::Pieces hf_pieces(size_t hf_tensor) const;
  /// The same for a tensor of another graph of the same parameters: other Hugging Face names and forms.
  layout::Pieces hf_pieces_in(const WeightGraph& graph, size_t hf_tensor) const;
  /// The element type of what these pieces of stored().tensors make: the widest of its parts.
  DType dtype_of(const layout::Pieces& pieces) const;

  /// Gives the model `rows` tokens: embedding and output layer lose their last rows or get rows of zeros,
  /// config.json follows, and notes() name the tensors and count the rows. Without `rows` the model stays;
  /// UserError when stored rows beyond its vocabulary hold values and cannot be padding.
  void fit_vocabulary(std::optional<int64_t> rows);
  /// What the source is called where that is not its path: a name of the hub, and the commit.
  void set_origin(std::string name, std::string revision) {
    record_.origin = std::move(name);
    record_.revision = std::move(revision);
  }

 protected:
  Checkpoint(World world, Path path) : world_(world), path_(std::move(path)) {}

  World world_;
  Path path_;
  WeightGraph graph_;
  /// Pieces of stored_.tensors that make the parameter or Hugging Face tensor `id`, by world.
  layout::Pieces own_pieces(size_t id) const;
  /// `pieces` with such ids as sources, as pieces of stored_.tensors.
  layout::Pieces through_own(layout::Pieces pieces) const;

  StoredTensors stored_;
  std::vector<int32_t> own_;                            // [id]: the stored tensor that it is; -1: see made_of_
  std::unordered_map<size_t, layout::Pieces> made_of_;  // of those that are not one whole stored tensor
  SourceRecord record_;
  std::vector<UnusedTensor> unused_;
  std::vector<Tie> ties_;
  std::vector<int32_t> kept_;
  RunState run_state_;
  std::vector<std::string> notes_;

 private:
  void resize_rows(size_t id, const Shape& before, const Shape& after);
  void resize_record(int64_t rows);
};

/// Which part of a source is opened, and what is taken from elsewhere.
struct OpenOptions {
  std::optional<int64_t>
      iteration;                  // of a Megatron root with several iter_* folders; none: the newest complete one
  std::optional<Path> reference;  // a Hugging Face folder that gives config, tokenizer and shard names
  std::optional<int64_t> vocab_size;       // tokens to give to the model; none: as many as it has
  std::shared_ptr<const ByteStore> store;  // of a Hugging Face folder whose shards are stubs: where their data lie
};

/// Opens a Hugging Face folder, a GGUF file, or a Megatron checkpoint (root or iter_* folder). UserError when it is
/// neither, when its family is not supported, or when a tensor is missing, doubled or has another shape than the
/// configuration says: all such tensors are listed at once.
std::unique_ptr<Checkpoint> open_checkpoint(const Path& path, const OpenOptions& options = {});

/// open_checkpoint of a path, or of a name of the hub ("org/name", "org/name@revision"): that is downloaded, found
/// in the cache, and becomes the record's origin. UserError as open_checkpoint and hub::resolve_model.
std::unique_ptr<Checkpoint> fetch_checkpoint(const std::string& path_or_name, const OpenOptions& options = {},
                                             Progress* progress = nullptr);

/// Any checkpoint as its format lists it, whatever the architecture: each stored tensor whole.
struct RawCheckpoint {
  StoredTensors stored;
  std::string format;
};
/// UserError as formats::open_reader and formats::find_iteration.
RawCheckpoint open_raw_checkpoint(const Path& path, std::optional<int64_t> iteration = std::nullopt);

/// Does `path` look like a Megatron checkpoint (root or iteration folder)?
bool is_megatron_checkpoint(const Path& path);

}  // namespace viaduct::bridge
