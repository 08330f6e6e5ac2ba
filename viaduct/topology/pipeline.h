// Pipeline: which layer is in which pipeline stage and model chunk.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace viaduct::topology {

/// What a stage may hold; kLoss is the output layer with the loss.
enum class LayerKind { kEmbedding, kTransformer, kMtp, kLoss };

/// What stages hold, in the order in which data runs through them: stage i is pipeline rank i % pp, chunk i / pp.
using StageList = std::vector<std::vector<LayerKind>>;

/// Reads a pipeline_model_parallel_layout: E embedding, t transformer layer, m MTP layer, L loss, '|' between
/// stages, x*N and (...)*N repetition, commas for the eye. "Et*2|(tt|)*2mL" is [E t t] [t t] [t t] [m L].
/// Parentheses do not nest. UserError with the place in the text.
StageList parse_layout(std::string_view text);
/// The same from lists of names ("embedding", "decoder", "mtp", "loss", in any case), the other form that configs
/// use.
StageList layout_from_names(const std::vector<std::vector<std::string>>& stages);
/// The shortest plain spelling: "Ett|tt|tt|mL".
std::string to_string(const StageList& stages);

/// What makes pipeline stages uneven; upstream's fields of the same names.
struct PipelineSplit {
  std::optional<int> num_layers_in_first_pipeline_stage;
  std::optional<int> num_layers_in_last_pipeline_stage;
  bool account_for_embedding_in_pipeline_split = false;
  bool account_for_loss_in_pipeline_split = false;
  std::optional<StageList> pipeline_model_parallel_layout;

  /// Is any of them set?
  bool given() const { return *this != PipelineSplit{}; }
  friend bool operator==(const PipelineSplit&, const PipelineSplit&) = default;
};

/// How a model's layers are spread; upstream's fields of the same names.
struct PipelineOptions {
  int num_layers = 0;
  int mtp_num_layers = 0;
  int pipeline_model_parallel_size = 1;
  int virtual_pipeline_model_parallel_size = 1;
  std::optional<int> num_layers_in_first_pipeline_stage;
  std::optional<int> num_layers_in_last_pipeline_stage;
  bool account_for_embedding_in_pipeline_split = false;
  bool account_for_loss_in_pipeline_split = false;
  std::optional<StageList> pipeline_model_parallel_layout;

  /// The fields of a split.
  void set_split(const PipelineSplit& split);
};

/// Which model chunk of which pipeline rank holds each layer of a model.
class Pipeline {
 public:
  /// A model chunk: a pipeline rank and one of its chunks.
  struct Chunk {
    int pp_rank;
    int chunk;
    friend bool operator==(const Chunk&, const Chunk&) = default;
  };
  /// A layer in its chunk: the index among the chunk's transformer (or MTP) layers, as in "decoder.layers.<index>".
  struct Place {
    Chunk chunk;
    int index;
    friend bool operator==(const Place&, const Place&) = default;
  };

  /// UserError that names the fields which do not fit each other. A layout decides the number of chunks itself when
  /// virtual_pipeline_model_parallel_size is 1.
  explicit Pipeline(const PipelineOptions& options);

  /// Transformer layers of the whole model.
  int num_layers() const { return num_layers_; }

  /// Pipeline stages, and model chunks of each.
  int pp() const { return pp_; }
  int vpp() const { return vpp_; }

  /// Where transformer layer `layer` (counted from 0 over the whole model) is, and back.
  Place place_of(int layer) const;
  int layer_at(const Place& place) const;

  /// Number of transformer layers of a chunk, and the first of them.
  int layers_in(const Chunk& chunk) const;
  int first_layer_of(const Chunk& chunk) const;

  /// The chunk of the embedding, and that of the output layer.
  Chunk embedding() const { return {0, 0}; }
  Chunk loss() const { return {pp_ - 1, vpp_ - 1}; }
  /// The chunk of all MTP layers; nullopt when the model has none.
  std::optional<Chunk> mtp() const { return mtp_; }
  /// The chunk with decoder.final_layernorm: the loss's, or for models with MTP layers that of the last layer.
  Chunk final_norm() const;

 private:
  size_t position(const Chunk& chunk) const;
  void place_evenly(const PipelineOptions& options);
  void place_by_layout(const PipelineOptions& options);

  int num_layers_;
  int pp_;
  int vpp_;
  std::vector<int> counts_;  // transformer layers of each chunk, in the order of the data
  std::vector<int> begins_;  // and the first of them; one more entry than counts_
  std::optional<Chunk> mtp_;
};

}  // namespace viaduct::topology
