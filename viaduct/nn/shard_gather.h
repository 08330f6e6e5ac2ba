// ShardGather: whole tensors made of the shards that the ranks of a live model hold.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "viaduct/bridge/weight_graph.h"
#include "viaduct/layout/plan.h"
#include "viaduct/models/parameters.h"
#include "viaduct/nn/live_model.h"

namespace viaduct::nn {

/// A tensor to be made of whole parameters.
struct WantedTensor {
  Shape shape;
  DType dtype{};          // the type in which it is put together: that of the parameters
  layout::Pieces pieces;  // source: index into models::megatron_parameters; target: 0
};

/// Who holds what of a live model, and the transport.
class ShardGather {
 public:
  /// Collective, as all that follows. UserError as match_modules, and where ranks differ in layout or types.
  ShardGather(const ModelChunks& chunks, const parallel::Mesh& mesh, const models::ArchSpec& arch,
              std::string_view source);

  /// The model's parameters, and the types in which all ranks hold them: none for what no rank holds (multi-token
  /// prediction, of a model that runs without it).
  const std::vector<models::Parameter>& parameters() const { return parameters_; }
  const std::vector<std::optional<DType>>& held() const { return held_; }
  /// The same, with the types that an import of `source` stores for what no rank holds.
  std::vector<DType> held_or_imported(const bridge::Checkpoint& source) const;
  /// Do the ranks hold what a Hugging Face tensor of a graph of these parameters is made of?
  bool holds(const bridge::WeightGraph& graph, size_t hf_tensor) const;
  /// The type in which a Hugging Face tensor of a graph of these parameters is put together: that of its
  /// parameters, or float32 where they differ.
  DType numbers_of(const bridge::WeightGraph& graph, size_t hf_tensor) const;
  /// The device of the modules.
  c10::Device device() const { return device_; }
  /// This rank's tensors.
  const std::vector<LiveTensor>& live() const { return live_; }
  /// [member of the world]: what it holds, in the order of rank_parameters; for comparing replicas.
  std::vector<std::vector<bridge::RankParameter>> all_ranks() const;

  /// The tensors, whole, on the ranks that receive; elsewhere undefined tensors. Each rank that holds a part packs
  /// all of its parts into one message. `first_only`: member 0 of the world alone receives.
  std::vector<at::Tensor> gather(std::span<const WantedTensor> wanted, bool first_only) const;

 private:
  /// A piece of a message.
  struct Segment {
    size_t wanted = 0;
    int32_t tensor = 0;  // of the sending rank
    int32_t parameter = 0;
    int64_t offset = 0;  // in the message, bytes
    layout::Piece piece;
  };
  struct Message {
    std::vector<Segment> segments;
    int64_t size = 0;
  };

  void exchange_places();
  void exchange_tensors();
  void exchange_types();
  /// What a member of the world holds of its part of the model.
  std::vector<bridge::RankParameter> held_by(int member) const;
  /// [member of the world]: what it sends.
  std::vector<std::pair<int, Message>> plan(std::span<const WantedTensor> wanted) const;
  void pack(const Message& message, at::Tensor& bytes) const;
  void unpack(const Message& message, const at::Tensor& bytes, std::vector<at::Tensor>& result) const;
  void put(const Message& message, std::vector<at::Tensor>& result) const;

  const parallel::Mesh& mesh_;
  const models::ArchSpec& arch_;
  c10::Device device_;
  std::vector<models::Parameter> parameters_;
  std::vector<std::optional<DType>> held_;
  std::vector<LiveTensor> live_;
  std::vector<topology::Coordinates> places_;  // [member of the world]
  std::vector<std::vector<bool>> present_;     // [member of the world][of rank_parameters]: does it hold that?
  std::vector<int> holders_;                   // members of the world that together hold one whole model
  std::vector<layout::RankTensors> tensors_;   // beside holders_, in the order of rank_parameters
  std::vector<std::vector<int32_t>> ids_;      // beside tensors_: the parameters
  std::optional<layout::Planner> planner_;
};

}  // namespace viaduct::nn
